"""Puts a row's images, videos and regions into its words, which hold one placeholder for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullava.errors import SampleError, UserError
from ullava.examples import ImageExample, RegionExample, VideoExample
from ullava.modeling.processing.tokenizing import Shown, TokenizedRow
from ullava.structures import Sample

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

    Open counts are budgeted at their upper bound, so that no row grows past ``max_length`` in the network. Raises
    SampleError (of ``name``) for a row that is longer, and for one whose placeholders and items do not number the same.
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
    return ids.repeat(repeats), labels.repeat(repeats)


def row_with_media(
    processor: Any,
    sample: Sample,
    images: Sequence[ImageExample],
    videos: Sequence[VideoExample],
    words: TokenizedRow | Callable[[Shown], TokenizedRow] | None,
    prompt_only: bool,
) -> TokenizedRow:
    """A row of a native core: tokenized once its own processor has written what stands for images and videos.

    So its ids are those that it would get in transformers, also where words beside an image would share a token with
    what stands for it. ``processor``: a UllavaProcessor; ``words``: see its ``encode``. Raises SampleError.
    """
    vision = processor.vision
    if images and videos and vision.shares_tokens:
        raise SampleError(sample.name, f"core native: {vision.kind} writes videos with the tokens of images: a row "
                          "holds the ones or the others")  # fmt: skip
    shown = vision.shown([str(item.text) for item in images], [str(item.text) for item in videos])
    try:
        row: TokenizedRow = words(shown) if callable(words) else processor.tokenize(sample, prompt_only, shown)
    except SampleError:
        raise
    except UserError as error:
        raise SampleError(sample.name, str(error)) from error
    if len(row[0]) > processor.max_length:
        most = processor.max_length
        raise SampleError(sample.name, f"{len(row[0])} tokens, more than max_length {most}; nothing is cut")
    return row
