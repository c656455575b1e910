"""Answering: load a model, ask questions, draw what it found."""
