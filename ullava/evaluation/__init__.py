"""Measures a model: metrics, protocols (``generate``, ``teacher_forced``, ``text_box``), results on disk, tables."""
