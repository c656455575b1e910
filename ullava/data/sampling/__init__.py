"""Which samples come when: the mixture of datasets, grouping by length, word dropout."""
