"""Masks made from boxes (``ullava data pseudo-masks``): cut by class, dealt out to the boxes, judged, written."""
