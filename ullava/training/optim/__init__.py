"""What is optimized and how: stages, adapters, objective, optimizers, learning rates."""
