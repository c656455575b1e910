"""From dataset.yaml and recipes to encoded rows: descriptors, building, encoding, statistics."""
