"""The table of annotation layouts: one reader class each, which carries what the layout is called and what it serves.

A new layout is a reader in ``ullava/data/readers/`` and its line here.
"""

from __future__ import annotations

from ullava.data.readers.base import Reader
from ullava.data.readers.coco_instances import CocoInstancesReader
from ullava.data.readers.label_png import LabelPngReader
from ullava.data.readers.llava_json import LlavaJsonReader
from ullava.data.readers.refer import GroupReferReader, ReferReader
from ullava.data.readers.regions import RegionsReader
from ullava.data.readers.salient_png import SalientPngReader

LAYOUTS: list[type[Reader]] = [
    ReferReader,
    GroupReferReader,
    LabelPngReader,
    CocoInstancesReader,
    SalientPngReader,
    LlavaJsonReader,
    RegionsReader,
]
"""In the order in which messages list them."""


def layout_names() -> list[str]:
    """Return the names of all layouts."""
    return [reader.layout for reader in LAYOUTS]


def reader_of(layout: str) -> type[Reader]:
    """Return the reader of a layout of this table; KeyError for any other name."""
    return {reader.layout: reader for reader in LAYOUTS}[layout]
