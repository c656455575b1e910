"""Vision towers: what a vision encoder has to know of each kind, and one table of them (docs/vision_encoders.md)."""
