"""A person's own annotations become a dataset folder: descriptor, annotations, pictures (docs/your_data.md)."""
