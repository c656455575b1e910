"""Several models, or one in several settings, asked the same questions and compared."""
