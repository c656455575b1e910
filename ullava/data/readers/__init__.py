"""One reader for each annotation layout; ``ullava.data.layouts`` is the table of them."""
