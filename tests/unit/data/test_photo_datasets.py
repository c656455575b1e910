"""Photos of one's own, arranged as datasets/photo_* say: captions, clothing, pets, and the recipe that asks of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, make_image, masks, png

from ullava.cli.check import check_recipe
from ullava.config.load import dump_config, load_config
from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.data.converters.published.convert import skipped_lines
from ullava.data.loading.build import build_dataset, open_store
from ullava.data.loading.descriptor import load_descriptor, locate
from ullava.errors import DataError, SampleError, UserError
from ullava.evaluation.scoring import SCORERS, family_of
from ullava.resources import folder, names
from ullava.structures import Answer

CAPTIONS: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
    "annotations": [
        {"id": 9, "image_id": 1, "caption": " A dog\n runs."},
        {"id": 8, "image_id": 1, "caption": "The dog is fast."},
    ],
}


def captions(root: Path, value: Any = None, split: str = "train") -> Any:
    for number in (1, 2):
        make_image(root / "coco" / "images" / f"{number}.jpg")
    as_json(root / "coco" / f"captions_{split}.json", CAPTIONS if value is None else value)
    return build_dataset("photo_captions", DatasetEntry(split=split), root)


# ---------------------------------------------------------------- captions
def test_all_captions_of_a_photo_are_references_and_training_draws_one(tmp_path: Path) -> None:
    dataset = captions(tmp_path)
    assert len(dataset) == 1
    (query,) = dataset.queries(0)
    assert query.turns[0].question == "<image>Describe the picture." and query.images[0].name == "1.jpg"
    assert query.truth["references"] == ["A dog runs.", "The dog is fast."]
    answers = [dataset.sample(0, np.random.default_rng(seed)).turns[0].answer for seed in range(40)]
    assert set(answers) == {"A dog runs.", "The dog is fast."}
    scorer = SCORERS[family_of(dataset)]()
    row = scorer.score(query, Answer("the dog is fast"))
    assert row["references"] == query.truth["references"]
    store = open_store(locate("photo_captions", DatasetEntry(split="train"), tmp_path))
    assert skipped_lines(store.facts) == ["1 left out: no caption (2.jpg)"] and store.facts["sentences"] == 2


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("annotations", {"image_id": 3}, r"captions_train\.json:1: no image has the id 3"),
        ("annotations", {"caption": " "}, r"captions_train\.json:1: annotations\[1\]: 'caption' is blank"),
        ("annotations", {"caption": 5}, r"annotations\[1\]: 'caption' has to be str, not int"),
        ("annotations", {"image_id": True}, r"annotations\[1\]: 'image_id' has to be int, not bool"),
        ("images", {"id": 1}, r"images\[1\]: id 1 is there twice"),
        ("images", {"file_name": ...}, r"images\[1\]: no 'file_name'"),
    ],
)
def test_wrong_captions_files_are_refused_by_entry(tmp_path: Path, key: str, change: Any, message: str) -> None:
    value = {name: [dict(entry) for entry in entries] for name, entries in CAPTIONS.items()}
    value[key][1] = {name: field for name, field in (value[key][1] | change).items() if field is not ...}
    with pytest.raises(DataError, match=message):
        captions(tmp_path, value)


def test_references_answer_the_only_question(build: Any, data_folder: Any) -> None:
    make_image(data_folder.root / "a.png")
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A dog."}]
    record = {"image": "a.png", "conversations": turns, "references": ["A dog.", "One dog."]}
    assert build("llava_json", [record]).queries(0)[0].truth["references"] == record["references"]
    for fault, message in (
        ({"conversations": [*turns, {"from": "human", "value": "And?"}, turns[1]]}, "the only question"),
        ({"references": ["A dog.", ""]}, "none of them blank"),
        ({"references": ["[SEG] here"]}, r"references\[0\]"),
    ):
        with pytest.raises(SampleError, match=message):
            build("llava_json", [record | fault]).queries(0)


# ---------------------------------------------------------------- label images of a list
def clothing(root: Path, listed: str) -> Any:
    stored = np.zeros((H, W), np.uint8)
    stored[masks()[0]], stored[masks()[1]] = 14, 41  # a dress; skin, for which nobody asks
    for name in ("1", "2"):
        make_image(root / "clothing" / "images" / f"{name}.jpg")
        png(root / "clothing" / "masks" / f"{name}.png", stored)
    (root / "clothing" / "train.txt").write_text(listed)
    return build_dataset("photo_clothing", DatasetEntry(split="train"), root)


@pytest.mark.parametrize("listed", ["2\n", "2.jpg\n\n", "2"])
def test_a_list_says_which_photos_are_of_the_split(tmp_path: Path, listed: str) -> None:
    dataset = clothing(tmp_path, listed)
    (query,) = dataset.queries(0)
    assert len(dataset) == 1 and query.images[0].name == "2.jpg"
    assert query.turns[0].question == "<image>Segment the dress." and family_of(dataset) == "res"
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0])
    assert "skin" not in dataset.class_list() and "null" not in dataset.class_list()


def test_a_list_of_what_is_not_there_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.txt:2: neither image nor mask is called '7'"):
        clothing(tmp_path, "2\n7\n")
    with pytest.raises(DataError, match=r"train\.txt: lists no image"):
        clothing(tmp_path, " \n")


def test_borders_of_a_trimap_count_nowhere(tmp_path: Path) -> None:
    stored = np.full((H, W), 2, np.uint8)
    stored[masks()[0]], stored[masks()[1]] = 1, 3
    make_image(tmp_path / "images" / "cat.jpg")
    png(tmp_path / "trimaps" / "cat.png", stored)
    (query,) = build_dataset("pets", DatasetEntry(), tmp_path).queries(0)
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0])
    np.testing.assert_array_equal(query.truth["ignore_mask"], masks()[1])


# ---------------------------------------------------------------- the recipe
def photos(root: Path) -> None:
    """One photo in each of the arrangements, as both splits."""
    thing = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [SQUARE], "bbox": [5, 4, 10, 6]}
    small = thing | {"id": 2, "category_id": 2, "segmentation": [CORNER], "bbox": [1, 12, 3, 6]}
    boxed = {name: value for name, value in thing.items() if name != "segmentation"}
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    images = [{"id": 1, "file_name": "1.jpg", "height": H, "width": W}]
    for split in ("train", "val"):
        captions(root, split=split)
        for name, notes in (("instances", [thing, small]), ("one_person", [thing]), ("boxes", [boxed])):
            value = {"images": images, "annotations": notes, "categories": categories}
            as_json(root / "coco" / f"{name}_{split}.json", value)
        (root / "clothing").mkdir(exist_ok=True)
        (root / "clothing" / f"{split}.txt").write_text("1\n")
    clothing(root, "1\n")


def test_the_recipe_asks_of_any_photos_in_this_arrangement(tmp_path: Path) -> None:
    photos(tmp_path)
    recipe = load_config(EvalRecipe, folder("configs") / "eval" / "photo.yaml")
    others = {"refcocos_res", "refcocos_rec", "pets", "expressions", "expression_boxes", "text"}  # files of their own
    kept = {label: entry for label, entry in recipe.dataset.items() if label not in others}
    assert len(kept) == len(recipe.dataset) - len(others)
    own = tmp_path / "own.yaml"
    own.write_text(dump_config(replace(recipe, dataset=kept, data_root=str(tmp_path))), encoding="utf-8")
    lines = check_recipe(own, [])
    assert len(lines) == 7
    told = {line.split(":")[0].removeprefix("dataset."): line for line in lines}
    assert "1 samples; 2 questions about 2 classes" in told["coco_classes"]
    assert "50% of the questions about one of 2 that is absent" in told["absent_classes"]
    assert "1 questions about 1 classes" in told["one_person"] and "1 questions about 1 classes" in told["unique_box"]


def test_one_person_s_file_says_nothing_of_what_is_absent(tmp_path: Path) -> None:
    photos(tmp_path)
    with pytest.raises(UserError, match="dataset photo_person: absent: the annotations leave things out"):
        build_dataset("photo_person", DatasetEntry(split="train", absent=0.1), tmp_path)
    assert [name for name in names("datasets") if not load_descriptor(name)[1].exhaustive] == [
        "lvis_instances",
        "photo_person",
    ]


def test_the_real_photos_are_asked_as_their_publisher_counts(shared_dir: Path) -> None:
    root = shared_dir / "realdata" / "photos"
    if not root.is_dir():
        pytest.skip("shared/realdata/photos is not there")
    dataset = build_dataset("photo_clothing", DatasetEntry(split="val", min_area=0.005), root)
    assert sum(len(dataset.queries(index)) for index in range(len(dataset))) == 473
    people = build_dataset("photo_person", DatasetEntry(split="val"), root)
    assert len(people) == 77
