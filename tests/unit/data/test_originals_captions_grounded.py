"""GranD-f and Flickr30k Entities: small files in the authors' forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, make_image, masks
from tests.unit.evaluation.answering import Perfect

from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.data.converters.published.convert import skipped_lines
from ullava.data.loading.build import build_dataset, open_store
from ullava.data.loading.descriptor import locate
from ullava.errors import DataError
from ullava.evaluation.run import evaluate
from ullava.geometry import rle_encode

SQUARE_MASK, CORNER_MASK = masks()
TRAIN = Path("GranDf/annotations/train")
EVAL = Path("GranDf/annotations/val_test")


def code(mask: np.ndarray) -> dict[str, Any]:
    return {"size": [H, W], "counts": rle_encode(mask)["counts"]}


NOTHING = code(np.zeros((H, W), bool))


def answers(root: Path, name: str, **entry: Any) -> list[str]:
    dataset = build_dataset(name, DatasetEntry(form="original", **entry), root)
    return [dataset.queries(index)[0].turns[0].answer for index in range(len(dataset))]


def left_out(root: Path, name: str, **entry: Any) -> str:
    return "\n".join(skipped_lines(open_store(locate(name, DatasetEntry(form="original", **entry), root)).facts))


# ---------------------------------------------------------------- GranD-f
def people_made(root: Path, **changes: Any) -> Path:
    make_image(root / "GranDf/GranDf_HA_images/train/sa_1.jpg")
    groundings: dict[str, dict[str, Any]] = {
        "a red cup": {"token_positives": [16, 25], "rle_masks": [code(CORNER_MASK)]},
        "Two dogs": {"token_positives": [0, 8], "rle_masks": [[code(SQUARE_MASK)], code(CORNER_MASK)]},
        "cup": {"token_positives": [22, 25], "rle_masks": [code(SQUARE_MASK)]},
        "grass": {"token_positives": [29, 34], "rle_masks": [NOTHING]},
    }
    first = {"file_name": "sa_1.jpg", "caption": '"Two dogs run\nto a red cup on grass."', "groundings": groundings}
    second = {"file_name": "sa_1.jpg", "caption": "Nothing here.", "groundings": {}}
    return as_json(root / TRAIN / "GranDf_HA_GCG_train.json", [first | changes, second])


def test_captions_that_people_marked(tmp_path: Path) -> None:
    people_made(tmp_path)
    (told,) = answers(tmp_path, "grandf_ha")
    assert told == "[tag]Two dogs[/tag][SEG][SEG] run to [tag]a red cup[/tag][SEG] on grass."
    lines = left_out(tmp_path, "grandf_ha")
    assert "1 left out: a mask without a pixel (record 0: grass)" in lines
    assert "1 left out: a phrase that begins within another one (record 0: cup)" in lines
    assert "1 left out: no phrase with a mask (record 1)" in lines


@pytest.mark.parametrize(
    "changes",
    [{"groundings": []}, {"groundings": {"x": {"token_positives": [1, 2]}}}],
)
def test_a_record_of_another_form_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = people_made(tmp_path, **changes)
    with pytest.raises(DataError, match=rf"{path}:1: record 0: a field is missing or has the wrong kind of value"):
        answers(tmp_path, "grandf_ha")


@pytest.mark.parametrize("caption", [7, '"  "', "A [SEG] dog."])
def test_a_caption_that_no_answer_can_be_made_of_is_left_out(tmp_path: Path, caption: Any) -> None:
    people_made(tmp_path, caption=caption)
    with pytest.raises(DataError, match=r"1 left out: (a caption that is no text|a blank|.*special).* \(record 0\)"):
        answers(tmp_path, "grandf_ha")


def test_sentences_are_found_in_the_caption(tmp_path: Path) -> None:
    make_image(tmp_path / "coco_2014/train2014/a.jpg")
    refs = [
        {"sentence": "the Dog on grass", "segmentation": [SQUARE]},
        {"sentence": "grass by a cup", "segmentation": [CORNER]},
        {"sentence": "a horse", "segmentation": [CORNER]},
        {"sentence": "the dog on grass", "segmentation": [CORNER]},
    ]
    told = {"img_file_name": "a.jpg", "caption": "The dog on grass by a cup sleeps.", "refs": refs}
    as_json(tmp_path / TRAIN / "RefCOCOg_GCG_train.json", [{"7": told}, {"8": told | {"img_file_name": "no.jpg"}}])
    assert answers(tmp_path, "grandf_refcocog", split="train") == [
        "[tag]The dog on[/tag][SEG][SEG] [tag]grass by a cup[/tag][SEG] sleeps."
    ]
    lines = left_out(tmp_path, "grandf_refcocog", split="train")
    assert "the caption does not hold (record 0)" in lines and "an image that cannot be read (record 1)" in lines


def test_annotations_of_one_phrase_are_its_masks(tmp_path: Path) -> None:
    make_image(tmp_path / "flikcr_30k/train/1.jpg")
    image = {"id": 3, "file_name": "1.jpg", "height": H, "width": W, "caption": "Two men by a wall."}

    def thing(span: list[int], mask: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"id": len(more), "image_id": 3, "tokens_positive": [span, [0, 1]], "sam_mask": mask} | more

    wall = thing([11, 17], code(SQUARE_MASK), ignore=True)
    notes = [thing([0, 7], code(SQUARE_MASK)), thing([0, 7], code(CORNER_MASK)), wall, thing([11, 17], NOTHING)]
    path = as_json(tmp_path / TRAIN / "flickr_mergedGT_GCG_train.json", {"images": [image], "annotations": notes})
    assert answers(tmp_path, "grandf_flickr30k", split="train") == ["[tag]Two men[/tag][SEG][SEG] by a wall."]
    as_json(path, {"images": [], "annotations": notes})
    with pytest.raises(DataError, match="annotations of image 3, which 'images' does not have"):
        answers(tmp_path, "grandf_flickr30k", split="train")


def test_the_evaluation_files_are_joined_and_scored(tmp_path: Path) -> None:
    make_image(tmp_path / "GranDf/GranDf_HA_images/val_test/sa_1.jpg")
    caption = {"id": 0, "image_id": "sa_1", "caption": "A dog by a cup.", "labels": ["a dog", "red cup"]}
    other = {"id": 1, "image_id": "sa_1", "caption": "A dog.", "labels": ["A dog"]}
    lacking = {"id": 2, "image_id": "sa_2", "caption": "A dog.", "labels": ["A dog"]}
    images = [{"id": "sa_1"}, {"id": "sa_2"}, {"id": "sa_3"}]
    told_of = {"images": images, "annotations": [caption, other, lacking]}
    as_json(tmp_path / EVAL / "val_gcg_coco_caption_gt.json", told_of)
    notes = [{"image_id": "sa_1", "segmentation": code(mask), "category_id": 1} for mask in (SQUARE_MASK, CORNER_MASK)]
    as_json(tmp_path / EVAL / "val_gcg_coco_mask_gt.json", {"images": images, "annotations": notes})
    dataset = build_dataset("grandf_eval", DatasetEntry(split="val"), tmp_path)
    (query,) = dataset.queries(0)
    assert query.turns[0].answer == "[tag]A dog[/tag][SEG] by a cup." and len(query.turns[0].regions) == 2
    assert query.truth["references"] == ["A dog by a cup.", "A dog."]
    lines = left_out(tmp_path, "grandf_eval", split="val")
    assert "not as many labels as masks, or none (image sa_2)" in lines and "no caption (image sa_3)" in lines
    told = evaluate(Perfect(), {"val": dataset}, EvalRecipe(dataset={}), tmp_path / "out", progress=False)
    figures = told["results"][0]["metrics"]
    assert figures["AP50"] == figures["mIoU"] == figures["mask recall (words)"] == pytest.approx(100.0)


# ---------------------------------------------------------------- Flickr30k Entities
XML = """<annotation><filename>7.jpg</filename><size><width>{w}</width><height>{h}</height><depth>3</depth></size>
<object><name>1</name><name>2</name><bndbox><xmin>6</xmin><ymin>5</ymin><xmax>15</xmax><ymax>10</ymax></bndbox></object>
<object><name>2</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""
SENTENCES = """[/EN#1/people/other A man 's dog] and [/EN#2/people two men] walk in [/EN#3/scene a park] .
[/EN#0/notvisual It] rains ."""


def entities(root: Path, sentences: str = SENTENCES, xml: str = XML) -> Path:
    folder = root / "flickr30k_entities"
    make_image(root / "flickr30k-images/7.jpg")
    for name, text in (("Sentences/7.txt", sentences), ("Annotations/7.xml", xml.format(h=H, w=W)), ("val.txt", "7\n")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_sentences_and_boxes(tmp_path: Path) -> None:
    entities(tmp_path)
    dataset = build_dataset("flickr30k_entities", DatasetEntry(split="val"), tmp_path)
    first, second = (dataset.queries(index)[0] for index in range(2))
    assert first.turns[0].answer == "[tag]A man 's dog[/tag][LOC] and [tag]two men[/tag][LOC][LOC] walk in a park ."
    assert [region.box_xyxy_px for region in first.turns[0].regions] == [
        (5.0, 4.0, 15.0, 10.0), (0.0, 0.0, 3.0, 4.0), (5.0, 4.0, 15.0, 10.0),
    ]  # fmt: skip
    assert second.turns[0].answer == "It rains ." and second.truth["references"][1] == "It rains ."


@pytest.mark.parametrize(
    ("sentences", "xml", "message"),
    [
        ("A [/EN#1/people man runs .", XML, r"Sentences/7\.txt:1: '\[/EN#1/people' belongs to no phrase"),
        ("A man] runs .", XML, r"Sentences/7\.txt:1: '\]' belongs to no phrase"),
        (SENTENCES, "<annotation>", r"Annotations/7\.xml:1: is not XML"),
        (SENTENCES, XML.replace("<xmin>6", "<xmin>six"), r"7\.xml: <object>: 'bndbox/xmin' has to be a whole number"),
    ],
)
def test_files_of_another_form_are_named(tmp_path: Path, sentences: str, xml: str, message: str) -> None:
    entities(tmp_path, sentences, xml)
    with pytest.raises(DataError, match=message):
        answers(tmp_path, "flickr30k_entities", split="val")


def test_a_listed_image_without_files_is_named(tmp_path: Path) -> None:
    (entities(tmp_path) / "val.txt").write_text("7\n8\n")
    with pytest.raises(DataError, match=r"8\.txt: no such file; .*val\.txt:2 lists the image '8'"):
        answers(tmp_path, "flickr30k_entities", split="val")
