"""The table of annotation layouts: one reader class each, which carries what the layout is called and what it serves.

A new layout is a reader in ``ullava/data/readers/`` and its line here.
"""

from __future__ import annotations

from ullava.data.readers.base import Reader
from ullava.data.readers.coco_classes import CocoClassReader
from ullava.data.readers.coco_instances import CocoInstancesReader
from ullava.data.readers.grounded_captions import GroundedCaptionReader
from ullava.data.readers.label_classes import LabelClassReader
from ullava.data.readers.label_png import LabelPngReader
from ullava.data.readers.llava_json import LlavaJsonReader
from ullava.data.readers.refer import GroupReferReader, ReferReader
from ullava.data.readers.refer_video import ReferVideoReader
from ullava.data.readers.regions import RegionsReader
from ullava.data.readers.salient_png import SalientPngReader
from ullava.structures import Task

LAYOUTS: list[type[Reader]] = [
    ReferReader,
    GroupReferReader,
    LabelPngReader,
    CocoInstancesReader,
    SalientPngReader,
    LlavaJsonReader,
    RegionsReader,
    GroundedCaptionReader,
    ReferVideoReader,
]
"""In the order in which messages list them."""
CLASS_READERS: list[type[Reader]] = [CocoClassReader, LabelClassReader]
"""Readers of the same layouts for further tasks: one question for all of a class."""


def layout_names() -> list[str]:
    """Return the names of all layouts."""
    return [reader.layout for reader in LAYOUTS]


def tasks_of(layout: str) -> tuple[Task, ...]:
    """Return the tasks that a layout serves, whichever of its readers does."""
    return tuple(task for reader in [*LAYOUTS, *CLASS_READERS] if reader.layout == layout for task in reader.tasks)


def reader_of(layout: str, task: str | None = None) -> type[Reader]:
    """Return the reader of a layout of this table, the one that serves ``task`` where it has several.

    KeyError for any other layout.
    """
    further = [reader for reader in CLASS_READERS if reader.layout == layout and task in reader.tasks]
    return further[0] if further else {reader.layout: reader for reader in LAYOUTS}[layout]
