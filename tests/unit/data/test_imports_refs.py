"""Referring expressions as people have them: boxes alone, ids of any kind, entries that belong to nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import as_json, instances, make_image, masks, opened, read_all, ref, report

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.errors import UserError

Command = Callable[..., tuple[int, str, str]]


def given(root: Path, refs: list[dict[str, Any]], value: dict[str, Any] | None = None) -> list[str]:
    """Write images, expressions and instances; return the command that imports them."""
    value = value or instances("a.jpg")
    for name in ("a.jpg", "other.jpg"):
        make_image(root / "images" / name)
    files = {"--refs": as_json(root / "refs.json", refs), "--instances": as_json(root / "instances.json", value)}
    options = [str(part) for pair in files.items() for part in pair]
    return ["data", "import", "refs", "--images", str(root / "images"), *options, "--out", str(root / "mine")]


def boxes_alone(nothing: Any) -> dict[str, Any]:
    value = instances("a.jpg")
    for entry in value["annotations"]:
        entry["segmentation"] = nothing
    return value


@pytest.mark.parametrize("nothing", [None, [], {}, [[]]])
def test_expressions_with_boxes_alone_are_a_dataset_for_rec(command: Command, tmp_path: Path, nothing: Any) -> None:
    line = given(tmp_path, [ref(1, 70, "train", "the dog"), ref(2, 71, "train", "racket")], boxes_alone(nothing))
    code, out, _ = command(*line)
    assert code == 0 and "there are boxes and no masks: read for the task rec" in out
    dataset = opened(tmp_path / "mine")
    assert (dataset.task, len(dataset)) == ("rec", 2)
    (region,) = dataset.queries(0)[0].turns[0].regions
    assert (region.mask, region.box_xyxy_px) == (None, (5, 4, 15, 10))
    with pytest.raises(UserError, match="it serves rec, not 'res'"):
        build_dataset(str(tmp_path / "mine"), DatasetEntry(task="res"), tmp_path)


def test_groups_with_boxes_alone_may_mean_several_or_none(command: Command, tmp_path: Path) -> None:
    refs = [ref(1, [70, 71], no_target=False), ref(2, [-1], no_target=True), ref(3, 71)]
    assert command(*given(tmp_path, refs, boxes_alone([])))[0] == 0
    dataset = opened(tmp_path / "mine")
    counts = [len(dataset.queries(index)[0].turns[0].regions) for index in range(3)]
    assert (dataset.task, counts) == ("rec", [2, 0, 1])


def test_masks_can_be_read_as_boxes(command: Command, tmp_path: Path) -> None:
    value = boxes_alone([])
    value["annotations"][0]["segmentation"] = instances()["annotations"][0]["segmentation"]
    line = given(tmp_path, [ref(1, 70), ref(2, 71)], value)
    code, _, err = command(*line)
    assert code == 2 and "ref_id 2: segmentation must be a list" in err and "--boxes imports boxes" in err
    assert command(*line, "--boxes")[0] == 0 and opened(tmp_path / "mine").task == "rec"
    assert read_all(opened(tmp_path / "mine")) == 2


def test_boxes_are_those_of_the_masks(command: Command, tmp_path: Path) -> None:
    value = instances("a.jpg")
    value["annotations"][0]["bbox"] = [5, 4, 15, 10]
    code, out, _ = command(*given(tmp_path, [ref(1, 70)], value))
    assert code == 0 and "ref_id 1: annotation 70: 'bbox' [5, 4, 15, 10] is in corners (x0, y0, x1, y1)" in out
    (region,) = opened(tmp_path / "mine").queries(0)[0].turns[0].regions
    assert region.box_xyxy_px == (5, 4, 15, 10)
    np.testing.assert_array_equal(region.mask, masks()[0])


def test_corners_are_refused_as_a_whole(command: Command, tmp_path: Path) -> None:
    value = boxes_alone([])
    value["annotations"][0]["bbox"], value["annotations"][1]["bbox"] = [16, 4, 29, 18], [1, 2, 9, 18]
    line = given(tmp_path, [ref(1, 70), ref(2, 71)], value)
    code, _, err = command(*line, "--skip-bad")
    assert code == 2 and "instances.json: the boxes look like corners" in err
    assert command(*line, "--box-format", "xyxy")[0] == 0
    assert opened(tmp_path / "mine").queries(0)[0].turns[0].regions[0].box_xyxy_px == (16, 4, 29, 18)


ORPHANS = {
    "ann_id": (ref(9, 99), "entry 1: instances.json has no ann_id 99"),
    "image_id": (
        ref(9, 70, image_id=9),
        "instances.json has no image_id 9, ann_id 70 of this image (it is of image 7)",
    ),
    "another image": (ref(9, 72), "instances.json has no ann_id 72 of this image (it is of image 8)"),
    "no id": (ref(9, None), "entry 1: 'ann_id', 'image_id' and 'ref_id' have to be whole numbers"),
    "no entry": (7, "entry 1: an object is expected, not int"),
    "no words": (ref(9, 70, sentences=[{"sents": "a"}]), "entry 1: no 'sent'"),
}


@pytest.mark.parametrize("orphan", ORPHANS)
def test_entries_that_belong_to_nothing_are_left_out_by_name(command: Command, tmp_path: Path, orphan: str) -> None:
    entry, message = ORPHANS[orphan]
    line = given(tmp_path, [ref(1, 70, "train", "the dog"), entry])
    code, _, err = command(*line)
    assert code == 2 and "refs.json: " in err and message in err and "nothing was written" in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and message in out and len(opened(tmp_path / "mine")) == 1
    assert len(report(tmp_path / "mine")["left_out"]) == 1


@pytest.mark.parametrize("number", ["70", 70.0, "dog-1", 10**30, -70])
def test_ids_may_be_of_any_kind(command: Command, tmp_path: Path, number: Any) -> None:
    value = instances("a.jpg")
    value["annotations"][0]["id"] = number
    entry = ref(1, "70" if number == 70 else number) | {"image_id": "7", "ref_id": "r1"}
    code, _, err = command(*given(tmp_path, [entry], value))
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(opened(tmp_path / "mine").queries(0)[0].turns[0].regions[0].mask, masks()[0])


def test_sizes_may_be_missing(command: Command, tmp_path: Path) -> None:
    value = instances("a.jpg")
    value["images"][0].update(height=-1)
    value["images"][0].pop("width")
    code, _, err = command(*given(tmp_path, [ref(1, 70)], value))
    assert (code, err) == (0, "") and read_all(opened(tmp_path / "mine")) == 1


def test_an_image_that_is_listed_twice_is_on_one_side(command: Command, tmp_path: Path) -> None:
    value = instances("a.jpg")
    value["images"].append(value["images"][0] | {"id": 9, "file_name": "./a.jpg"})
    value["annotations"].append(value["annotations"][1] | {"id": 90, "image_id": 9})
    refs = [ref(1, 70), ref(2, 90, image_id=9), ref(3, 72, image_id=8)]
    code, out, _ = command(*given(tmp_path, refs, value), "--hold-out", "1")
    assert code == 0 and "'./a.jpg' is 'a.jpg' once more" in out
    assert sorted(len(opened(tmp_path / "mine", split)) for split in ("train", "val")) == [1, 2]


def test_words_for_several_things_are_told(command: Command, tmp_path: Path) -> None:
    refs = [ref(1, 70, "train", "the thing"), ref(2, 71, "train", "The Thing"), ref(3, 72, image_id=8)]
    code, out, _ = command(*given(tmp_path, refs))
    assert code == 0 and "a.jpg: 'the thing' means 2 things" in out
    assert len(report(tmp_path / "mine")["ambiguous"]) == 1
