"""What a person looks at: the demo and its report. May import everything up to ``ullava.evaluation``."""
