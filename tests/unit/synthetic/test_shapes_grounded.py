"""Captions with masks of the synthetic world: read again from the words and the boxes in scenes.jsonl."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.synthetic.shapes_reader import NUMBERS, centre, fitting

from ullava.cli.main import main
from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.geometry import mask_to_box_xyxy_px
from ullava.synthetic.write import GROUNDED, draw_world
from ullava.text.answers import split_objects

IMAGES = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grounded") / "world"
    assert main(["data", "synth", "--out", str(out), "--images", str(IMAGES), "--seed", "6", "--grounded"]) == 0
    return out


def read(world: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    records = json.loads((world / "annotations" / f"{GROUNDED}.json").read_text())
    scenes = [json.loads(line) for line in (world / "scenes.jsonl").read_text().splitlines()]
    return list(zip(records, scenes, strict=True))


def test_every_object_is_named_once_and_rightly(world: Path) -> None:
    several = 0
    for record, scene in read(world):
        named: list[tuple[Any, ...]] = []
        for phrase in record["phrases"]:
            words = record["caption"][slice(*phrase["span"])]
            boxes = [part["bbox"] for part in phrase["annotations"]]
            first, _, rest = words.partition(" ")
            things = fitting(rest if rest else first, scene["objects"])
            if first in ("a", "an"):
                assert len(boxes) == 1
                assert boxes[0] in [thing["bbox"] for thing in things]
            else:
                several += 1
                assert NUMBERS.index(first) == len(boxes) == len(things)
                in_order = sorted(things, key=lambda thing: centre(thing)[0])
                assert sorted(boxes) == sorted(thing["bbox"] for thing in in_order)
            named += [tuple(box) for box in boxes]
        assert sorted(named) == sorted(tuple(thing["bbox"]) for thing in scene["objects"])
        rest = record["caption"]
        for phrase in reversed(record["phrases"]):
            rest = rest[: phrase["span"][0]] + "P" + rest[phrase["span"][1] :]
        assert re.fullmatch(r"There (is|are) P(, P)*( and P)?\.", rest), rest
    assert several > IMAGES / 4


def test_it_travels_the_reader_of_real_data(world: Path) -> None:
    dataset = build_dataset("shapes_grounded", DatasetEntry(), world)
    for number, (record, _) in enumerate(read(world)[:8]):
        (query,) = dataset.queries(number)
        found = split_objects(query.turns[0].answer)
        assert [thing.phrase for thing in found] == [region.phrase for region in query.turns[0].regions]
        boxes = [mask_to_box_xyxy_px(region.mask) for region in query.turns[0].regions if region.mask is not None]
        wanted = [sorted(part["bbox"] for part in phrase["annotations"]) for phrase in record["phrases"]]
        corners = [[x, y, x + w, y + h] for boxes_ in wanted for x, y, w, h in boxes_]
        # Outlines give the mask back to a pixel or so (ullava.synthetic.records.outline_of).
        assert np.abs(np.array(boxes) - np.array(corners)).max() <= 2


def test_nothing_else_changes_where_it_is_asked_for(world: Path, tmp_path: Path) -> None:
    plain = draw_world(tmp_path / "plain", 5, 6, progress=False)
    asked = draw_world(tmp_path / "asked", 5, 6, progress=False, grounded=True)
    files = [sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()) for out in (plain, asked)]
    assert set(files[1]) - set(files[0]) == {Path("annotations/grounded.json")}
    assert all((plain / name).read_bytes() == (asked / name).read_bytes() for name in files[0])
    assert len(files[0]) > 20


def test_clips_have_no_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "synth", "--out", str(tmp_path / "x"), "--videos", "2", "--grounded"]) == 2
    assert "--grounded: captions with masks are of images only" in capsys.readouterr().err
