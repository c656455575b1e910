"""COCO files as people have them: listed twice, numbered anyhow, crowds everywhere, boxes that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.coco_files import Change, Command, figures, given
from tests.unit.data.originals import CORNER, SQUARE, H, W, masks, opened, read_all, report

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.errors import UserError
from ullava.geometry import rle_encode

CROWD = {"image_id": 7, "category_id": 3, "segmentation": dict(rle_encode(masks()[1])), "iscrowd": 1}


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
    (tmp_path / "images" / "link.jpg").symlink_to("a.jpg")
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
    entry = DatasetEntry(annotations=str(tmp_path / "given.json"), images=str(tmp_path / "images"))
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
    (tmp_path / "images" / "b.jpg").unlink()
    (tmp_path / "images" / "b.jpg").hardlink_to(tmp_path / "images" / "a.jpg")
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
    entry = DatasetEntry(annotations=str(tmp_path / "given.json"), images=str(tmp_path / "images"))
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
    "a surrogate": (lambda v: v["categories"][0].update(name="\ud800"), "half of a surrogate pair"),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_named(command: Command, tmp_path: Path, form: str) -> None:
    change, message = FORMS[form]
    code, _, err = command(*given(tmp_path, change))
    assert code == 2 and message in err and not (tmp_path / "mine").exists()
