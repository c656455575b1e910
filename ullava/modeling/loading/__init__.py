"""The one door to pretrained files: reading, strict judging, templates."""
