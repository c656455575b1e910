"""What is asked in which order: the indices of a data set by image, and image groups packed into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ullava.data.readers.base import Reader, TaskDataset
from ullava.data.readers.boxes import reader_of
from ullava.structures import Sample


@dataclass(frozen=True, slots=True)
class Query:
    """One question: the ``number``-th of the ``total`` questions of dataset index ``item``."""

    item: int
    number: int
    total: int
    sample: Sample


def image_groups(dataset: TaskDataset) -> list[list[int]]:
    """Return the indices that share an image, in order of the image's first appearance.

    Wholly determined by the annotations and cheap: no mask is decoded. An index without an image stands alone.
    """
    reader = reader_of(dataset)
    if not isinstance(reader, Reader) or reader.whole_images:
        return [[index] for index in range(len(dataset))]
    store = reader.origin.store
    order, starts = store.groups(reader.origin.limit)
    groups: list[list[int]] = []
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        members = [int(index) for index in order[start:end]]
        groups.extend([members] if store.image_name(members[0]) else [[index] for index in members])
    return groups


def pack(groups: Iterable[Sequence[Query]], batch_size: int) -> Iterator[list[Sequence[Query]]]:
    """Put whole groups together up to ``batch_size`` queries; a larger group comes alone and uncut, an empty one never.

    So the questions about an image share one batch, and the image is encoded once, however many they are.
    """
    held: list[Sequence[Query]] = []
    count = 0
    for group in groups:
        if not group:
            continue
        if held and count + len(group) > batch_size:
            yield held
            held, count = [], 0
        held.append(group)
        count += len(group)
    if held:
        yield held
