"""Salient objects, semantic classes and reasoning questions from folders of images and masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, make_image, masks, png

from ullava.config.schema import DatasetEntry
from ullava.data.converters.published.convert import skipped_lines
from ullava.data.converters.published.labelme_shapes import read_shape
from ullava.data.loading.build import build_dataset, open_store
from ullava.data.loading.descriptor import locate
from ullava.errors import DataError

SALIENT = {
    "dut_omron": ("DUT-OMRON/DUT-OMRON-image", "DUT-OMRON/pixelwiseGT-new-PNG"),
    "duts_te": ("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
    "duts_tr": ("DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask"),
    "ecssd": ("ECSSD/images", "ECSSD/ground_truth_mask"),
    "msra_10k": ("MSRA10K_Imgs_GT/Imgs", "MSRA10K_Imgs_GT/Imgs"),
    "msra_b": ("MSRA-B", "MSRA-B"),
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ---------------------------------------------------------------- images and foreground masks
@pytest.mark.parametrize("name", SALIENT)
def test_salient_sets_are_read_as_they_are_unpacked(tmp_path, name):
    images, truth = (tmp_path / folder for folder in SALIENT[name])
    for number in (1, 2):
        make_image(images / f"0{number}.jpg")
        png(truth / f"0{number}.png", masks()[0].astype(np.uint8) * 255)
    dataset = build_dataset(name, DatasetEntry(), tmp_path)
    assert (len(dataset), dataset.task) == (2, "salient")
    query = dataset.queries(1)[0]
    assert query.images == (images / "02.jpg",)
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0])


def test_partners_that_are_missing_cut_off_or_of_another_size_are_all_named(tmp_path):
    images, truth = (tmp_path / folder for folder in SALIENT["ecssd"])
    for name in ("a", "b", "c", "e"):
        make_image(images / f"{name}.jpg")
    for name, shape in (("b", (H, W)), ("c", (H - 1, W)), ("d", (H, W)), ("e", (H, W))):
        path = png(truth / f"{name}.png", np.full(shape, 255, np.uint8))
    path.write_bytes(path.read_bytes()[:20])
    assert len(build_dataset("ecssd", DatasetEntry(), tmp_path)) == 1
    assert skipped_lines(open_store(locate("ecssd", DatasetEntry(), tmp_path)).facts) == [
        "1 left out: no mask of this name (ECSSD/images/a.jpg)",
        "1 left out: mask and image have different sizes (ECSSD/ground_truth_mask/c.png)",
        "1 left out: no image of this name (ECSSD/ground_truth_mask/d.png)",
        "1 left out: the mask cannot be read (ECSSD/ground_truth_mask/e.png)",
    ]
    (truth / "b.png").unlink()
    with pytest.raises(DataError, match="holds no records") as caught:
        build_dataset("ecssd", DatasetEntry(), tmp_path)
    assert "2 left out: no mask of this name (ECSSD/images/a.jpg, ECSSD/images/b.jpg)" in caught.value.problems


def test_a_new_image_is_seen(tmp_path):
    images, truth = (tmp_path / folder for folder in SALIENT["ecssd"])
    for name in ("a", "b"):
        make_image(images / f"{name}.jpg")
        png(truth / f"{name}.png", np.full((H, W), 255, np.uint8))
        count = len(build_dataset("ecssd", DatasetEntry(), tmp_path))
    assert count == 2


# ---------------------------------------------------------------- images and label images
def test_ade20k_labels_are_shifted_by_one_and_zero_is_nothing(tmp_path):
    stored = np.zeros((H, W), np.uint8)
    stored[masks()[0]] = 5  # tree, class 4
    stored[masks()[1]] = 150  # flag, class 149
    base = tmp_path / "ADEChallengeData2016"
    make_image(base / "images" / "training" / "x.jpg")
    png(base / "annotations" / "training" / "x.png", stored)
    tree, flag = build_dataset("ade20k", DatasetEntry(), tmp_path).queries(0)
    assert [query.truth["class"] for query in (tree, flag)] == ["tree", "flag"]
    np.testing.assert_array_equal(tree.turns[0].regions[0].mask, masks()[0])
    np.testing.assert_array_equal(tree.truth["ignore_mask"], stored == 0)
    png(base / "annotations" / "training" / "x.png", np.full((H, W), 151, np.uint8))
    with pytest.raises(DataError, match=r"x\.png: unknown class number 151; the class list has 150 classes"):
        build_dataset("ade20k", DatasetEntry(), tmp_path)


def test_cocostuff_leaves_out_merged_classes_and_says_so(tmp_path, caplog):
    stored = np.full((H, W), 255, np.uint8)
    stored[masks()[0]] = 17
    stored[masks()[1]] = 95  # building-other
    for name, array in (("a", stored), ("b", np.full((H, W), 95, np.uint8))):
        make_image(tmp_path / "coco2017" / "train2017" / f"{name}.jpg")
        png(tmp_path / "cocostuff" / "train2017" / f"{name}.png", array)
    dataset = build_dataset("cocostuff", DatasetEntry(), tmp_path)
    assert len(dataset) == 1
    assert [query.truth["class"] for query in dataset.queries(0)] == ["dog"]
    (told,) = caplog.messages
    assert told.endswith("train2017: 1 left out: no pixel of a class that is asked for (coco2017/train2017/b.jpg)")
    facts = open_store(locate("cocostuff", DatasetEntry(), tmp_path)).facts
    assert skipped_lines(facts) == [
        "1 left out: no pixel of a class that is asked for (coco2017/train2017/b.jpg)",
    ]


def test_class_numbers_agree_with_those_of_the_original_program(shared_dir):
    case = json.loads((shared_dir / "parity" / "ullava" / "datasets" / "case.json").read_text())["cocostuff"]
    config = locate("cocostuff", DatasetEntry(), Path(".")).config
    assert len(config.classes) == case["classes"]
    left_out = {number for number, name in enumerate(config.classes) if name in config.original.leave_out}
    assert sorted(left_out) == case["switched_off"]


# ---------------------------------------------------------------- LabelMe
def shape(label: str, points: list, kind: str = "polygon") -> dict:
    return {"label": label, "points": points, "shape_type": kind}


def pairs(flat: list[float]) -> list[list[float]]:
    return [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]


def reasoning(root: Path, name: str, shapes: list, text: object = ("what can it hold?",)) -> Path:
    make_image(root / "ReasonSeg" / "val" / f"{name}.jpg")
    value = {"text": list(text) if isinstance(text, tuple) else text, "is_sentence": True, "shapes": shapes}
    return as_json(root / "ReasonSeg" / "val" / f"{name}.json", value)


def test_reasonseg_unites_targets_and_keeps_what_to_ignore(tmp_path):
    shapes = [shape("target", pairs(SQUARE)), shape("target", pairs(CORNER)), shape("flag", [[0, 0]], "point")]
    reasoning(tmp_path, "a", [*shapes, shape("ignore", pairs(CORNER))], ("what can it hold?", "where to put it?"))
    reasoning(tmp_path, "b", [shape("ignore", pairs(CORNER))])
    dataset = build_dataset("reasonseg", DatasetEntry(split="val"), tmp_path)
    assert len(dataset) == 1
    query = dataset.queries(0)[0]
    assert query.turns[0].question == "<image>what can it hold? Answer with the mask."
    # The corner is target and ignored; both shapes are of one size, and the later one shows.
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0])
    np.testing.assert_array_equal(query.truth["ignore_mask"], masks()[1])
    facts = open_store(locate("reasonseg", DatasetEntry(split="val"), tmp_path)).facts
    assert (facts["skipped_named"], facts["sentences"]) == ([["b.json", "no target shape"]], 1)


def test_of_two_reasonseg_shapes_the_smaller_shows(tmp_path):
    whole = [[0, 0], [W, 0], [W, H], [0, H]]
    for name, labels in (("a", ("target", "ignore")), ("b", ("ignore", "target"))):
        outer, inner = labels
        reasoning(tmp_path, name, [shape(inner, pairs(SQUARE)), shape(outer, whole)])
    dataset = build_dataset("reasonseg", DatasetEntry(split="val"), tmp_path)
    for index, inside in ((0, False), (1, True)):
        query = dataset.queries(index)[0]
        np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0] == inside)
        np.testing.assert_array_equal(query.truth["ignore_mask"], masks()[0] != inside)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (shape("target", [[1, 1], [5, 5]]), "a polygon needs 3 points or more, this one has 2"),
        (shape("target", pairs(SQUARE), "polygone"), "shape_type 'polygone' is not known; did you mean 'polygon'?"),
        (shape("target", [[1, 1], [5, 5]], "line"), "a line has no outline; draw a polygon, a rectangle or a circle"),
        (shape("target", [[1, 1], [5, None], [7, 7]]), "'points' has to be a list of [x, y]"),
        (7, "a shape is an object, not int"),
    ],
)
def test_shapes_without_an_area_are_left_out_by_name(tmp_path, fault, message):
    reasoning(tmp_path, "a", [fault, shape("the cup", pairs(SQUARE))])
    dataset = build_dataset("reasonseg", DatasetEntry(split="val"), tmp_path)
    np.testing.assert_array_equal(dataset.queries(0)[0].turns[0].regions[0].mask, masks()[0])
    facts = open_store(locate("reasonseg", DatasetEntry(split="val"), tmp_path)).facts
    assert facts["skipped_named"] == [["a.json shapes[0]", message]]


def test_a_labelme_file_without_a_question_is_named(tmp_path):
    reasoning(tmp_path, "a", [shape("target", pairs(SQUARE))], [])
    with pytest.raises(DataError, match=r"a\.json: 'text' has to be a list of strings"):
        build_dataset("reasonseg", DatasetEntry(split="val"), tmp_path)


def test_a_labelme_file_that_is_cut_off_and_a_missing_image_are_named(tmp_path):
    path = reasoning(tmp_path, "a", [shape("target", pairs(SQUARE))])
    whole = path.read_text()
    path.write_text(whole[:40])
    with pytest.raises(DataError, match=r"a\.json:1: not valid JSON.*is it cut off"):
        build_dataset("reasonseg", DatasetEntry(split="val"), tmp_path)
    path.write_text(whole)
    path.with_suffix(".jpg").unlink()
    with pytest.raises(DataError, match=r"a\.json: no image a\.jpg beside it"):
        build_dataset("reasonseg", DatasetEntry(split="val"), tmp_path)


def test_rectangles_and_circles_have_outlines():
    assert read_shape(shape("x", [[1, 2], [4, 6]], "rectangle")).polygon == [1, 2, 4, 2, 4, 6, 1, 6]
    circle = np.array(read_shape(shape("x", [[10, 10], [13, 14]], "circle")).polygon).reshape(-1, 2)
    np.testing.assert_allclose(np.hypot(*(circle - 10).T), 5)


# ---------------------------------------------------------------- ADE20K with outlines
def test_ade20k_s_own_files_are_read_whole(shared_dir, monkeypatch, tmp_path):
    """Two real photographs: every object that is no part is a region, and its pixels are nearly those of its mask."""
    from ullava.media.images import read_label_png

    folder = shared_dir / "realdata" / "ade20k_sample"
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path))
    (tmp_path / "ADE20K").symlink_to(folder)
    dataset = build_dataset("ade20k_full", DatasetEntry(data_root=str(tmp_path)), tmp_path)
    assert len(dataset) == 2
    for index, name in enumerate(("ADE_train_00016900", "ADE_train_00016964")):
        things = json.loads((folder / f"{name}.json").read_text())["annotation"]["object"]
        whole = [thing for thing in things if thing["parts"]["ispartof"] == []]
        queries = dataset.queries(index)
        assert sum(len(query.turns[0].regions) for query in queries) == len(whole)
        first = next(query for query in queries if len(query.turns[0].regions) == 1)
        (thing,) = [thing for thing in whole if thing["name"].split(",")[0].strip() == first.truth["class"]]
        stored = read_label_png(folder / thing["instance_mask"]) == 255
        drawn = first.turns[0].regions[0].mask
        assert (stored & ~drawn).sum() / stored.sum() < 0.02, "the mask lies within the outline"
