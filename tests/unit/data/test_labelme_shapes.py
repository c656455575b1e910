"""Every shape with an area becomes a mask of the right pixels; the others are refused by name, in one line."""

from __future__ import annotations

import base64
import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.originals import H, W, as_json, make_image, opened, read_all, report

from ullava.data.converters.published.labelme_shapes import read_shape
from ullava.errors import DataError

Command = Callable[..., tuple[int, str, str]]
BOX = [[5, 4], [15, 4], [15, 10], [5, 10]]


def filled(rows: slice = slice(4, 10), columns: slice = slice(5, 15)) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[rows, columns] = True
    return mask


def png64(array: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pasted(array: np.ndarray, x: float, y: float, **changes: Any) -> dict[str, Any]:
    height, width = array.shape
    points = [[x, y], [x + width - 1, y + height - 1]]
    return {"label": "cat", "points": points, "shape_type": "mask", "mask": png64(array)} | changes


def shape(kind: Any, points: Any, **more: Any) -> dict[str, Any]:
    return {"label": "cat", "points": points, "shape_type": kind} | more


def labelme(root: Path, *shapes: Any, name: str = "a", **more: Any) -> list[str]:
    make_image(root / "images" / f"{name}.jpg")
    value = {"imagePath": f"{name}.jpg", "imageHeight": H, "imageWidth": W, "shapes": list(shapes)} | more
    as_json(root / "images" / f"{name}.json", value)
    return ["data", "import", "labelme", "--images", str(root / "images"), "--out", str(root / "mine")]


# ---------------------------------------------------------------- areas
@pytest.mark.parametrize("kind", ["rectangle", "rotation", "oriented_rectangle", "quadrilateral", "polygon", "", None])
def test_four_corners_are_an_area(kind: str | None) -> None:
    np.testing.assert_array_equal(read_shape(shape(kind, BOX)).mask((H, W)), filled())


@pytest.mark.parametrize("kind", ["rectangle", "rotation"])
def test_corners_in_another_order_are_no_bow_tie(kind: str) -> None:
    crossed = [BOX[0], BOX[2], BOX[1], BOX[3]]
    np.testing.assert_array_equal(read_shape(shape(kind, crossed)).mask((H, W)), filled())


def test_a_turned_rectangle_keeps_its_turn() -> None:
    mask = read_shape(shape("rotation", [[10, 2], [18, 10], [10, 18], [2, 10]], direction=0.78)).mask((H, W))
    assert mask[10, 3] and mask[3, 10] and not mask[4, 4] and 120 <= mask.sum() <= 140


@pytest.mark.parametrize("inside", [1, 255])
def test_a_mask_is_pasted_at_its_box(inside: int) -> None:
    bits = np.full((6, 10), inside, np.uint8)
    bits[:2, :3] = 0
    wanted = filled()
    wanted[4:6, 5:8] = False
    np.testing.assert_array_equal(read_shape(pasted(bits, 5.0, 4.0)).mask((H, W)), wanted)
    one_bit = read_shape(pasted(bits.astype(bool), 5, 4))
    np.testing.assert_array_equal(one_bit.mask((H, W)), wanted)
    outer = read_shape(pasted(bits, 5, 4, points=[[5, 4], [15, 10]]))
    np.testing.assert_array_equal(outer.mask((H, W)), wanted)


@pytest.mark.parametrize("corner", [(-4, -3), (25, 15), (-4, 15), (-100, 0), (0, 900)])
def test_a_mask_over_the_edge_is_cut_there(corner: tuple[int, int]) -> None:
    x, y = corner
    rows, columns = slice(max(y, 0), max(y + 6, 0)), slice(max(x, 0), max(x + 10, 0))
    made = read_shape(pasted(np.ones((6, 10), bool), x, y)).mask((H, W))
    np.testing.assert_array_equal(made, filled(rows, columns))


SHAPE_FAULTS = {
    "three corners": (shape("rectangle", BOX[:3]), "a rectangle needs 2 or 4 points, this one has 3"),
    "turned, two corners": (shape("rotation", BOX[:2]), "a rotation needs 4 points, this one has 2"),
    "circle of three": (shape("circle", BOX[:3]), "a circle needs 2 points, this one has 3"),
    "point": (shape("point", BOX[:1]), "a point has no outline; draw a polygon, a rectangle or a circle"),
    "points": (shape("points", BOX), "a points has no outline"),
    "line": (shape("line", BOX[:2]), "a line has no outline"),
    "linestrip": (shape("linestrip", BOX), "a linestrip has no outline"),
    "unknown": (shape("rotated", BOX), "shape_type 'rotated' is not known"),
    "type of another kind": (shape([1], BOX), "shape_type '[1]' is not known"),
    "three numbers": (shape("polygon", [[*point, 0] for point in BOX]), "'points' has to be a list of [x, y]"),
    "a huge number": (shape("polygon", [[10**400, 0], *BOX]), "'points' has to be a list of [x, y]"),
    "points as text": (shape("polygon", "1,2,3"), "'points' has to be a list of [x, y]"),
    "label as number": (shape("polygon", BOX, label=7), "'label' has to be text that is not blank"),
    "no mask": (pasted(np.ones((2, 2), bool), 1, 1, mask=None), "'mask' has to be the base64 text of a PNG"),
    "mask of other text": (
        pasted(np.ones((2, 2), bool), 1, 1, mask="hello!"),
        "'mask' is not the base64 text of a PNG",
    ),
    "mask cut off": (pasted(np.ones((9, 9), bool), 1, 1, mask=png64(np.eye(9) > 0)[:60]), "'mask' is not the base64"),
    "mask of an image": (
        pasted(np.ones((2, 2), bool), 1, 1, mask=png64(np.ones((2, 2, 3), np.uint8))),
        "a mask has one channel, this one is RGB",
    ),
    "mask of another size": (
        pasted(np.ones((2, 2), bool), 1, 1, mask=png64(np.ones((3, 4), bool))),
        "the mask has 4 x 3 pixels (width x height), but its box 2 x 2",
    ),
    "box upside down": (pasted(np.ones((2, 2), bool), 1, 1, points=[[9, 9], [1, 1]]), "from the upper left to the"),
    "a huge box": (pasted(np.ones((2, 2), bool), 1, 1, points=[[0, 0], [1e9, 1e9]]), "more than 50 million pixels"),
    "outside": (pasted(np.ones((2, 2), bool), 900, 1), "the outline holds no pixel"),
    "group as list": (shape("polygon", BOX, group_id=[1]), "'group_id' has to be a number, text or null, not list"),
    "group as object": (shape("polygon", BOX, group_id={}), "'group_id' has to be a number, text or null, not dict"),
    "special token": (shape("polygon", BOX, label="cat [SEG]"), "'label' holds the special token [SEG]"),
    "end of text": (shape("polygon", BOX, label="cat</s>"), "'label' holds the special token </s>"),
    "line break": (shape("polygon", BOX, label="a\nb"), "'label' holds a line break"),
}


@pytest.mark.parametrize("fault", SHAPE_FAULTS)
def test_bad_shapes_are_refused_once_each_and_left_out_by_name(command: Command, tmp_path: Path, fault: str) -> None:
    bad, message = SHAPE_FAULTS[fault]
    line = labelme(tmp_path, shape("polygon", BOX, label="dog"), bad)
    code, _, err = command(*line)
    first, second = err.splitlines()
    assert code == 2 and message in first and "nothing was written" in second
    assert first.count("a.json") == 1 and "shapes[1]" in first
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and message in out and read_all(opened(tmp_path / "mine")) == 1
    assert len(report(tmp_path / "mine")["left_out"]) == 1


def test_masks_and_outlines_of_one_group_come_back_as_one_instance(command: Command, tmp_path: Path) -> None:
    half = pasted(np.ones((6, 5), bool), 5, 4, group_id="g")
    other = shape("rectangle", [[10, 4], [15, 10]], group_id="g")
    lone = pasted(np.eye(4) > 0, 20, 2)
    assert command(*labelme(tmp_path, half, other, lone))[0] == 0
    (query,) = opened(tmp_path / "mine").queries(0)
    first, second = query.turns[0].regions
    np.testing.assert_array_equal(first.mask, filled())
    assert (first.box_xyxy_px, second.mask.sum(), second.box_xyxy_px) == ((5, 4, 15, 10), 4, (20, 2, 24, 6))


# ---------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"imagePath": 7}, "'imagePath' has to be text or null, not int"),
        ({"imageHeight": "20"}, "'imageHeight' and 'imageWidth' have to be numbers"),
        ({"imageWidth": [30]}, "'imageHeight' and 'imageWidth' have to be numbers"),
        ({"shapes": None}, "not LabelMe: an object with a list 'shapes'"),
        ({"flags": json.loads("[" * 70 + "]" * 70)}, "nested too deeply"),
        ({"imagePath": "a\ud800.jpg"}, "half of a surrogate pair in the text of imagePath"),
        ({"imagePath": "a" * 5000}, "is longer than names of files can be (5000 letters)"),
    ],
)
def test_fields_of_another_kind_are_named_in_one_line(
    command: Command, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    line = labelme(tmp_path, shape("polygon", BOX), **more)
    labelme(tmp_path, shape("polygon", BOX), name="b")
    code, _, err = command(*line)
    assert code == 2 and message in err.splitlines()[0] and len(err.splitlines()) == 2 and "a.json" in err
    assert command(*line, "--skip-bad")[0] == 0 and len(opened(tmp_path / "mine")) == 1


def test_floats_and_windows_paths_are_ordinary(command: Command, tmp_path: Path) -> None:
    line = labelme(tmp_path, shape("polygon", BOX), imageHeight=float(H), imageWidth=float(W), imagePath="..\\x\\a.jpg")
    assert command(*line)[0] == 0 and read_all(opened(tmp_path / "mine")) == 1


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_files_in_another_encoding_are_refused_until_it_is_said(
    command: Command, tmp_path: Path, encoding: str
) -> None:
    line = labelme(tmp_path, shape("polygon", BOX, label="红色的猫"))
    path = tmp_path / "images" / "a.json"
    path.write_bytes(json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode(encoding))
    code, _, err = command(*line)
    assert code == 2 and "a.json:1: not UTF-8 text near byte" in err and "--encoding" in err
    assert command(*line, "--encoding", encoding)[0] == 0
    assert opened(tmp_path / "mine").queries(0)[0].truth["category"] == "红色的猫"
    assert "no text encoding is called 'nonsense'" in command(*line, "--encoding", "nonsense")[2]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_of_macos_and_accents_do_no_harm(command: Command, tmp_path: Path, form: str) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    name = unicodedata.normalize(form, "café")
    line = labelme(tmp_path, shape("polygon", BOX), name=name, imagePath=unicodedata.normalize(other, "café.jpg"))
    for stray in (f"._{name}.json", f"._{name}.jpg", ".DS_Store", "Thumbs.db"):
        (tmp_path / "images" / stray).write_bytes(b"\0\5\x16\7")
    assert command(*line)[0] == 0 and read_all(opened(tmp_path / "mine")) == 1
    (tmp_path / "images" / f"{unicodedata.normalize(other, 'café')}.json").write_text("{}")
    code, _, err = command(*line)
    assert code == 2 and "has the same name but for how accents are written" in err


def test_a_shape_is_checked_without_its_place() -> None:
    with pytest.raises(DataError, match="^a shape is an object, not int$"):
        read_shape(7)
