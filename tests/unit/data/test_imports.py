"""A person's own annotations become a dataset: what is read back is what was given, and every fault is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import SQUARE, H, W, as_json, instances, make_image, masks, opened, read_all, report

from ullava.geometry import rle_encode
from ullava.run_lock import hold

Command = Callable[..., tuple[int, str, str]]


# ---------------------------------------------------------------- COCO
def coco(root: Path, **changes: Any) -> list[str]:
    """Write a good image with two objects and a crowd region, and an image with one object that ``changes``."""
    value = instances("a.jpg")
    crowd = {"id": 73, "image_id": 7, "category_id": 4, "segmentation": dict(rle_encode(masks()[1])), "iscrowd": 1}
    value["annotations"].append(crowd)
    value["images"][1] |= {"height": H, "width": W, "file_name": "b.jpg"}
    value["annotations"][2] |= changes
    make_image(root / "images" / "a.jpg")
    make_image(root / "images" / "b.jpg")
    file = as_json(root / "given.json", value)
    return ["data", "import", "coco", "--images", str(root / "images"), "--annotations", str(file), "--out",
            str(root / "mine")]  # fmt: skip


def test_coco_comes_back_with_its_crowds(command: Command, tmp_path: Path) -> None:
    code, out, err = command(*coco(tmp_path))
    assert (code, err) == (0, "")
    assert "mine: split train: 2 records of 2 images" in out
    dataset = opened(tmp_path / "mine")
    assert (len(dataset), dataset.task, dataset.id) == (2, "instance", "mine")
    assert read_all(dataset) == 3
    dog, racket = dataset.queries(0)
    np.testing.assert_array_equal(dog.turns[0].regions[0].mask, masks()[0])
    assert (racket.truth["category"], len(racket.truth["crowd"])) == ("tennis racket", 1)


COCO_FAULTS = {
    "two points": ({"segmentation": [[1, 1, 5, 5]]}, "annotation 72: polygon 0 needs three points"),
    "unknown category": ({"category_id": 44}, "annotation 72: unknown category_id 44"),
    "no category": ({"category_id": None}, "annotation 72: unknown category_id None"),
    "mask of another size": ({"segmentation": {"size": [H + 1, W], "counts": [5, 5, 20 * 30 + 20]}}, "mask is 30x21"),
    "no segmentation": ({"segmentation": None}, "annotation 72: segmentation must be a list of polygons"),
    "no pixel": ({"segmentation": {"size": [H, W], "counts": [H * W]}}, "annotation 72: the mask has no pixel"),
    "crowd of a strange kind": ({"iscrowd": 2}, "annotation 72: 'iscrowd' has to be 0 or 1, not 2"),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_bad_coco_annotations_stop_the_import_or_are_left_out_by_name(
    command: Command, tmp_path: Path, fault: str
) -> None:
    changes, message = COCO_FAULTS[fault]
    line = coco(tmp_path, **changes)
    code, _, err = command(*line)
    assert code == 2 and f"given.json:1: b.jpg: {'' if message.startswith('mask is') else message}" in err
    assert message in err and "nothing was written" in err
    assert not (tmp_path / "mine").exists()
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and message in out and "b.jpg: no usable instance is left on this image" in out
    assert len(opened(tmp_path / "mine")) == 1
    assert [message in entry["reason"] or message.split(": ", 1)[-1] in entry["reason"] for entry in
            report(tmp_path / "mine")["left_out"]] == [True, False]  # fmt: skip


def test_missing_unreadable_and_wrongly_sized_images_are_all_named(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    (tmp_path / "images" / "a.jpg").unlink()
    make_image(tmp_path / "images" / "b.jpg", (H + 1, W))
    code, _, err = command(*line)
    assert code == 2
    assert "a.jpg: no such image" in err
    assert "b.jpg has 30 x 21 pixels (width x height), but the file says 30 x 20; 1 annotations go with it" in err
    make_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "images" / "b.jpg").write_bytes(b"")
    assert "b.jpg: the file is empty" in command(*line)[2]
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and read_all(opened(tmp_path / "mine")) == 2


def test_images_without_an_instance_are_named(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    value = json.loads((tmp_path / "given.json").read_text())
    value["images"].append({"id": 9, "file_name": "c.jpg", "height": H, "width": W})
    as_json(tmp_path / "given.json", value)
    code, out, _ = command(*line)
    assert code == 0 and "nothing to ask about: " in out and "c.jpg: no annotation" in out
    assert [entry["name"].split(": ")[1] for entry in report(tmp_path / "mine")["nothing_to_ask_about"]] == ["c.jpg"]


@pytest.mark.parametrize("cut", [0, 1, 60, -3])
def test_coco_that_is_cut_off_is_refused_whatever_is_asked(command: Command, tmp_path: Path, cut: int) -> None:
    line = coco(tmp_path)
    whole = (tmp_path / "given.json").read_text()
    (tmp_path / "given.json").write_text(whole[:cut])
    code, _, err = command(*line, "--skip-bad")
    assert code == 2 and "given.json:1: " in err and not (tmp_path / "mine").exists()


def test_a_image_outside_of_the_folder_is_refused(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    value = json.loads((tmp_path / "given.json").read_text())
    value["images"][1]["file_name"] = "../secret.jpg"
    as_json(tmp_path / "given.json", value)
    assert "'../secret.jpg' has to be a path below the folder" in command(*line)[2]


def test_real_photos_come_back_whole(command: Command, tmp_path: Path, shared_dir: Path) -> None:
    given = shared_dir / "realdata" / "coco_tiny_liz"
    for split in ("train", "val"):
        file = given / "annotations" / f"instances_{split}2017.json"
        line = ["--annotations", str(file), "--split", split, "--link", "--out", str(tmp_path / "photos")]
        code, _, err = command("data", "import", "coco", "--images", str(given / f"{split}2017"), *line)
        assert (code, err) == (0, "")
        truth = json.loads(file.read_text())["annotations"]
        assert read_all(opened(tmp_path / "photos", split)) == sum(not entry["iscrowd"] for entry in truth)
        empty = report(tmp_path / "photos", split)["nothing_to_ask_about"]
        assert len(opened(tmp_path / "photos", split)) + len(empty) == 50


# ---------------------------------------------------------------- the folder
def test_some_images_can_be_held_out(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    assert command(*line, "--hold-out", "1", "--seed", "3")[0] == 0
    parts = [opened(tmp_path / "mine", split).queries(0)[0].images[0].name for split in ("train", "val")]
    assert sorted(parts) == ["a.jpg", "b.jpg"]
    code, out, _ = command("check", str(tmp_path / "mine" / "dataset.yaml"))
    assert code == 0 and "valid" in out
    assert [line.split(" in ")[0] for line in out.splitlines()[1:]] == ["train: 1 records", "val: 1 records"]
    (tmp_path / "mine" / "images" / "val" / parts[1]).unlink()
    code, _, err = command("check", str(tmp_path / "mine"))
    assert code == 2 and f"{parts[1]}: no such image" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hold-out", "2"], "--hold-out 2: there are 2 images, and some have to stay"),
        (["--hold-out", "-1"], "--hold-out and --seed have to be 0 or more"),
        (["--hold-out", "1", "--split", "val"], "--hold-out makes the split val"),
        (["--split", "a/b"], "--split: 'a/b' becomes a name of ours"),
    ],
)
def test_splits_that_cannot_be_are_refused(command: Command, tmp_path: Path, more: list[str], message: str) -> None:
    code, _, err = command(*coco(tmp_path), *more)
    assert code == 2 and message in err and not (tmp_path / "mine").exists()


def test_a_folder_in_use_and_a_split_that_is_there_are_refused(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    assert command(*line)[0] == 0
    before = sorted(path.name for path in (tmp_path / "mine").rglob("*"))
    assert "has a split 'train' already" in command(*line)[2]
    value = json.loads((tmp_path / "given.json").read_text())
    value["categories"].append({"id": 9, "name": "cup"})
    value["annotations"][0]["category_id"] = 9
    as_json(tmp_path / "given.json", value)
    assert "class 'cup' is not among the dataset's classes; known: Dog" in command(*line, "--split", "val")[2]
    assert sorted(path.name for path in (tmp_path / "mine").rglob("*")) == before
    (tmp_path / "mine" / "import.json").unlink()
    assert "was not made by ullava data import" in command(*line, "--split", "val")[2]


# ---------------------------------------------------------------- LabelMe
def labelme(root: Path, *shapes: Any, **more: Any) -> list[str]:
    make_image(root / "images" / "a.jpg")
    points = [list(pair) for pair in zip(SQUARE[::2], SQUARE[1::2], strict=True)]
    value = {"imagePath": "C:\\photos\\a.jpg", "imageHeight": H, "imageWidth": W, "shapes": list(shapes)}
    value["shapes"].append({"label": "dog", "points": points, "shape_type": "polygon"})
    as_json(root / "images" / "a.json", value | more)
    return ["data", "import", "labelme", "--images", str(root / "images"), "--out", str(root / "mine")]


def test_labelme_shapes_are_instances_and_groups_are_one(command: Command, tmp_path: Path) -> None:
    halves = [
        {"label": "cat", "points": [[1, 12], [4, 15]], "shape_type": "rectangle", "group_id": 1},
        {"label": "cat", "points": [[1, 15], [4, 18]], "shape_type": "rectangle", "group_id": 1},
        {"label": "__ignore__", "points": [[1, 1], [2, 2]], "shape_type": "rectangle"},
    ]
    code, out, _ = command(*labelme(tmp_path, *halves))
    assert code == 0 and "shapes[2]: the label is __ignore__" in out
    cat, dog = opened(tmp_path / "mine").queries(0)
    np.testing.assert_array_equal(cat.turns[0].regions[0].mask, masks()[1])
    np.testing.assert_array_equal(dog.turns[0].regions[0].mask, masks()[0])
    assert (len(cat.turns[0].regions), cat.turns[0].regions[0].box_xyxy_px) == (1, (1, 12, 4, 18))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"label": "cat", "points": [[1, 1], [2, 2]], "shape_type": "polygon"}, "a polygon needs 3 points or more"),
        ({"label": "cat", "points": [[1, 1]], "shape_type": "point"}, "a point has no outline"),
        ({"label": "", "points": [[1, 1], [2, 2]], "shape_type": "rectangle"}, "'label' has to be text"),
        ({"label": "cat", "points": [[900, 900], [950, 950]], "shape_type": "rectangle"}, "leaves the image"),
        ({"label": "cat", "points": [[3.0, 3], [3.1, 3.1]], "shape_type": "rectangle"}, "the outline holds no pixel"),
    ],
)
def test_bad_shapes_are_named(command: Command, tmp_path: Path, shape: dict[str, Any], message: str) -> None:
    line = labelme(tmp_path, shape)
    code, _, err = command(*line)
    assert code == 2 and "a.json: shapes[0]" in err and message in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and message in out and read_all(opened(tmp_path / "mine")) == 1


def test_bad_labelme_files_are_named(command: Command, tmp_path: Path) -> None:
    line = labelme(tmp_path, imageHeight=H + 5)
    assert "a.jpg has 30 x 20 pixels (width x height), but the file says 30 x 25" in command(*line)[2]
    path = tmp_path / "images" / "a.json"
    path.write_text(path.read_text()[:50])
    code, _, err = command(*line)
    assert code == 2 and "a.json:1: not valid JSON" in err and "is it cut off" in err
    as_json(path, {"shapes": {}})
    assert "not LabelMe: an object with a list 'shapes' is expected" in command(*line)[2]
    as_json(tmp_path / "images" / "b.json", {"shapes": []})
    assert "no image 'b' in" in command(*line)[2]


def test_real_labelme_files_come_back_whole(command: Command, tmp_path: Path, shared_dir: Path) -> None:
    given = shared_dir / "realdata" / "labelme_voc" / "semantic_segmentation" / "data_annotated"
    out = tmp_path / "voc"
    code, _, err = command("data", "import", "labelme", "--images", str(given), "--out", str(out))
    assert (code, err) == (0, "")
    shapes = [shape for path in given.glob("*.json") for shape in json.loads(path.read_text())["shapes"]]
    named = [shape for shape in shapes if shape["label"] != "__ignore__"]
    alone = [shape for shape in named if shape.get("group_id") is None]
    assert len(report(out)["nothing_to_ask_about"]) == len(shapes) - len(named)
    assert len(alone) <= read_all(opened(out)) <= len(named)


def test_a_folder_of_images_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    line[line.index("--images") + 1] = str(tmp_path / "none")
    assert "none: no such folder" in command(*line)[2]
    assert "did you mean 'coco'" in command("data", "import", "cocoa", "--images", "x")[2]


# ---------------------------------------------------------------- where it goes
def test_an_import_for_which_there_is_no_room_leaves_nothing(command: Command, tmp_path: Path, full_disk: Any) -> None:
    line = coco(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with full_disk(4200):
        (tmp_path / "images" / "a.jpg").stat()
        code, _, err = command(*line, "--license", "x" * 5000)
    assert code == 2 and "mine: cannot be written: File too large" in err and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith("-cache")) == before


def test_two_imports_do_not_share_a_folder(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    with hold(tmp_path / "mine", beside=True):
        code, _, err = command(*line)
    assert code == 2 and "mine: in use by process" in err and len(err.splitlines()) == 1
    assert command(*line)[0] == 0
