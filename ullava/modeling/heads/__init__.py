"""Heads read hidden states at ``[SEG]`` and ``[LOC]`` and say where things are, in their own frames."""
