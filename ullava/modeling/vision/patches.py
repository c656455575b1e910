"""Teaching visual tokens their names: which words belong to which patch, and how well a token says them.

A vision tower that nobody has pretrained learns colors from captions at once and shapes hardly at all: answers give it
a few words for a whole image, and words that follow each other can be guessed from each other. Annotations that name
every thing in an image say much more: a word for every patch. Each visual token, as it enters the language model, is
held against the model's own word embeddings and should be near the words of the thing that covers its patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ullava.geometry import View
from ullava.structures import Region
from ullava.text.tokens import IGNORE_LABEL

BACKGROUND = "nothing"
"""The word for a patch without a thing."""

LEAST_COVER = 1 / 6
"""A thing that covers less of a patch than this does not name it."""

TEMPERATURE = 0.06
"""Divides cosines before the softmax over the vocabulary."""

COMMON_WORDS = 4096
"""Of a larger vocabulary the softmax runs over its first entries, which the tokenizers merge first and so are the most
frequent ones, and over the words given: twelve times less to multiply with 49,152 of them."""


def patch_words(
    things: Sequence[Region],
    view: View,
    grid_hw: tuple[int, int],
    tokenize: Callable[[str], Sequence[int]],
) -> NDArray[np.int64]:
    """Return the token ids of the words of every patch: [rows * columns, longest], filled up with -100.

    Args:
        things: everything in the image, with masks [H, W] or boxes in original pixels.
        view: where the image lies in the network's input.
        grid_hw: rows and columns of the patches that share out that input.
        tokenize: words -> ids.
    """
    ids = [list(tokenize(" " + words)) for words in (*(thing.phrase for thing in things), BACKGROUND)]
    table = np.full((len(ids), max(map(len, ids))), IGNORE_LABEL, dtype=np.int64)
    for row, found in zip(table, ids, strict=True):
        row[: len(found)] = found
    if not things:
        return table[np.zeros(grid_hw[0] * grid_hw[1], dtype=np.int64)]
    cover = np.stack([_cover(thing, view, grid_hw) for thing in things]).reshape(len(things), -1)
    chosen = np.where(cover.max(axis=0) >= LEAST_COVER, cover.argmax(axis=0), len(things))
    return table[chosen]


def _cover(thing: Region, view: View, grid_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Share of every patch [rows, columns] that the thing covers."""
    width, height = view.orig_wh
    mask = thing.mask
    if mask is None:
        if thing.box_xyxy_px is None:
            raise ValueError(f"'{thing.phrase}' has neither a mask nor a box")
        x0, y0, x1, y1 = (round(value) for value in thing.box_xyxy_px)
        mask = np.zeros((height, width), dtype=np.bool_)
        mask[y0:y1, x0:x1] = True
    columns = np.linspace(0, view.size_wh[0], grid_hw[1] + 1)
    rows = np.linspace(0, view.size_wh[1], grid_hw[0] + 1)
    x = view.to_orig(np.stack([columns, np.zeros_like(columns)], axis=1))[:, 0]
    y = view.to_orig(np.stack([np.zeros_like(rows), rows], axis=1))[:, 1]
    patch_area = (x[1] - x[0]) * (y[1] - y[0])
    x_at = np.clip(np.rint(x), 0, width).astype(np.int64)
    y_at = np.clip(np.rint(y), 0, height).astype(np.int64)
    sums = np.zeros((height + 1, width + 1), dtype=np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    corners = sums[np.ix_(y_at, x_at)]
    covered: NDArray[np.float64] = np.diff(np.diff(corners, axis=0), axis=1) / patch_area
    return covered


def patch_cross_entropy(tokens: torch.Tensor, words: torch.Tensor, vocabulary: torch.Tensor) -> torch.Tensor:
    """How far each visual token is from its words, float32 [n].

    The mean, over a token's words, of the negative log-probability under a softmax of cosines over the vocabulary (of a
    large one, its COMMON_WORDS and the words given). The vocabulary itself is not moved.

    Args:
        tokens: [n, D], as they enter the language model.
        words: [n, w] token ids, -100 where a token has fewer words; at least one each.
        vocabulary: [V, D], the language model's input embedding.
    """
    words, vocabulary = _within(words, vocabulary.detach())
    directions = functional.normalize(vocabulary.float(), dim=-1)
    cosines = functional.normalize(tokens.float(), dim=-1) @ directions.T
    log_probabilities = (cosines / TEMPERATURE).log_softmax(dim=-1)
    given = words != IGNORE_LABEL
    each = log_probabilities.gather(1, words.clamp(min=0)) * given
    return -each.sum(dim=1) / given.sum(dim=1)


def _within(words: torch.Tensor, vocabulary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same words as rows of a smaller vocabulary: the common ones, then those given that are rare."""
    if len(vocabulary) <= COMMON_WORDS:
        return words, vocabulary
    rare = words[words >= COMMON_WORDS].unique()
    rows = torch.where(words < COMMON_WORDS, words, COMMON_WORDS + torch.searchsorted(rare, words.contiguous()))
    return rows, torch.cat([vocabulary[:COMMON_WORDS], vocabulary[rare]])
