"""What an import tells: the reason that counts, once, with the file's name; nothing that is done goes unsaid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.coco_files import given
from tests.unit.data.originals import H, W, as_json, instances, make_image, opened, ref, report

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", [" ", "cup [SEG]", "a\nb", None])
def test_unusable_names_of_all_categories_are_the_reason(command: Command, tmp_path: Path, name: str | None) -> None:
    def change(value: dict[str, Any]) -> None:
        for category in value["categories"]:
            category["name"] = name

    for more in ((), ("--skip-bad",)):
        code, _, err = command(*given(tmp_path, change), *more)
        first, second, last = err.splitlines()
        assert code == 2 and "given.json:1: categories[0]: 'name'" in first and "categories[1]: 'name'" in second
        assert last.endswith("given.json: no category is usable; nothing was written")


def test_a_box_beyond_every_float_is_a_box_that_disagrees(
    command: Command, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    code, out, _ = command(*given(tmp_path, lambda value: value["annotations"][0].update(bbox=[1e308] * 4)))
    assert code == 0 and "annotation 70: 'bbox' [1e+308" in out
    assert [w for w in recwarn if issubclass(w.category, RuntimeWarning)] == []


def test_images_that_splits_share_are_told(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path)
    assert command(*line)[0] == 0
    Image.fromarray(np.full((H, W, 3), 77, np.uint8)).save(tmp_path / "images" / "b.jpg")
    code, out, _ = command(*line, "--split", "val")
    assert code == 0 and "a.jpg: is a copy of images/train/a.jpg" in out and "b.jpg: is a copy" not in out
    assert [entry["name"] for entry in report(tmp_path / "mine", "val")["copies"]] == ["a.jpg"]


@pytest.mark.parametrize("labels", ["1=cup,2=lamp", "1=cup, 2=lamp", "1=cup;2=lamp", "1=cup,"])
def test_labels_between_commas_are_refused(command: Command, tmp_path: Path, labels: str) -> None:
    folder = str(tmp_path)
    code, _, err = command(
        "data", "import", "masks", "--images", folder, "--masks", folder, "--labels", labels, "--out", folder + "/o"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert f"--labels: '{labels}': labels stand apart, without commas: --labels 1=pet 2=leash" in err


def expressions(root: Path, content: Any) -> list[str]:
    make_image(root / "images" / "a.jpg")
    as_json(root / "instances.json", instances("a.jpg"))
    as_json(root / "refs.json", content)
    return ["data", "import", "refs", "--refs", str(root / "refs.json"), "--instances", str(root / "instances.json"),
            "--images", str(root / "images"), "--out", str(root / "mine")]  # fmt: skip


def test_a_part_under_another_name_is_told(command: Command, tmp_path: Path) -> None:
    line = expressions(tmp_path, [ref(1, 70, "val", "the dog")])
    code, out, _ = command(*line, "--part", "val")
    assert code == 0 and "note: --part val: becomes the split 'train' of the dataset; --split val calls it" in out
    code, out, _ = command(*line, "--part", "val", "--split", "val")
    assert code == 0 and "becomes the split" not in out and len(opened(tmp_path / "mine", "val")) == 1


def test_an_entry_that_is_no_object_is_a_fault_of_every_part(command: Command, tmp_path: Path) -> None:
    line = expressions(tmp_path, [ref(1, 70, "val", "the dog"), [ref(2, 71, "val", "racket")]])
    for part in ("val", "all"):
        code, _, err = command(*line, "--part", part)
        assert code == 2 and "refs.json: entry 1: an object is expected, not list" in err


def test_splits_that_are_no_text_are_told_where_a_part_is_missed(command: Command, tmp_path: Path) -> None:
    code, _, err = command(*expressions(tmp_path, [ref(1, 70, "val", "dog") | {"split": 3}]), "--part", "val")
    assert code == 2 and "no expressions of the split 'val' (there are: with a split that is no text 1)" in err


def test_a_file_without_anything_is_named(command: Command, tmp_path: Path) -> None:
    code, _, err = command(*expressions(tmp_path, []))
    assert code == 2 and err == f"error: {tmp_path / 'refs.json'}: nothing usable was found; nothing was written\n"


def labelme(root: Path, **changes: Any) -> list[str]:
    make_image(root / "drawn" / "a.jpg")
    shape = {"label": "cat", "points": [[5, 4], [15, 4], [15, 10]], "shape_type": "polygon"}
    value = {"imagePath": "a.jpg", "imageHeight": H, "imageWidth": W, "shapes": [shape]} | changes
    (root / "drawn" / "a.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return ["data", "import", "labelme", "--images", str(root / "drawn"), "--out", str(root / "mine")]


@pytest.mark.parametrize("sizes", [{"imageHeight": -1}, {"imageHeight": 0, "imageWidth": 0}, {"imageHeight": None}])
def test_labelme_sizes_that_say_nothing_are_measured(command: Command, tmp_path: Path, sizes: dict[str, Any]) -> None:
    assert command(*labelme(tmp_path, **sizes))[0] == 0


def test_a_labelme_size_beside_a_missing_one_is_compared(command: Command, tmp_path: Path) -> None:
    code, _, err = command(*labelme(tmp_path, imageHeight=None, imageWidth=W + 1))
    assert code == 2 and f"but the file says {W + 1} x ?" in err


def test_a_file_is_named_once_and_with_its_line(command: Command, tmp_path: Path) -> None:
    line = labelme(tmp_path)
    file = tmp_path / "drawn" / "a.json"
    file.write_bytes(file.read_bytes().replace(b'"cat"', b'"caf\xe9"'))
    first = command(*line)[2].splitlines()[0]
    assert first.startswith(f"error: {file}:1: not UTF-8 text near byte") and first.count("a.json") == 1


def test_a_mask_that_says_how_it_is_turned_is_refused(command: Command, tmp_path: Path) -> None:
    make_image(tmp_path / "i" / "a.jpg")
    mask = np.zeros((H, W), np.uint8)
    mask[4:10, 5:15] = 1
    exif = Image.Exif()
    exif[0x0112] = 3
    (tmp_path / "m").mkdir()
    line = ["data", "import", "masks", "--images", str(tmp_path / "i"), "--masks", str(tmp_path / "m"), "--out",
            str(tmp_path / "mine")]  # fmt: skip
    for more, scale in ((("--labels", "1=cup"), 1), (("--salient",), 255)):
        Image.fromarray(mask * scale).save(tmp_path / "m" / "a.png", exif=exif.tobytes())
        code, _, err = command(*line, *more)
        assert code == 2 and "a.png: the mask has an EXIF orientation of its own (3)" in err
    Image.fromarray(mask).save(tmp_path / "m" / "a.png")
    assert command(*line, "--labels", "1=cup")[0] == 0


@pytest.mark.parametrize("content", [b"{}{}", b"[]", b"\xff", b""])
def test_a_damaged_report_of_earlier_imports_is_named(command: Command, tmp_path: Path, content: bytes) -> None:
    line = given(tmp_path)
    assert command(*line)[0] == 0
    (tmp_path / "mine" / "import.json").write_bytes(content)
    code, _, err = command(*line, "--split", "val")
    assert (code, err.count("\n")) == (2, 1) and "import.json" in err
    assert not (tmp_path / "mine" / "annotations" / "val.json").exists()
