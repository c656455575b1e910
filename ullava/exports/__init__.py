"""Answers as objects of other libraries (supervision, FiftyOne, Pillow) and as files of annotation tools."""
