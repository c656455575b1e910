"""Class names: one name is one class, in one file, across files and across splits, however it is numbered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, make_image, masks, opened, png, read_all, report

from ullava.media.images import read_label_png

Command = Callable[..., tuple[int, str, str]]


def coco(root: Path, split: str, categories: list[tuple[int, str]], used: list[int], *more: str) -> list[str]:
    """Write a file of one image with an instance of each ``used`` category; return the command."""
    outlines = [SQUARE, CORNER, [20.0, 2.0, 25.0, 2.0, 25.0, 8.0, 20.0, 8.0]]
    make_image(root / "images" / f"{split}.jpg")
    value = {
        "images": [{"id": 0, "file_name": f"{split}.jpg", "height": H, "width": W}],
        "annotations": [
            {"id": place, "image_id": 0, "category_id": number, "segmentation": [outlines[place]], "iscrowd": 0}
            for place, number in enumerate(used)
        ],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    file = as_json(root / f"{split}.json", value)
    return ["data", "import", "coco", "--images", str(root / "images"), "--annotations", str(file), "--split", split,
            "--out", str(root / "mine"), *more]  # fmt: skip


def labelme(root: Path, split: str, *labels: str) -> list[str]:
    """Write an image with a rectangle for each label; return the command."""
    folder = root / split
    make_image(folder / "a.jpg")
    shapes = [{"label": label, "points": [[1 + 4 * k, 1], [4 + 4 * k, 6]], "shape_type": "rectangle"}
              for k, label in enumerate(labels)]  # fmt: skip
    as_json(folder / "a.json", {"imagePath": "a.jpg", "shapes": shapes})
    return ["data", "import", "labelme", "--images", str(folder), "--split", split, "--out", str(root / "mine")]


def asked(root: Path, split: str) -> dict[str, tuple[int, float]]:
    """What a split asks for: number of the category, left side of the first box."""
    dataset = opened(root / "mine", split)
    turns = [(query.truth, query.turns[0].regions[0].box_xyxy_px) for query in dataset.queries(0)]
    return {truth["category"]: (truth["category_id"], box[0]) for truth, box in turns}


THREE = [(1, "cup"), (2, "lamp"), (3, "book")]


def test_further_splits_are_joined_by_name_never_by_number(command: Command, tmp_path: Path) -> None:
    assert command(*coco(tmp_path, "train", THREE, [1, 2, 3]))[0] == 0
    others: dict[str, tuple[list[tuple[int, str]], list[int]]] = {
        "fewer": ([(1, "cup"), (3, "book")], [1, 3]),
        "renumbered": ([(0, "book"), (1, "lamp"), (77, "cup")], [77, 1, 0]),
        "otherwise": ([(3, "Book"), (1, " CUP")], [1, 3]),
        "unused": ([*THREE, (4, "vase")], [2]),
    }
    for split, (categories, used) in others.items():
        code, _, err = command(*coco(tmp_path, split, categories, used))
        assert (code, err) == (0, ""), split
    assert asked(tmp_path, "train") == {"cup": (1, 5), "lamp": (2, 1), "book": (3, 20)}
    assert asked(tmp_path, "fewer") == {"cup": (1, 5), "book": (3, 1)}
    assert asked(tmp_path, "renumbered") == {"cup": (1, 5), "lamp": (2, 1), "book": (3, 20)}
    assert asked(tmp_path, "otherwise") == {"cup": (1, 5), "book": (3, 1)}
    assert asked(tmp_path, "unused") == {"lamp": (2, 5)}


def test_new_names_are_refused_with_the_option_that_adds_them(command: Command, tmp_path: Path) -> None:
    assert command(*coco(tmp_path, "train", THREE, [1, 2, 3]))[0] == 0
    line = coco(tmp_path, "val", [(1, "cups"), (2, "vase")], [1, 2])
    code, _, err = command(*line)
    assert code == 2 and "class 'cups' is not among the dataset's classes; did you mean 'cup'?" in err
    assert "class 'vase' is not among the dataset's classes; known: book, cup, lamp (--classes 'vase' adds it)" in err
    code, out, _ = command(*line, "--classes", "vase", "--skip-bad")
    assert code == 0 and "left out: 1" in out and asked(tmp_path, "val") == {"vase": (4, 1)}
    assert opened(tmp_path / "mine", "train").queries(0)
    assert "- vase" in (tmp_path / "mine" / "dataset.yaml").read_text()


def test_the_list_of_classes_can_be_given_up_front(command: Command, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\ufefflamp\nvase, blue\n\ncup\nbook\n", encoding="utf-8")
    assert command(*coco(tmp_path, "train", THREE, [1, 3], "--classes", str(names)))[0] == 0
    assert asked(tmp_path, "train") == {"cup": (3, 5), "book": (4, 1)}
    assert command(*coco(tmp_path, "val", [(9, "vase, blue")], [9]))[0] == 0
    assert asked(tmp_path, "val") == {"vase, blue": (2, 5)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cup,,lamp", "a file with one name a line, or names between commas, none of them blank"),
        ("", "none of them blank"),
        ("cup,Cup", "'cup' and 'Cup' are one class; name it once"),
        (",".join(f"class number {n}" for n in range(500)), "class 'cup' is not among the dataset's classes"),
    ],
)
def test_lists_of_classes_that_cannot_be_are_refused(
    command: Command, tmp_path: Path, given: str, message: str
) -> None:
    code, _, err = command(*coco(tmp_path, "train", THREE, [1], "--classes", given))
    assert code == 2 and message in err and not (tmp_path / "mine").exists()


def test_labelme_splits_are_joined_by_name(command: Command, tmp_path: Path) -> None:
    assert command(*labelme(tmp_path, "train", "cup", "lamp", "book"))[0] == 0
    assert command(*labelme(tmp_path, "val", "lamp", "Cup"))[0] == 0
    assert asked(tmp_path, "train") == {"book": (1, 9), "cup": (2, 5 - 4), "lamp": (3, 5)}
    assert asked(tmp_path, "val") == {"cup": (2, 5), "lamp": (3, 1)}
    code, _, err = command(*labelme(tmp_path, "more", "vase"))
    assert code == 2 and "class 'vase' is not among the dataset's classes" in err
    assert command(*labelme(tmp_path, "more", "vase"), "--classes", "vase")[0] == 0
    assert asked(tmp_path, "more") == {"vase": (4, 1)}


def test_mask_splits_are_joined_by_name(command: Command, tmp_path: Path) -> None:
    def line(split: str, stored: int, *labels: str) -> list[str]:
        make_image(tmp_path / split / "images" / "a.jpg")
        png(tmp_path / split / "masks" / "a.png", masks()[0].astype(np.uint8) * stored)
        where = [f"--{kind}={tmp_path / split / kind}" for kind in ("images", "masks")]
        return [
            "data",
            "import",
            "masks",
            *where,
            "--labels",
            *labels,
            "--split",
            split,
            "--out",
            str(tmp_path / "mine"),
        ]

    assert command(*line("train", 1, "1=pet", "2=leash"))[0] == 0
    assert command(*line("val", 7, "7=Leash"))[0] == 0
    assert set(np.unique(read_label_png(tmp_path / "mine" / "masks" / "val" / "a.png"))) == {0, 2}
    (query,) = opened(tmp_path / "mine", "val").queries(0)
    assert query.truth["class"] == "leash"
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0])
    code, _, err = command(*line("more", 1, "1=ball"))
    assert code == 2 and "--labels: class 'ball' is not among the dataset's classes; known: leash, pet" in err
    assert command(*line("more", 1, "1=ball"), "--classes", "ball")[0] == 0
    assert "salient-object data has no classes" in command(*line("x", 1, "1=a"), "--salient", "--classes", "a")[2]


# ---------------------------------------------------------------- several files of one image
def test_labelme_files_of_one_image_are_joined(command: Command, tmp_path: Path) -> None:
    line = labelme(tmp_path, "drawn", "cup", "lamp")
    value: dict[str, Any] = json.loads((tmp_path / "drawn" / "a.json").read_text())
    value["shapes"] = [value["shapes"][0], value["shapes"][1] | {"label": "cup"}]
    as_json(tmp_path / "drawn" / "again.json", value)
    as_json(tmp_path / "drawn" / "b.json", {"imagePath": "b.jpg", "shapes": value["shapes"]})
    make_image(tmp_path / "drawn" / "b.jpg")
    line[line.index("drawn")] = "train"
    code, out, _ = command(*line, "--hold-out", "1")
    assert code == 0 and "again.json: annotates a.jpg, as a.json does" in out
    assert "again.json: a 'cup' is there twice, the same one" in out
    assert len(report(tmp_path / "mine")["joined"]) == 2
    parts = {split: opened(tmp_path / "mine", split) for split in ("train", "val")}
    assert [len(part) for part in parts.values()] == [1, 1], "one image is on one side"
    assert sorted(read_all(part) for part in parts.values()) == [2, 3]


def test_two_masks_of_one_image_are_refused(command: Command, tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "images" / "b.jpg").symlink_to("a.jpg")
    for place, name in enumerate("ab"):
        png(tmp_path / "masks" / f"{name}.png", masks()[place].astype(np.uint8))
    code, _, err = command("data", "import", "masks", "--images", str(tmp_path / "images"), "--masks",
                           str(tmp_path / "masks"), "--labels", "1=pet", "--out", str(tmp_path / "mine"))  # fmt: skip
    assert code == 2 and "b.jpg is the image of a.png too; which mask is meant?" in err
