"""A person's own annotations become a dataset: what is read back is what was given, and every fault is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, as_pickle, instances, masks, picture, png, ref

from ullava.config.schema import DatasetEntry
from ullava.data.build import build_dataset
from ullava.data.images import read_image_rgb_u8
from ullava.data.readers.base import TaskDataset
from ullava.geometry import rle_encode

Command = Callable[..., tuple[int, str, str]]


def opened(folder: Path, split: str = "train") -> TaskDataset:
    """Open an imported folder as a recipe would, with a data root that means nothing to it."""
    return build_dataset(str(folder), DatasetEntry(split=split), Path("nowhere"))


def read_all(dataset: TaskDataset) -> int:
    """Read every query and picture; return the number of regions."""
    count = 0
    for index in range(len(dataset)):
        for query in dataset.queries(index):
            (image,) = query.images
            assert read_image_rgb_u8(image).shape[:2] == (query.truth["height"], query.truth["width"])
            count += len(query.turns[0].regions)
    return count


def report(folder: Path, split: str = "train") -> dict[str, Any]:
    return json.loads((folder / "import.json").read_text())[split]


# ---------------------------------------------------------------- COCO
def coco(root: Path, **changes: Any) -> list[str]:
    """Write a good picture with two objects and a crowd region, and a picture with one object that ``changes``."""
    value = instances("a.jpg")
    crowd = {"id": 73, "image_id": 7, "category_id": 4, "segmentation": dict(rle_encode(masks()[1])), "iscrowd": 1}
    value["annotations"].append(crowd)
    value["images"][1] |= {"height": H, "width": W, "file_name": "b.jpg"}
    value["annotations"][2] |= changes
    picture(root / "pictures" / "a.jpg")
    picture(root / "pictures" / "b.jpg")
    file = as_json(root / "given.json", value)
    return ["data", "import", "coco", "--images", str(root / "pictures"), "--annotations", str(file), "--out",
            str(root / "mine")]  # fmt: skip


def test_coco_comes_back_with_its_crowds(command: Command, tmp_path: Path) -> None:
    code, out, err = command(*coco(tmp_path))
    assert (code, err) == (0, "")
    assert "mine: split train: 2 records of 2 pictures" in out
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
    assert code == 0 and message in out and "b.jpg: no usable instance is left on this picture" in out
    assert len(opened(tmp_path / "mine")) == 1
    assert [message in entry["reason"] or message.split(": ", 1)[-1] in entry["reason"] for entry in
            report(tmp_path / "mine")["left_out"]] == [True, False]  # fmt: skip


def test_missing_unreadable_and_wrongly_sized_pictures_are_all_named(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    (tmp_path / "pictures" / "a.jpg").unlink()
    picture(tmp_path / "pictures" / "b.jpg", (H + 1, W))
    code, _, err = command(*line)
    assert code == 2
    assert "a.jpg: no such picture" in err
    assert "b.jpg has 30 x 21 pixels (width x height), but the file says 30 x 20; 1 annotations go with it" in err
    picture(tmp_path / "pictures" / "a.jpg")
    (tmp_path / "pictures" / "b.jpg").write_bytes(b"")
    assert "b.jpg: the file is empty" in command(*line)[2]
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and read_all(opened(tmp_path / "mine")) == 2


def test_pictures_without_an_instance_are_named(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    value = json.loads((tmp_path / "given.json").read_text())
    value["images"].append({"id": 9, "file_name": "c.jpg", "height": H, "width": W})
    as_json(tmp_path / "given.json", value)
    code, out, _ = command(*line)
    assert code == 0 and "nothing to ask about: " in out and "c.jpg: no instance but crowd regions" in out
    assert [entry["name"].split(": ")[1] for entry in report(tmp_path / "mine")["nothing_to_ask_about"]] == ["c.jpg"]


@pytest.mark.parametrize("cut", [0, 1, 60, -3])
def test_coco_that_is_cut_off_is_refused_whatever_is_asked(command: Command, tmp_path: Path, cut: int) -> None:
    line = coco(tmp_path)
    whole = (tmp_path / "given.json").read_text()
    (tmp_path / "given.json").write_text(whole[:cut])
    code, _, err = command(*line, "--skip-bad")
    assert code == 2 and "given.json:1: " in err and not (tmp_path / "mine").exists()


def test_a_picture_outside_of_the_folder_is_refused(command: Command, tmp_path: Path) -> None:
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
def test_some_pictures_can_be_held_out(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    assert command(*line, "--hold-out", "1", "--seed", "3")[0] == 0
    parts = [opened(tmp_path / "mine", split).queries(0)[0].images[0].name for split in ("train", "val")]
    assert sorted(parts) == ["a.jpg", "b.jpg"]
    code, out, _ = command("check", str(tmp_path / "mine" / "dataset.yaml"))
    assert code == 0 and "valid" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hold-out", "2"], "--hold-out 2: there are 2 pictures, and some have to stay"),
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
    as_json(tmp_path / "given.json", value)
    assert "classes is ['Dog', 'tennis racket'], but what is imported has" in command(*line, "--split", "val")[2]
    assert sorted(path.name for path in (tmp_path / "mine").rglob("*")) == before
    (tmp_path / "mine" / "import.json").unlink()
    assert "was not made by ullava data import" in command(*line, "--split", "val")[2]


# ---------------------------------------------------------------- LabelMe
def labelme(root: Path, *shapes: Any, **more: Any) -> list[str]:
    picture(root / "pictures" / "a.jpg")
    points = [list(pair) for pair in zip(SQUARE[::2], SQUARE[1::2], strict=True)]
    value = {"imagePath": "C:\\photos\\a.jpg", "imageHeight": H, "imageWidth": W, "shapes": list(shapes)}
    value["shapes"].append({"label": "dog", "points": points, "shape_type": "polygon"})
    as_json(root / "pictures" / "a.json", value | more)
    return ["data", "import", "labelme", "--images", str(root / "pictures"), "--out", str(root / "mine")]


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
        ({"label": "cat", "points": [[900, 900], [950, 950]], "shape_type": "rectangle"}, "leaves the picture"),
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
    path = tmp_path / "pictures" / "a.json"
    path.write_text(path.read_text()[:50])
    code, _, err = command(*line)
    assert code == 2 and "a.json:1: not valid JSON" in err and "is it cut off" in err
    as_json(path, {"shapes": {}})
    assert "not LabelMe: an object with a list 'shapes' is expected" in command(*line)[2]
    as_json(tmp_path / "pictures" / "b.json", {"shapes": []})
    assert "no picture 'b' in" in command(*line)[2]


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


# ---------------------------------------------------------------- masks
def trimap(root: Path) -> list[str]:
    """Write two pictures whose masks say 1 thing, 2 nothing, 3 border."""
    stored = np.full((H, W), 2, np.uint8)
    stored[masks()[0]] = 1
    stored[masks()[1]] = 3
    for name in ("a", "b"):
        picture(root / "pictures" / f"{name}.jpg")
        png(root / "trimaps" / f"{name}.png", stored)
    folders = ["--images", str(root / "pictures"), "--masks", str(root / "trimaps"), "--out", str(root / "mine")]
    return ["data", "import", "masks", *folders, "--labels", "1=pet", "--background", "2"]


def test_masks_become_classes_with_pixels_for_nobody(command: Command, tmp_path: Path) -> None:
    assert command(*trimap(tmp_path), "--ignore", "3")[0] == 0
    dataset = opened(tmp_path / "mine")
    (query,) = dataset.queries(0)
    assert (dataset.task, query.truth["class"], len(dataset)) == ("semantic", "pet", 2)
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0])
    np.testing.assert_array_equal(query.truth["ignore_mask"], masks()[1])


def test_masks_become_salient_objects(command: Command, tmp_path: Path) -> None:
    assert command(*trimap(tmp_path), "--ignore", "3", "--salient")[0] == 0
    dataset = opened(tmp_path / "mine")
    assert dataset.task == "salient"
    np.testing.assert_array_equal(dataset.queries(1)[0].turns[0].regions[0].mask, masks()[0])


def test_bad_masks_are_all_named(command: Command, tmp_path: Path) -> None:
    line = [*trimap(tmp_path), "--ignore", "3"]
    png(tmp_path / "trimaps" / "b.png", np.full((H, W), 7, np.uint8))
    picture(tmp_path / "pictures" / "c.jpg")
    png(tmp_path / "trimaps" / "c.png", np.full((H, W - 1), 1, np.uint8))
    png(tmp_path / "trimaps" / "d.png", np.full((H, W), 1, np.uint8))
    picture(tmp_path / "pictures" / "e.jpg")
    png(tmp_path / "trimaps" / "e.png", np.full((H, W, 3), 1, np.uint8))
    picture(tmp_path / "pictures" / "f.jpg")
    png(tmp_path / "trimaps" / "f.png", np.full((H, W), 2, np.uint8))
    code, _, err = command(*line)
    assert code == 2 and len(err.splitlines()) == 5
    for message in (
        "b.png: holds the value 7, which has no meaning; known: 1=pet",
        "c.png: has 29 x 20 pixels (width x height), but c.jpg has 30 x 20",
        "d.png: nothing of this name is in",
        "e.png: a label picture has one channel",
    ):
        assert message in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and "f.png: no pixel of a class" in out and len(opened(tmp_path / "mine")) == 1
    assert len(report(tmp_path / "mine")["left_out"]) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ignore", "1"], "value 1 is given two meanings"),
        (["--ignore", "2"], "value 2 is given two meanings"),
        (["--labels", "pet"], "--labels: 'pet': expected a stored value and a name"),
        (["--labels", "1=a", "1=b"], "--labels: value 1 is named twice"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(
    command: Command, tmp_path: Path, more: list[str], message: str
) -> None:
    code, _, err = command(*trimap(tmp_path), *more)
    assert code == 2 and message in err


def test_real_trimaps_come_back_whole(command: Command, tmp_path: Path, shared_dir: Path) -> None:
    given = shared_dir / "realdata" / "pets_sample"
    line = ["--images", str(given / "images"), "--masks", str(given / "trimaps"), "--out", str(tmp_path / "pets")]
    meaning = ["--labels", "1=pet", "--background", "2", "--ignore", "3", "--hold-out", "20", "--link"]
    code, out, err = command("data", "import", "masks", *line, *meaning)
    assert (code, err) == (0, ""), err
    assert "split train: 40 records" in out and "split val: 20 records" in out
    assert read_all(opened(tmp_path / "pets")) == 40


# ---------------------------------------------------------------- expressions
def refs(root: Path, *entries: dict[str, Any], name: str = "refs(me).p") -> list[str]:
    value = instances("a.jpg")
    value["images"][1] |= {"height": H, "width": W, "file_name": "b.jpg"}
    as_json(root / "instances.json", value)
    file = root / name
    given = list(entries or (ref(1, 70, "train", "the dog", "left"), ref(2, 71, "val", "racket")))
    _ = as_pickle(file, given) if file.suffix == ".p" else as_json(file, given)
    for each in ("a.jpg", "b.jpg"):
        picture(root / "pictures" / each)
    files = ["--refs", str(file), "--instances", str(root / "instances.json"), "--images", str(root / "pictures")]
    return ["data", "import", "refs", *files, "--out", str(root / "mine")]


@pytest.mark.parametrize("name", ["refs(me).p", "refs.json"])
def test_expressions_are_rewritten_as_records(command: Command, tmp_path: Path, name: str) -> None:
    code, _, err = command(*refs(tmp_path, name=name), "--part", "train")
    assert (code, err) == (0, "")
    dataset = opened(tmp_path / "mine")
    assert [query.truth["expression"] for query in dataset.queries(0)] == ["the dog", "left"]
    assert len(dataset) == 1 and read_all(dataset) == 2
    np.testing.assert_array_equal(dataset.queries(0)[0].turns[0].regions[0].mask, masks()[0])


def test_expressions_for_several_or_none_are_groups(command: Command, tmp_path: Path) -> None:
    groups = [ref(1, [70, 71], "train", "all", no_target=False), ref(2, [-1], "train", "a cow", no_target=True)]
    assert command(*refs(tmp_path, *groups, name="grefs.json"))[0] == 0
    both, none = (opened(tmp_path / "mine").queries(index)[0].turns[0] for index in range(2))
    assert (len(both.regions), none.regions) == (2, ())


def test_expressions_with_bad_masks_or_pictures_are_named(command: Command, tmp_path: Path) -> None:
    line = refs(tmp_path, ref(1, 70), ref(2, 71), ref(3, 72, image_id=8))
    value = json.loads((tmp_path / "instances.json").read_text())
    value["annotations"][1]["segmentation"] = [CORNER[:4]]
    as_json(tmp_path / "instances.json", value)
    (tmp_path / "pictures" / "b.jpg").unlink()
    code, _, err = command(*line)
    assert code == 2 and "ref_id 2: polygon 0 needs three points" in err and "b.jpg: no such picture" in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and len(opened(tmp_path / "mine")) == 1
    assert len(report(tmp_path / "mine")["left_out"]) == 2


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_something_is_refused(command: Command, tmp_path: Path) -> None:
    line = refs(tmp_path)
    as_pickle(tmp_path / "refs(me).p", [_Harm(tmp_path / "harm")])
    code, _, err = command(*line, "--skip-bad")
    assert code == 2 and "refs(me).p: refused: it names" in err
    assert not (tmp_path / "harm").exists() and not (tmp_path / "mine").exists()


def test_real_expressions_on_real_photos_can_be_imported(command: Command, tmp_path: Path, shared_dir: Path) -> None:
    """The joined part of refcocos, put into the form of refs(*).p with COCO's own masks."""
    root = shared_dir / "realdata"
    joins = json.loads((root / "refcocos" / "mask_join_dev.json").read_text())["joins"]
    coco = json.loads((root / "coco_tiny_liz" / "annotations" / "instances_val2017.json").read_text())
    known = {entry["id"]: entry for entry in coco["annotations"]}
    here = [join for join in joins if join["ann_id"] in known]
    if not here:
        pytest.skip("no joined expression is on the photos of coco_tiny_liz")
    entries = [ref(n, join["ann_id"], "dev", join["caption"], image_id=join["image_id"]) for n, join in enumerate(here)]
    as_json(tmp_path / "refs.json", entries)
    as_json(tmp_path / "instances.json", coco)
    files = ["--refs", str(tmp_path / "refs.json"), "--instances", str(tmp_path / "instances.json")]
    photos = str(root / "coco_tiny_liz" / "val2017")
    assert command("data", "import", "refs", *files, "--images", photos, "--out", str(tmp_path / "dev"))[0] == 0
    assert read_all(opened(tmp_path / "dev")) == len(here)


def test_a_folder_of_pictures_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path)
    line[line.index("--images") + 1] = str(tmp_path / "none")
    assert "none: no such folder" in command(*line)[2]
    assert "did you mean 'coco'" in command("data", "import", "cocoa", "--images", "x")[2]
