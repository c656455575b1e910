"""Teaches a model: stages, objective, Hugging Face's Trainer on our mixture, run folders."""
