"""Annotation files on disk: JSON read in a stream, kept as Arrow, found by name."""
