"""Models made: from model.yaml, from a saved folder, with new heads, for the Auto classes."""
