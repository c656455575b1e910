"""Writes the ids of a row's images, videos and regions into its words, which hold one placeholder for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ullava.errors import SampleError
from ullava.examples import ImageExample, RegionExample, VideoExample
from ullava.text.tokens import IGNORE_LABEL

Ids = NDArray[np.int64]


def expand_places(
    name: str,
    ids: Ids,
    labels: Ids,
    images: Sequence[ImageExample],
    videos: Sequence[VideoExample],
    regions: Sequence[RegionExample] = (),
    *,
    token_ids: Mapping[str, int],
    max_length: int,
) -> tuple[Ids, Ids]:
    """Write each item's placeholder as often as it has tokens; one whose count is open keeps a single marker.

    An image with ``text_ids`` of its own gets those. Open counts are budgeted at their upper bound, so that no row
    grows past ``max_length`` in the network. Raises SampleError (of ``name``) for a row that is longer, and for one
    whose placeholders and items do not number the same.
    """
    repeats = np.ones_like(ids)
    longest = len(ids)
    kinds: tuple[tuple[str, Sequence[ImageExample | VideoExample | RegionExample]], ...] = (
        ("image_patch_id", images),
        ("video_patch_id", videos),
        ("region_patch_id", regions),
    )
    for key, items in kinds:
        markers = np.flatnonzero(ids == token_ids.get(key, -1))
        if len(markers) != len(items):
            raise SampleError(name, f"the model's chat template has no place for {key.split('_')[0]}s")
        repeats[markers] = [item.count.low if item.count.exact else 1 for item in items]
        longest += sum(item.count.high for item in items) - len(items)
    if longest > max_length:
        raise SampleError(name, f"{longest} tokens, more than max_length {max_length}; nothing is cut")
    if any(image.text_ids is not None for image in images):
        return _with_text_ids(ids, labels, images, token_ids["image_patch_id"])
    return ids.repeat(repeats), labels.repeat(repeats)


def _with_text_ids(ids: Ids, labels: Ids, images: Sequence[ImageExample], patch_id: int) -> tuple[Ids, Ids]:
    markers = np.flatnonzero(ids == patch_id)
    cuts = np.sort(np.concatenate([markers, markers + 1]))
    words, told = np.split(ids, cuts), np.split(labels, cuts)
    for number, image in enumerate(images):  # words, an image, words, an image, ..., words
        words[2 * number + 1] = cast(Ids, image.text_ids)
        told[2 * number + 1] = np.full_like(words[2 * number + 1], IGNORE_LABEL)
    return np.concatenate(words), np.concatenate(told)
