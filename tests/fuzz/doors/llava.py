"""Conversations in LLaVA's form, read for evaluation and for ``ullava data stats``."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tests.fuzz.cases import Case
from tests.fuzz.doors.records import make_of
from tests.fuzz.material import copy_tree, shared

SHARE = 7
ANNOTATIONS = {
    "shapes_caption": "caption", "shapes_vqa": "vqa", "shapes_text": "text", "shapes_listing": "listing",
    "shapes_video_qa": "video_qa", "shapes_video_caption": "video_caption",
}  # fmt: skip


def prepare(base: Path) -> None:
    """Images and clips with their conversations."""
    for name in ("world", "clips"):
        copy_tree(shared(base, name), base / "world")
    for name in ANNOTATIONS.values():
        file = base / "world" / "annotations" / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text())[:3]))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the records of one dataset, an image, or a clip."""
    return make_of(rng, folder, base, ANNOTATIONS)
