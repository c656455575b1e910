"""The synthetic world: scenes of shapes with images, masks and words that are true of them by construction."""
