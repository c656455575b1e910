"""A named pipe at any door: refused in one line, and nobody waits for what will never be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.data.originals import as_json, instances, make_image

Command = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")

DOORS = {
    "image": "predict --model tiny --prompt Where? --image {pipe}",
    "video": "predict --model tiny --prompt Where? --video {pipe}",
    "questions": "predict --model tiny --input {pipe}",
    "boxes": "predict --model tiny --prompt Where? --image {image} --boxes {pipe}",
    "recipe": "check {pipe}",
    "training recipe": "train {pipe} --out {out}",
    "annotations": "data import coco --images {images} --annotations {pipe} --out {out}",
    "image of an annotation": "data import coco --images {pipes} --annotations {annotations} --out {out}",
    "labels": "data import masks --images {images} --masks {pipes} --labels 1=cup --out {out}",
    "expressions": "data import refs --images {images} --refs {pipe} --instances {annotations} --out {out}",
    "instances": "data import refs --images {images} --refs {annotations} --instances {pipe} --out {out}",
}


@pytest.mark.parametrize("door", DOORS)
def test_a_named_pipe_is_refused_at_every_door(command: Command, tmp_path: Path, door: str) -> None:
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    os.mkfifo(tmp_path / "pipes" / "a.jpg")
    os.mkfifo(tmp_path / "pipes" / "a.png")
    value = instances("a.jpg")
    value["images"] = value["images"][:1]
    value["annotations"] = [entry for entry in value["annotations"] if entry["image_id"] == value["images"][0]["id"]]
    places = {
        "pipe": tmp_path / "pipe.yaml",
        "pipes": tmp_path / "pipes",
        "image": make_image(tmp_path / "images" / "a.jpg"),
        "images": tmp_path / "images",
        "annotations": as_json(tmp_path / "given.json", value),
        "out": tmp_path / "out",
    }
    code, _, err = command(*DOORS[door].format(**places).split())
    assert code == 2 and "Traceback" not in err
    if door not in ("labels", "image of an annotation"):
        assert "pipe.yaml: is a named pipe, not a file" in err
