"""From files to samples to batches: annotation readers, templates, images, mixture, collation, the synthetic world."""
