"""One reader for each annotation layout; ``ullava.data.build`` picks them by name."""
