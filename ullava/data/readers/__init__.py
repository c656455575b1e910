"""One reader for each annotation layout; ``ullava.data.readers.layouts`` is the table of them."""
