"""``ullava bench``: fixed synthetic work through the real readers, processor, model and metrics, timed."""
