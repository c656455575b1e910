"""Boxes without masks: a detection export becomes a dataset for the task rec, and what cannot be a box is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.coco_files import Change, Command, figures, given
from tests.unit.data.originals import CORNER, as_json, opened, read_all

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.errors import UserError


def boxed(*boxes: Any, **more: Any) -> Change:
    def change(value: dict[str, Any]) -> None:
        for entry, box in zip(value["annotations"], boxes, strict=False):
            entry.update({"segmentation": []} | more | {"bbox": box})
        for entry in value["annotations"][len(boxes) :]:
            entry.update(segmentation=None)

    return change


@pytest.mark.parametrize("nothing", [[], None, {}, [[]], ""])
def test_boxes_alone_are_a_dataset_for_rec(command: Command, tmp_path: Path, nothing: Any) -> None:
    code, out, _ = command(*given(tmp_path, boxed([5, 4, 10, 6], [1, 12, 3, 6], segmentation=nothing)))
    assert code == 0 and "there are boxes and no masks: read for the task rec" in out
    dataset = opened(tmp_path / "mine")
    assert (dataset.task, len(dataset)) == ("rec", 2)
    (region,) = dataset.queries(0)[0].turns[0].regions
    assert (region.phrase, region.mask, region.box_xyxy_px) == ("dog", None, (5, 4, 15, 10))
    assert "[LOC]" in dataset.queries(0)[0].turns[0].answer and "[SEG]" not in dataset.queries(0)[0].turns[0].answer
    assert figures(tmp_path / "mine")["Pr@F1"] == 100
    with pytest.raises(UserError, match="task: this dataset has boxes and no masks; it serves rec, not 'res'"):
        build_dataset(str(tmp_path / "mine"), DatasetEntry(task="res"), tmp_path)
    code, out, _ = command("check", str(tmp_path / "mine" / "dataset.yaml"))
    assert code == 0 and "valid" in out


def test_splits_with_and_without_masks_do_not_mix(command: Command, tmp_path: Path) -> None:
    assert command(*given(tmp_path, boxed([5, 4, 10, 6], [1, 12, 3, 6])))[0] == 0
    line = given(tmp_path)
    code, _, err = command(*line, "--split", "val")
    assert code == 2 and "boxes_only is True, but what is imported has False (--boxes reads boxes alone)" in err
    assert command(*line, "--split", "val", "--boxes")[0] == 0
    assert read_all(opened(tmp_path / "mine", "val")) == 2


def test_all_boxes_of_a_class_are_one_question(command: Command, tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        boxed([5, 4, 10, 6], [1, 12, 3, 6])(value)
        value["annotations"].append(value["annotations"][0] | {"id": 72, "bbox": [20, 4, 5, 5]})
        value["annotations"].append(value["annotations"][0] | {"id": 73})
        value["annotations"].append(value["annotations"][1] | {"id": 74, "image_id": 7, "iscrowd": 1})

    code, out, _ = command(*given(tmp_path, change))
    assert code == 0 and "a 'dog' is there twice, the same one" in out
    assert "'cat' has a crowd region, so that its boxes are not all there" in out
    (query,) = opened(tmp_path / "mine").queries(0)
    assert [region.box_xyxy_px for region in query.turns[0].regions] == [(5, 4, 15, 10), (20, 4, 25, 9)]


def test_masks_can_be_read_as_boxes_too(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, boxed([5, 4, 10, 6], [1, 12, 3, 6]))
    value = json.loads((tmp_path / "given.json").read_text())
    value["annotations"][1]["segmentation"] = [CORNER]
    as_json(tmp_path / "given.json", value)
    code, _, err = command(*line)
    assert code == 2 and "annotation 70: segmentation must be a list" in err and "--boxes imports boxes" in err
    assert command(*line, "--boxes")[0] == 0
    assert [read_all(opened(tmp_path / "mine"))] == [2]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([25, 15, 10, 6], "'bbox' [25, 15, 10, 6] (x, y, width, height) leaves the image of 30 x 20 pixels"),
        ([5, 4, 0, 6], "'bbox' [5, 4, 0, 6] (x, y, width, height) is empty"),
        ([5, 4, 10, -6], "is empty or inside out"),
        ([30.5, 4, 0.4, 6], "has nothing inside the image"),
        ([5, 4, 0.2, 0.2], "'bbox' [5, 4, 0.2, 0.2] is smaller than a pixel"),
        ([5, 4, 10], "'bbox' has to be four numbers: x, y, width, height"),
        (["5", "4", "10", "6"], "'bbox' has to be four numbers"),
        ([float("nan"), 4, 10, 6], "'bbox' has to be four numbers"),
        ([10**400, 4, 10, 6], "'bbox' has to be four numbers"),
        (None, "has neither a mask nor a 'bbox'"),
    ],
)
def test_boxes_that_cannot_be_are_named(command: Command, tmp_path: Path, box: Any, message: str) -> None:
    line = given(tmp_path, boxed(box, [1, 12, 3, 6]))
    code, _, err = command(*line)
    assert code == 2 and f"given.json:1: a.jpg: annotation 70: {message}" in err.replace("'bbox' [30.5, 4, 0.4, 6] (x, "
        "y, width, height) ", "").replace("'bbox' [5, 4, 10, -6] (x, y, width, height) ", "")  # fmt: skip
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and message in out and len(opened(tmp_path / "mine")) == 1


@pytest.mark.parametrize("area", [None, 9 * 9.0])
def test_corners_are_not_taken_for_sides(command: Command, tmp_path: Path, area: float | None) -> None:
    boxes = ([5, 4, 25, 18], [3, 3, 12, 15]) if area is None else ([2, 2, 11, 11], [3, 3, 12, 12])
    line = given(tmp_path, boxed(*boxes, area=area))
    code, _, err = command(*line, "--skip-bad")
    assert code == 2 and "the boxes look like corners (x0, y0, x1, y1)" in err and "--box-format xyxy" in err
    assert not (tmp_path / "mine").exists()
    assert command(*line, "--box-format", "xyxy")[0] == 0
    x0, y0, x1, y1 = boxes[0]
    assert opened(tmp_path / "mine").queries(0)[0].turns[0].regions[0].box_xyxy_px == (x0, y0, x1, y1)
    code, out, _ = command(*line, "--box-format", "xywh", "--split", "other", "--skip-bad")
    assert code == 0 and ("leaves the image" in out) == (area is None)


def test_fractions_are_not_taken_for_pixels(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, boxed([0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]))
    code, _, err = command(*line, "--skip-bad")
    assert code == 2 and "every box lies between 0 and 1: these are fractions of the image, not pixels" in err
