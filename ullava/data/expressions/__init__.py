"""Referring expressions by rule for photographs whose objects are all annotated: ``ullava data expressions``."""
