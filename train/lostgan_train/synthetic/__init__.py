"""Procedural landscapes: the data set that is always at hand, in COCO-Stuff's format, with true masks."""
