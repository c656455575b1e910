"""The row of a converted annotation file: what readers of files make and what the store keeps."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """What one Arrow row holds: the record's JSON text, its image ('' without one) and its line in the source."""

    record: bytes
    image: str
    line: int
