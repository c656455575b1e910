"""Mask PNGs, CVAT, Label Studio, FiftyOne and JSON Lines, read back by what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from tests.unit.exports.answered import BOX, MASKS, H, W, exported, plain, read_json, ring, thing, write_results

from ullava.errors import UserError
from ullava.exports.collection import Choice
from ullava.exports.formats import export_results
from ullava.exports.label_studio import brush_rle
from ullava.exports.settings import Settings
from ullava.geometry import rle_decode
from ullava.inference.batch import Question
from ullava.structures import Answer, MaskArray

FORMATS_EXTRA = "in the extra 'formats'"


# ---------------------------------------------------------------- PNG
def test_mask_images_hold_the_masks(tmp_path: Path) -> None:
    notes = exported(tmp_path, "masks").notes
    value = read_json(tmp_path / "out" / "masks.json")
    assert value["classes"] == {"1": "Dog", "2": "red ring", "3": "stairs", "4": "two parts"}
    for told, mask in zip(value["images"][0]["objects"], MASKS.values(), strict=True):
        stored = np.asarray(Image.open(tmp_path / "out" / told["file"]))
        assert set(np.unique(stored)) == {0, 255}
        np.testing.assert_array_equal(stored == 255, mask)
    dog, again = value["images"][2]["objects"]
    assert (dog["file"], dog["class"], dog["box_xyxy_px"]) == (None, "Dog", list(BOX))
    assert (again["score"], again["prompt"]) == (0.7, "And the ring?")
    assert "1 objects have no mask: they are in masks.json alone" in notes


def test_a_palette_image_shows_the_higher_score_on_top(tmp_path: Path) -> None:
    notes = exported(tmp_path, "masks", form="palette").notes
    stored = Image.open(tmp_path / "out" / "masks" / "a.png")
    assert stored.mode == "P" and stored.size == (W, H)
    labels = np.zeros((H, W), int)
    for number, name in ((4, "two parts"), (2, "red ring"), (3, "stairs")):  # rising scores
        labels[MASKS[name]] = number
    np.testing.assert_array_equal(np.asarray(stored), labels)
    hidden = int((MASKS["two parts"] & (MASKS["red ring"] | MASKS["stairs"])).sum())
    hidden += int((MASKS["red ring"] & MASKS["stairs"]).sum())
    assert f"objects of one class are one in a palette image; {hidden} pixels lie below another object" in notes


def test_a_palette_has_no_room_for_many_classes(tmp_path: Path) -> None:
    things = tuple(thing(f"thing {number}", plain()) for number in range(256))
    results = write_results(tmp_path / "r", [(Question("q", (tmp_path / "a.png",), "?"), Answer("", things))])
    with pytest.raises(UserError, match="256 classes, but a palette image has 255"):
        export_results(results, "masks", tmp_path / "out", Choice(), Settings(form="palette"))


# ---------------------------------------------------------------- CVAT
def cvat_shapes(path: Path) -> dict[str, list[ElementTree.Element]]:
    top = ElementTree.parse(path).getroot()
    assert top.findtext("version") == "1.1"
    return {image.attrib["name"]: [shape for shape in image if shape.tag != "tag"] for image in top.iter("image")}


def test_cvat_reads_the_masks(tmp_path: Path) -> None:
    masks = pytest.importorskip("cvat_sdk.masks", reason=f"cvat-sdk is {FORMATS_EXTRA}")
    exported(tmp_path, "cvat")
    shapes = cvat_shapes(tmp_path / "out" / "annotations.xml")
    assert list(shapes) == ["a.png", "b.jpg", "more/a.jpg"] and shapes["b.jpg"] == []
    for shape, (label, mask) in zip(shapes["a.png"], MASKS.items(), strict=True):
        left, top, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
        points = [*map(int, shape.attrib["rle"].split(", ")), left, top, left + width - 1, top + height - 1]
        assert shape.tag == "mask" and shape.attrib["label"] == label
        assert points == masks.encode_mask(mask)
        np.testing.assert_array_equal(masks.decode_mask(points, image_width=W, image_height=H), mask)
    box = shapes["more/a.jpg"][0]
    assert box.tag == "box" and [box.attrib[key] for key in ("xtl", "ytl", "xbr", "ybr")] == [
        "3.25", "4.50", "20.75", "17.00",
    ]  # fmt: skip
    assert {one.attrib["name"]: one.text for one in box} == {"score": "0.4000", "prompt": "Where is the dog?"}


def test_datumaro_reads_the_file_of_cvat(tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is in ullava[datumaro]")
    exported(tmp_path, "cvat")
    (tmp_path / "images").rename(tmp_path / "out" / "images")  # datumaro looks for them there
    dataset = datumaro.Dataset.import_from(str(tmp_path / "out"), "cvat")
    items = {item.id: item for item in dataset}
    np.testing.assert_array_equal(
        np.stack([shape.image.astype(bool) for shape in items["a"].annotations]), np.stack(list(MASKS.values()))
    )


def test_the_labels_of_cvat_make_a_task(tmp_path: Path) -> None:
    models = pytest.importorskip("cvat_sdk.models", reason=f"cvat-sdk is {FORMATS_EXTRA}")
    exported(tmp_path, "cvat")
    labels = read_json(tmp_path / "out" / "labels.json")
    made = [
        models.PatchedLabelRequest(
            **{**label, "attributes": [models.AttributeRequest(**one) for one in label["attributes"]]}
        )
        for label in labels
    ]
    assert [label.name for label in made] == ["Dog", "red ring", "stairs", "two parts"]


def test_characters_that_xml_cannot_hold_are_replaced(tmp_path: Path) -> None:
    answer = Answer("", (thing("cat\x01", plain()),))
    results = write_results(tmp_path / "r", [(Question("q", (tmp_path / "a.png",), "a\x02b & <c>"), answer)])
    export_results(results, "cvat", tmp_path / "out", Choice(), Settings())
    (shape,) = cvat_shapes(tmp_path / "out" / "annotations.xml")["a.png"]
    assert shape.attrib["label"] == "cat\ufffd" and shape[1].text == "a\ufffdb & <c>"


# ---------------------------------------------------------------- Label Studio
def decoded(rle: list[int]) -> Any:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason=f"label-studio-sdk is {FORMATS_EXTRA}")
    return brush.decode_rle(rle)


def test_label_studio_reads_the_brushes_as_its_own(tmp_path: Path) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason=f"label-studio-sdk is {FORMATS_EXTRA}")
    for mask in (*MASKS.values(), np.ones((1, 1), bool), np.ones((1, 20000), bool)):
        ours = brush_rle(mask)
        read = brush.decode_rle(ours).reshape(*mask.shape, 4)
        np.testing.assert_array_equal(read, np.repeat(mask[..., None], 4, axis=2) * np.uint8(255))


@settings(max_examples=30)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()))
def test_brushes_of_any_mask_are_read(mask: MaskArray) -> None:
    read = decoded(brush_rle(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(read[..., 3] == 255, mask)


def test_label_studio_takes_the_tasks(tmp_path: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason=f"label-studio-sdk is {FORMATS_EXTRA}")
    exported(tmp_path, "label-studio")
    config = interface.LabelInterface((tmp_path / "out" / "label_config.xml").read_text())
    tasks = read_json(tmp_path / "out" / "tasks.json")
    for task in tasks:
        for prediction in task["predictions"]:
            assert config.validate_prediction(prediction, return_errors=True) == []
            for region in prediction["result"]:
                assert config.validate_region(region)
    regions = tasks[0]["predictions"][0]["result"]
    for region, (label, mask) in zip(regions, MASKS.items(), strict=True):
        assert region["value"]["brushlabels"] == [label] and isinstance(region["id"], str)
        read = decoded(region["value"]["rle"]).reshape(H, W, 4)[..., 3]
        np.testing.assert_array_equal(read == 255, mask)


def test_boxes_of_label_studio_are_in_percent(tmp_path: Path) -> None:
    exported(tmp_path, "label-studio", image_url="https://example.org/")
    tasks = read_json(tmp_path / "out" / "tasks.json")
    assert [task["data"]["image"] for task in tasks] == [
        "https://example.org/a.png", "https://example.org/b.jpg", "https://example.org/more/a.jpg",
    ]  # fmt: skip
    assert tasks[1]["predictions"] == []
    (prediction,) = tasks[2]["predictions"]
    box = prediction["result"][0]
    assert prediction["model_version"] == "fake" and prediction["score"] == pytest.approx(0.55)
    assert (box["type"], box["from_name"], box["original_width"]) == ("rectanglelabels", "box", W)
    x0, y0, x1, y1 = BOX
    found = [box["value"][key] for key in ("x", "y", "width", "height")]
    assert found == pytest.approx([100 * x0 / W, 100 * y0 / H, 100 * (x1 - x0) / W, 100 * (y1 - y0) / H])


# ---------------------------------------------------------------- FiftyOne
def test_fiftyone_reads_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    data = pytest.importorskip("fiftyone.utils.data", reason="fiftyone is the extra 'fiftyone'")
    exported(tmp_path, "fiftyone")
    out = tmp_path / "out"
    assert data.FiftyOneDatasetImporter(str(out))._is_legacy_format_data()
    importer = data.LegacyFiftyOneDatasetImporter(str(out))
    importer.setup()
    samples = list(importer)  # needs no database
    assert [Path(sample.filepath).relative_to(out).as_posix() for sample in samples] == [
        "data/a.png", "data/b.jpg", "data/a-3.jpg",
    ]  # fmt: skip
    for found, (label, mask) in zip(samples[0].ullava.detections, MASKS.items(), strict=True):
        x, y, width, height = found.bounding_box * np.array([W, H, W, H])
        drawn = np.zeros((H, W), bool)
        drawn[round(y) : round(y + height), round(x) : round(x + width)] = found.mask
        assert found.label == label and found.prompt == "Segment everything."
        np.testing.assert_array_equal(drawn, mask)
    dog, again = samples[2].ullava.detections
    assert dog.mask is None and dog.confidence == 0.4
    assert again.model_box == pytest.approx([BOX[0] / W, BOX[1] / H, 17.5 / W, 12.5 / H])
    assert importer.get_dataset_info()["classes"]["ullava"][0] == "Dog"


# ---------------------------------------------------------------- JSON Lines
def test_prediction_lines_hold_one_answer_each(tmp_path: Path) -> None:
    exported(tmp_path, "jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["idx"] for line in lines] == ["masks", "nothing", "box", "both"]
    assert lines[0]["image_path"] == str(tmp_path / "images" / "a.png")
    united = np.logical_or.reduce(list(MASKS.values()))
    np.testing.assert_array_equal(rle_decode(lines[0]["mask"]), united)
    assert len(lines[0]["objects"]) == 3 and lines[0]["score"] == 0.9
    assert (lines[1]["box"], lines[1]["mask"], lines[1]["objects"]) == (None, None, [])
    assert (lines[2]["box"], lines[2]["mask"]) == (list(BOX), None)
    np.testing.assert_array_equal(rle_decode(lines[3]["mask"]), ring())
