"""A person's own annotations become a dataset folder: descriptor, annotations, images (docs/your_data.md)."""
