"""The drawn world: scenes of shapes with pictures, masks and words that are true of them by construction."""
