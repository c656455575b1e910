"""From files to samples to batches: annotation files, readers, converters, mixture, loading."""
