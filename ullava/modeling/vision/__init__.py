"""Vision strategies: an image in, visual tokens out. They know nothing of token ids, labels, SAM or the LLM."""
