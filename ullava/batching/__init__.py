"""Rows -> batches, for the loader of training and for the processor's call alike."""
