"""Converters of foreign annotations: a person's own (imported), the authors' (published)."""
