"""COCO files as people have them: listed twice, numbered anyhow, crowds everywhere, boxes that are wrong or alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, masks, opened, picture, read_all, report

from ullava.config.schema import DatasetEntry
from ullava.data.build import build_dataset
from ullava.errors import UserError
from ullava.evaluation.scoring import SCORERS, family_of
from ullava.geometry import rle_encode
from ullava.structures import Answer, GroundedObject, Sample

Command = Callable[..., tuple[int, str, str]]
Change = Callable[[dict[str, Any]], object]

BASE: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": H, "width": W},
        {"id": 8, "file_name": "b.jpg", "height": H, "width": W},
    ],
    "annotations": [
        {"id": 70, "image_id": 7, "category_id": 3, "segmentation": [SQUARE], "bbox": [5, 4, 10, 6], "iscrowd": 0},
        {"id": 71, "image_id": 8, "category_id": 4, "segmentation": [CORNER], "bbox": [1, 12, 3, 6], "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "dog"}, {"id": 4, "name": "cat"}],
}
CROWD = {"image_id": 7, "category_id": 3, "segmentation": dict(rle_encode(masks()[1])), "iscrowd": 1}


def given(root: Path, change: Change = lambda value: None, name: str = "given") -> list[str]:
    """Write two pictures and the file that ``change`` made of the sound one; return the command that imports it."""
    value = deepcopy(BASE)
    change(value)
    for file in ("a.jpg", "b.jpg"):
        picture(root / "pictures" / file)
    path = as_json(root / f"{name}.json", value)
    return ["data", "import", "coco", "--images", str(root / "pictures"), "--annotations", str(path), "--out",
            str(root / "mine")]  # fmt: skip


def perfect(sample: Sample) -> Answer:
    """The answer that says what the truth says."""
    regions = sample.turns[0].regions
    things = [GroundedObject(region.phrase, (0, 1), region.mask, region.box_xyxy_px, 1.0) for region in regions]
    return Answer("", tuple(things))


def figures(folder: Path, split: str = "train") -> dict[str, float]:
    """What perfect answers score: what one question's truth is, another question's answer must not be."""
    dataset = opened(folder, split)
    scorer = SCORERS[family_of(dataset)]()
    samples = [query for index in range(len(dataset)) for query in dataset.queries(index)]
    known = {(str(s.images[0].resolve()), s.turns[0].question.casefold()): perfect(s) for s in samples}
    for sample in samples:
        scorer.score(sample, known[str(sample.images[0].resolve()), sample.turns[0].question.casefold()])
    return scorer.metric.compute()


# ---------------------------------------------------------------- one image, one class, one truth
def listed_again(name: str) -> Change:
    def change(value: dict[str, Any]) -> None:
        value["images"].append({"id": 9, "file_name": name, "height": H, "width": W})
        value["annotations"].append(value["annotations"][0] | {"id": 72, "image_id": 9, "segmentation": [CORNER]})
        value["annotations"].append(value["annotations"][0] | {"id": 73, "image_id": 9})

    return change


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "link.jpg", "sub/../a.jpg"])
def test_an_image_that_is_listed_twice_is_one_image_with_all_annotations(
    command: Command, tmp_path: Path, name: str
) -> None:
    line = given(tmp_path, listed_again(name))
    (tmp_path / "pictures" / "link.jpg").symlink_to("a.jpg")
    if ".." in name:
        code, _, err = command(*line)
        assert code == 2 and "has to be a path below the folder" in err and "2 annotations go with it" in err
        return
    code, out, _ = command(*line, "--hold-out", "1")
    assert code == 0 and f"'{name}' is 'a.jpg' once more" in out and "a 'dog' is there twice, the same one" in out
    assert [len(opened(tmp_path / "mine", split)) for split in ("train", "val")] == [1, 1], "on one side"
    assert len(report(tmp_path / "mine")["joined"]) == 2
    regions = [read_all(opened(tmp_path / "mine", split)) for split in ("train", "val")]
    assert sorted(regions) == [1, 2], "the dog that is there twice counts once"
    assert all(figures(tmp_path / "mine", split)["AP"] == pytest.approx(100) for split in ("train", "val"))


@pytest.mark.parametrize("name", ["dog", "Dog", " dog "])
def test_categories_of_one_name_are_one_class(command: Command, tmp_path: Path, name: str) -> None:
    def change(value: dict[str, Any]) -> None:
        value["categories"].append({"id": 5, "name": name})
        value["annotations"].append(value["annotations"][0] | {"id": 72, "category_id": 5, "segmentation": [CORNER]})

    code, out, _ = command(*given(tmp_path, change))
    assert code == 0 and f"category 5 '{name.strip()}': is class 'dog', as category 3 is" in out
    dataset = opened(tmp_path / "mine")
    assert [len(query.turns[0].regions) for query in dataset.queries(0)] == [2]
    assert figures(tmp_path / "mine")["AP"] == pytest.approx(100)


def test_a_raw_file_with_two_categories_of_one_name_asks_once(command: Command, tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["categories"].append({"id": 5, "name": "Dog"})
        value["annotations"].append(value["annotations"][0] | {"id": 72, "category_id": 5, "segmentation": [CORNER]})

    given(tmp_path, change)
    entry = DatasetEntry(annotations=str(tmp_path / "given.json"), images=str(tmp_path / "pictures"))
    dataset = build_dataset("coco_instances", entry, tmp_path)
    assert [len(query.turns[0].regions) for query in dataset.queries(0)] == [2]
    assert len(dataset.sample(0, np.random.default_rng(0)).turns) == 1
    given(tmp_path, lambda value: value["images"][1].update(file_name="a.jpg"))
    with pytest.raises(UserError, match=r"images\[1\]: 'a.jpg' is there twice; 'ullava data import coco' joins"):
        build_dataset("coco_instances", entry, tmp_path)


def test_copies_stay_apart_and_are_told(command: Command, tmp_path: Path) -> None:
    code, out, _ = command(*given(tmp_path))
    assert code == 0 and "b.jpg: is a copy of a.jpg" in out and len(opened(tmp_path / "mine")) == 2
    assert [entry["name"] for entry in report(tmp_path / "mine")["copies"]] == ["b.jpg"]
    line = given(tmp_path)
    (tmp_path / "pictures" / "b.jpg").unlink()
    (tmp_path / "pictures" / "b.jpg").hardlink_to(tmp_path / "pictures" / "a.jpg")
    code, out, _ = command(*line, "--split", "more")
    assert code == 0 and "'b.jpg' is 'a.jpg' once more" in out and len(opened(tmp_path / "mine", "more")) == 1


def test_one_id_for_two_images_or_names_is_a_fault(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, lambda value: value["images"].append(value["images"][1] | {"id": 7}))
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and "the id 7 is that of 'a.jpg' and 'b.jpg'; 1 annotations go with it" in out
    line = given(tmp_path, lambda value: value["categories"].append({"id": 3, "name": "cow"}))
    assert "annotation 70: category_id 3 is 'dog' and 'cow'" in command(*line, "--split", "more")[2]


# ---------------------------------------------------------------- boxes beside masks
@pytest.mark.parametrize(
    ("bbox", "said"),
    [
        ([5, 4, 15, 10], "'bbox' [5, 4, 15, 10] is in corners (x0, y0, x1, y1)"),
        ([-500, 4, 10, 6], "'bbox' [-500, 4, 10, 6], but the mask's is [5.0, 4.0, 10.0, 6.0]"),
        ([5, 4, 0, 6], "but the mask's is [5.0, 4.0, 10.0, 6.0]"),
        (["5", "4", "10", "6"], "but the mask's is [5.0, 4.0, 10.0, 6.0]"),
        ([float("nan")] * 4, "but the mask's is [5.0, 4.0, 10.0, 6.0]"),
        ([10**400, 4, 10, 6], "but the mask's is [5.0, 4.0, 10.0, 6.0]"),
        (None, ""),
        ([4, 3.5, 11.9, 7.4], ""),
    ],
)
def test_the_box_is_that_of_the_mask_and_others_are_told(
    command: Command, tmp_path: Path, bbox: Any, said: str
) -> None:
    code, out, _ = command(*given(tmp_path, lambda value: value["annotations"][0].update(bbox=bbox)))
    assert code == 0 and said in out
    assert ("boxes that disagree with their masks, and were replaced by those of the masks: 1" in out) == bool(said)
    assert len(report(tmp_path / "mine").get("boxes_of_masks", [])) == bool(said)
    assert opened(tmp_path / "mine").queries(0)[0].turns[0].regions[0].box_xyxy_px == (5, 4, 15, 10)


# ---------------------------------------------------------------- boxes alone
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
        ([25, 15, 10, 6], "'bbox' [25, 15, 10, 6] (x, y, width, height) leaves the picture of 30 x 20 pixels"),
        ([5, 4, 0, 6], "'bbox' [5, 4, 0, 6] (x, y, width, height) is empty"),
        ([5, 4, 10, -6], "is empty or inside out"),
        ([30.5, 4, 0.4, 6], "has nothing inside the picture"),
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
    assert code == 0 and ("leaves the picture" in out) == (area is None)


def test_fractions_are_not_taken_for_pixels(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, boxed([0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]))
    code, _, err = command(*line, "--skip-bad")
    assert code == 2 and "every box lies between 0 and 1: these are fractions of the image, not pixels" in err


# ---------------------------------------------------------------- crowds
def test_crowds_alone_are_refused_with_the_reason_and_a_way(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, lambda value: [entry.update(iscrowd=1) for entry in value["annotations"]])
    for more in ([], ["--skip-bad"]):
        code, _, err = command(*line, *more)
        assert code == 2 and "all 2 annotations are crowd regions (iscrowd: 1)" in err
        assert "--crowd-as-instances takes them as instances" in err
    assert command(*line, "--crowd-as-instances")[0] == 0
    assert read_all(opened(tmp_path / "mine")) == 2


def test_crowds_beside_instances_are_counted_and_named(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, lambda value: value["annotations"].append(CROWD | {"id": 73}))
    code, out, _ = command(*line)
    assert code == 0
    assert "crowd regions (iscrowd: 1), which nothing asks for; --crowd-as-instances takes them as instances: 1" in out
    assert "a.jpg: annotation 73: 'dog'" in out
    assert [entry["reason"] for entry in report(tmp_path / "mine")["crowd_regions"]] == ["'dog'"]
    assert read_all(opened(tmp_path / "mine")) == 2
    code, out, _ = command(*line, "--crowd-as-instances", "--split", "more")
    assert code == 0 and "crowd regions" not in out and read_all(opened(tmp_path / "mine", "more")) == 3


def test_images_with_crowds_alone_are_told_apart_from_empty_ones(command: Command, tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["annotations"][1]["iscrowd"] = 1
        value["images"].append({"id": 9, "file_name": "c.jpg", "height": H, "width": W})

    code, out, _ = command(*given(tmp_path, change))
    assert code == 0 and "nothing to ask about: 2" in out
    assert "b.jpg: no instance but crowd regions (1; see --crowd-as-instances)" in out
    assert "c.jpg: no annotation" in out


# ---------------------------------------------------------------- ids, sizes, orphans, parts
@pytest.mark.parametrize("number", ["7", 7.0, 7.5, 10**30, -7, 0, "seven", "x y", "--7", "7" * 5000])
def test_ids_may_be_of_any_kind(command: Command, tmp_path: Path, number: Any) -> None:
    def change(value: dict[str, Any]) -> None:
        value["images"][0]["id"] = value["annotations"][0]["image_id"] = number
        value["categories"][0]["id"] = value["annotations"][0]["category_id"] = number
        value["annotations"][0]["id"] = number

    code, _, err = command(*given(tmp_path, change))
    assert (code, err) == (0, "") and read_all(opened(tmp_path / "mine")) == 2
    asked = {query.truth["category"] for index in range(2) for query in opened(tmp_path / "mine").queries(index)}
    assert asked == {"dog", "cat"}


def test_ids_are_joined_whatever_their_kind_in_each_list(command: Command, tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["images"][0]["id"], value["categories"][0]["id"] = "7", 3.0
        value["annotations"][0].update(id=None, category_id="3")
        value["annotations"][1].pop("id")

    code, _, err = command(*given(tmp_path, change))
    assert (code, err) == (0, "") and read_all(opened(tmp_path / "mine")) == 2


@pytest.mark.parametrize("number", [None, True, [7], {"a": 7}, "", float("nan")])
def test_what_is_no_id_is_named(command: Command, tmp_path: Path, number: Any) -> None:
    line = given(tmp_path, lambda value: value["images"][0].update(id=number))
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and "images[0]: 'id' has to be a number or text, not" in out
    assert "annotation 70: no image has the id 7" in out


@pytest.mark.parametrize("size", [None, -1, 0, H, str(H), float(H)])
def test_sizes_that_say_nothing_are_measured(command: Command, tmp_path: Path, size: Any) -> None:
    code, _, err = command(*given(tmp_path, lambda value: value["images"][0].update(height=size)))
    assert (code, err) == (0, "") and read_all(opened(tmp_path / "mine")) == 2


def test_sizes_may_be_left_out_and_wrong_ones_are_named(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, lambda value: [value["images"][0].pop(key) for key in ("height", "width")])
    assert command(*line)[0] == 0 and read_all(opened(tmp_path / "mine")) == 2
    line = given(tmp_path, lambda value: value["images"][0].update(height="tall"))
    assert "a.jpg: 'height' has to be a number of pixels, not 'tall'" in command(*line)[2]
    line = given(tmp_path, lambda value: value["images"][0].update(height=-1, width=W + 1))
    assert "has 30 x 20 pixels (width x height), but the file says 31 x ?; 1 annotations" in command(*line)[2]


def test_orphans_are_left_out_by_name(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, lambda value: value["annotations"].append(CROWD | {"id": 73, "image_id": 99}))
    code, _, err = command(*line)
    assert code == 2 and "given.json:1: annotation 73: no image has the id 99" in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and "left out: 1" in out and len(opened(tmp_path / "mine")) == 2


@pytest.mark.parametrize("part", [[3, 3], [1, 1, 5, 5], [], None, ["a"] * 6, [float("nan")] * 6, [9999.0] * 6])
def test_a_bad_part_of_a_mask_is_left_out_alone(command: Command, tmp_path: Path, part: Any) -> None:
    line = given(tmp_path, lambda value: value["annotations"][0].update(segmentation=[part, SQUARE]))
    code, _, err = command(*line)
    assert code == 2 and "a.jpg: annotation 70: segmentation[0]: " in err and "the other parts stay" in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and "left out: 1" in out
    (query,) = opened(tmp_path / "mine").queries(0)
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0])


def test_nan_where_nobody_reads_does_no_harm(command: Command, tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["info"] = {"score": float("nan")}
        value["annotations"][0]["area"] = float("inf")

    assert command(*given(tmp_path, change))[0] == 0
    entry = DatasetEntry(annotations=str(tmp_path / "given.json"), images=str(tmp_path / "pictures"))
    assert len(build_dataset("coco_instances", entry, tmp_path)) == 2
    given(tmp_path, lambda value: value["annotations"][0].update(bbox=[float("nan")] * 4))
    with pytest.raises(
        UserError, match=r"annotations\[0\]: 'segmentation' or 'bbox' holds a number that is not finite"
    ):
        build_dataset("coco_instances", entry, tmp_path)


# ---------------------------------------------------------------- other forms
FORMS: dict[str, tuple[Change, str]] = {
    "panoptic": (lambda v: v.update(annotations=[{"image_id": 7, "segments_info": []}]), "a panoptic file"),
    "captions": (lambda v: v.update(annotations=[{"image_id": 7, "caption": "a dog"}]), "a file of captions"),
    "annotations null": (lambda v: v.update(annotations=None), "'annotations' has to be a list [...], not null"),
    "images by id": (lambda v: v.update(images={"7": {}}), "'images' has to be a list [...], not an object"),
    "no categories": (lambda v: v.update(categories=[]), "'categories' is empty: no annotation has a name"),
    "no annotation": (lambda v: v.update(annotations=[]), "nothing to ask about: 2"),
    "a surrogate": (lambda v: v["categories"][0].update(name="\ud800"), "holds half of a surrogate pair"),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_named(command: Command, tmp_path: Path, form: str) -> None:
    change, message = FORMS[form]
    code, _, err = command(*given(tmp_path, change))
    assert code == 2 and message in err and not (tmp_path / "mine").exists()
