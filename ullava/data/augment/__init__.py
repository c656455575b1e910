"""Augmentations of training samples: images, masks, boxes and words change together."""

from ullava.data.augment.augmenter import Augmenter

__all__ = ["Augmenter"]
