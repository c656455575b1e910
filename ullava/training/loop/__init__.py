"""The run from end to end: start, trainer, steps, checkpoints, resume, end."""
