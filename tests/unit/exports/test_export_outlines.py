"""LabelMe and YOLO files, read back by labelme and supervision; what they lose is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from scipy.ndimage import binary_fill_holes
from tests.unit.exports.answered import BOX, MASKS, H, W, exported, make_results, read_json, ring, thing, write_results

from ullava.errors import DataError
from ullava.exports.collection import Choice
from ullava.exports.formats import export_results
from ullava.exports.pixel_outlines import Loss, draw_rings, join_rings, pixel_rings
from ullava.exports.settings import Settings
from ullava.geometry import rle_decode
from ullava.inference.batch import Question
from ullava.structures import Answer, MaskArray

Command = Callable[..., tuple[int, str, str]]
MASK = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans())


@given(MASK)
def test_outlines_drawn_again_are_the_mask_without_its_holes(mask: MaskArray) -> None:
    rings, filled = pixel_rings(mask), binary_fill_holes(mask)
    np.testing.assert_array_equal(draw_rings(rings, *mask.shape), filled)
    canvas = Image.new("L", mask.shape[::-1])
    for ring_xy in rings:  # as labelme draws
        assert len(ring_xy) >= 3
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in ring_xy.tolist()], outline=1, fill=1)
    np.testing.assert_array_equal(np.asarray(canvas, bool), filled)


@given(MASK.filter(np.any))
def test_joined_parts_cover_the_mask(mask: MaskArray) -> None:
    rings = pixel_rings(mask)
    drawn = draw_rings([join_rings(rings)], *mask.shape)
    assert drawn[mask].all()
    if len(rings) == 1:
        np.testing.assert_array_equal(drawn, binary_fill_holes(mask))


def test_a_loss_is_counted() -> None:
    loss = Loss()
    assert loss.note("why") == []
    loss.add(ring(), ring())
    assert loss.note("why") == ["all 1 masks are read back as they are"]
    loss.add(ring(), binary_fill_holes(ring()))
    hole = int(binary_fill_holes(ring()).sum() - ring().sum())
    (note,) = loss.note("why")
    assert note == f"1 of 2 masks change by {100 * hole / (2 * ring().sum()):.2g} % of all mask pixels: why"


# ---------------------------------------------------------------- LabelMe
def labelme_instances(path: Path) -> tuple[Any, Any]:
    """What labelme itself makes of a file: the shapes, and the pixels of each object by (label, group_id)."""
    labelme = pytest.importorskip("labelme._label_file", reason="labelme is in the extra 'formats'")
    from labelme.utils import shape_to_mask

    file = labelme.LabelFile(str(path))
    objects: dict[tuple[str, int], MaskArray] = {}
    for shape in file.shapes:
        drawn = np.zeros((H, W), bool)
        if shape["shape_type"] == "mask":
            (x0, y0), (x1, y1) = np.asarray(shape["points"]).astype(int)
            drawn[y0 : y1 + 1, x0 : x1 + 1] = shape["mask"]
        else:
            drawn = shape_to_mask((H, W), shape["points"], shape["shape_type"])
        key = shape["label"], shape["group_id"]
        objects[key] = objects.get(key, np.zeros((H, W), bool)) | drawn
    return file, objects


@pytest.mark.parametrize("form", ["polygons", "masks"])
def test_labelme_reads_the_masks(tmp_path: Path, form: str) -> None:
    exported(tmp_path, "labelme", form=form)
    file, objects = labelme_instances(tmp_path / "out" / "a.json")
    assert file.image_path == "a.png" and file.image_data == (tmp_path / "images" / "a.png").read_bytes()
    assert list(objects) == [("stairs", 1), ("red ring", 2), ("two parts", 3)]
    for (label, _), drawn in objects.items():
        truth = binary_fill_holes(MASKS[label]) if form == "polygons" else MASKS[label]
        np.testing.assert_array_equal(drawn, truth)
    assert [shape["other_data"]["score"] for shape in file.shapes][:2] == [0.9, 0.8]
    assert {shape["description"] for shape in file.shapes} == {"Segment everything."}
    _, boxed = labelme_instances(tmp_path / "out" / "a-3.json")
    assert ("Dog", 1) in boxed
    assert read_json(tmp_path / "out" / "b.json")["shapes"] == []


def test_labelme_files_are_told_and_read_by_our_own_import(command: Command, tmp_path: Path) -> None:
    assert exported(tmp_path, "labelme").notes[-1].startswith("2 of 4 masks change by ")
    (tmp_path / "out").rename(tmp_path / "polygons")
    assert exported(tmp_path, "labelme", form="masks").notes[-1] == "all 4 masks are read back as they are"
    (tmp_path / "out" / "a.json").rename(tmp_path / "a.json")
    for path in (tmp_path / "out").glob("*.json"):
        path.unlink()
    (tmp_path / "a.json").rename(tmp_path / "out" / "a.json")
    code, _, errors = command(
        "data", "import", "labelme", "--images", str(tmp_path / "out"), "--out", str(tmp_path / "mine")
    )
    assert code == 0, errors
    (records,) = (tmp_path / "mine" / "annotations").glob("*.json")
    value = json.loads(records.read_text())
    names = {entry["id"]: entry["name"] for entry in value["categories"]}
    for entry in value["annotations"]:
        np.testing.assert_array_equal(rle_decode(entry["segmentation"]), MASKS[names[entry["category_id"]]])
    assert len(value["annotations"]) == len(MASKS)


def test_supervision_reads_the_polygons_of_labelme(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision", reason="supervision is the extra 'supervision'")
    exported(tmp_path, "labelme")
    read = sv.DetectionDataset.from_labelme(str(tmp_path / "out"), str(tmp_path / "out"))
    found = next(found for path, _, found in read if path.endswith("/a.png"))
    masks = {read.classes[label]: mask for label, mask in zip(found.class_id, found.mask, strict=True)}
    for label, mask in MASKS.items():
        np.testing.assert_array_equal(masks[label], binary_fill_holes(mask))


# ---------------------------------------------------------------- YOLO
def test_supervision_reads_the_lines_of_yolo(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision", reason="supervision is the extra 'supervision'")
    exported(tmp_path, "yolo-seg")
    out = tmp_path / "out"
    read = sv.DetectionDataset.from_yolo(str(out / "images"), str(out / "labels"), str(out / "data.yaml"))
    assert read.classes == ["Dog", "red ring", "stairs", "two parts"]
    found = next(found for path, _, found in read if path.endswith("/a.png"))
    masks = {read.classes[label]: mask for label, mask in zip(found.class_id, found.mask, strict=True)}
    for label in ("stairs", "red ring"):
        np.testing.assert_array_equal(masks[label], binary_fill_holes(MASKS[label]))
    expected = draw_rings([join_rings(pixel_rings(MASKS["two parts"]))], H, W)
    np.testing.assert_array_equal(masks["two parts"], expected)


def test_yolo_lines_cut_off_to_whole_pixels_are_the_mask(tmp_path: Path) -> None:
    """Readers that cut off (``astype(int32)``) get the same as those that round."""
    notes = exported(tmp_path, "yolo-seg").notes
    lines = (tmp_path / "out" / "labels" / "a.txt").read_text().splitlines()
    for line, (label, mask) in zip(lines, MASKS.items(), strict=True):
        number, *values = line.split()
        points = (np.asarray(values, float).reshape(-1, 2) * [W, H]).astype(np.int32)
        names = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"]
        assert names[int(number)] == label
        if label != "two parts":
            np.testing.assert_array_equal(draw_rings([points], H, W), binary_fill_holes(mask))
    assert (tmp_path / "out" / "labels" / "b.txt").read_text() == ""
    assert (tmp_path / "out" / "images" / "a-3.jpg").is_file()
    assert "left out: 1 objects without a mask (files for segmentation hold no boxes)" in notes
    assert any(note.startswith("3 of 4 masks change by ") for note in notes)


def test_boxes_alone_are_yolo_boxes(tmp_path: Path) -> None:
    make_results(tmp_path)
    question = Question("q", (tmp_path / "images" / "b.jpg",), "?")
    results = write_results(tmp_path / "boxes", [(question, Answer("", (thing("dog", None, BOX),)))])
    done = export_results(results, "yolo-seg", tmp_path / "out", Choice(), Settings())
    values = [float(value) for value in (tmp_path / "out" / "labels" / "b.txt").read_text().split()]
    x0, y0, x1, y1 = BOX
    expected = [0, (x0 + x1) / 2 / W, (y0 + y1) / 2 / H, (x1 - x0) / W, (y1 - y0) / H]
    assert values == pytest.approx(expected, abs=1e-6)
    assert "no object has a mask: the lines are boxes (YOLO detection)" in done.notes


@pytest.mark.parametrize("to", ["labelme", "yolo-seg", "fiftyone"])
def test_images_are_copied_or_linked_and_missing_ones_named(tmp_path: Path, to: str) -> None:
    exported(tmp_path, to, link=True)
    (link,) = (tmp_path / "out").rglob("a.png")
    assert link.is_symlink() and link.resolve() == (tmp_path / "images" / "a.png").resolve()
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "out").rename(tmp_path / "first")
    with pytest.raises(DataError, match="a.png: no such image"):
        exported(tmp_path, to)
    assert not (tmp_path / "out").exists()
