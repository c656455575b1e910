"""Vision towers: what a front-end has to know of each kind, and one table of them (docs/front_ends.md)."""
