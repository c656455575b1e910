"""Weights, gradients and checkpoints shared out over processes."""
