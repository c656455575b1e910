"""Vision strategies: a picture in, visual tokens out. They know nothing of token ids, labels, SAM or the LLM."""
