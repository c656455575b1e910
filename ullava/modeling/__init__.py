"""The network of transformers' own parts: language model, vision strategy, mask and box heads, and the processor."""
