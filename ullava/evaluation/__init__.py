"""Measures a model: metrics, the two protocols (``generate`` and ``teacher_forced``), results on disk, tables."""
