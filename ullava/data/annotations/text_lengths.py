"""How many words a sample will have, told from its annotation alone: what batches of alike rows are made by.

An image is never opened. Sizes are counted once for each annotation file, in characters, and kept beside its converted
form (ullava.data.annotations.store); visual tokens are not in them, for their number may depend on the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ullava.atomic_write import whole
from ullava.data.annotations.store import IMAGE_KEYS, SIZES_SUFFIX, AnnotationStore
from ullava.errors import DataError

VIDEO_KEYS = ("video", "gif")
"""``gif`` is what u-LLaVA's TGIF records call it."""

Said = Callable[[dict[str, Any]], Sequence[str]]


class Kind(IntEnum):
    """What a row shows beside its words."""

    WORDS = 0
    IMAGES = 1
    VIDEOS = 2


class TextLengths(NamedTuple):
    """One entry a sample: ``kinds`` uint8 [n] (values of Kind) and ``characters`` float32 [n], an estimate."""

    kinds: NDArray[np.uint8]
    characters: NDArray[np.float32]


class RecordLengths(NamedTuple):
    """One entry a record: its kind, the characters of all that it could say, and how many questions those are."""

    kinds: NDArray[np.uint8]
    characters: NDArray[np.float32]
    questions: NDArray[np.float32]

    def capped(self, turns: int) -> TextLengths:
        """The sizes of samples that put ``turns`` questions of a record at most (0: all): its mean question, so often.

        Which ones are drawn is not known before the sample is made.
        """
        asked = self.questions if turns == 0 else np.minimum(self.questions, turns)
        share = asked / np.maximum(self.questions, 1)
        return TextLengths(self.kinds, (self.characters * share).astype(np.float32))

    def grouped(self, order: NDArray[np.int32], starts: NDArray[np.int32]) -> RecordLengths:
        """The sizes of images (AnnotationStore.groups): each of their records puts one question."""
        each = (self.characters / np.maximum(self.questions, 1))[order]
        if not len(each):
            return self
        counts = np.diff(starts).astype(np.float32)
        return RecordLengths(self.kinds[order[starts[:-1]]], np.add.reduceat(each, starts[:-1]), counts)


def record_lengths(store: AnnotationStore, layout: str, said: Said) -> RecordLengths:
    """The sizes of all records of ``store``, counted the first time and read from then on.

    ``said``: the words of each question with its answer that a record of this ``layout`` holds. A record in which they
    cannot be found counts nothing; reading it says what is wrong. Raises DataError where they cannot be kept.
    """
    path = store.arrow.with_name(f"{store.arrow.stem}.{layout}{SIZES_SUFFIX}")
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        table = np.empty((0, 3), dtype=np.float32)
    if table.shape != (len(store), 3):
        table = np.array([_of_record(store, number, said) for number in range(len(store))], dtype=np.float32)
        table = table.reshape(-1, 3)
        _keep(table, path)
    return RecordLengths(table[:, 0].astype(np.uint8), table[:, 1], table[:, 2])


def _of_record(store: AnnotationStore, number: int, said: Said) -> tuple[int, int, int]:
    record = store.record(number)
    if any(record.get(key) for key in VIDEO_KEYS):
        kind = Kind.VIDEOS
    else:
        seen = store.image_name(number) or any(record.get(key) for key in IMAGE_KEYS)
        kind = Kind.IMAGES if seen else Kind.WORDS
    try:
        texts = said(record)
        return int(kind), sum(len(text) for text in texts), len(texts)
    except (AttributeError, KeyError, TypeError):
        return int(kind), 0, 0


def _keep(table: NDArray[np.float32], path: Path) -> None:
    try:
        with whole(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, table)
    except OSError as error:
        raise DataError(f"{path}: the lengths of rows cannot be kept here ({error.strerror})") from error
