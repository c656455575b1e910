from __future__ import annotations

import json
from copy import deepcopy

import pytest

from ullava.data.annotations.store import AnnotationStore
from ullava.errors import DataError

SQUARE = [[1.0, 1.0, 4.0, 1.0, 4.0, 4.0, 1.0, 4.0]]
COCO = {
    "info": {"year": 2026},
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 10, "width": 12},
        {"id": 3, "file_name": "a.jpg", "height": 10, "width": 12},
        {"id": 5, "file_name": "c.jpg", "height": 10, "width": 12},
        {"id": 6, "file_name": "d.jpg", "height": 10, "width": 12},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 2, "segmentation": SQUARE, "bbox": [1, 1, 3, 3], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 2, "segmentation": SQUARE, "bbox": [1, 1, 3, 3], "iscrowd": 0},
        {"id": 4, "image_id": 3, "category_id": 9, "segmentation": SQUARE, "bbox": [1, 1, 3, 3], "iscrowd": 0},
        {"id": 5, "image_id": 6, "category_id": 9, "segmentation": SQUARE, "bbox": [1, 1, 3, 3], "iscrowd": 1},
    ],
    "categories": [{"id": 2, "name": "cat"}, {"id": 9, "name": "dog"}],
}


def opened(write, value) -> AnnotationStore:
    return AnnotationStore.open(write("coco.json", json.dumps(value)), "coco")


@pytest.mark.parametrize("order", [list(COCO), list(COCO)[::-1]])
def test_annotations_are_gathered_by_image_in_the_order_of_images(write, order):
    store = opened(write, {key: COCO[key] for key in order})
    rows = [store.record(index) for index in range(len(store))]
    assert [(row["image_id"], row["image_path"]) for row in rows] == [(7, "b.jpg"), (3, "a.jpg")]
    assert [entry["id"] for entry in rows[1]["annotations"]] == [1, 4]
    assert rows[1]["annotations"][0]["segmentation"] == SQUARE
    assert store.facts["categories"] == {"2": "cat", "9": "dog"}


def test_images_without_instances_are_counted(write):
    facts = opened(write, COCO).facts
    assert (facts["images"], facts["images_without_instances"]) == (4, 2)


@pytest.mark.parametrize(
    ("table", "place", "change", "message"),
    [
        ("images", 1, {"id": 7}, r"images\[1\]: id 7 is there twice"),
        ("categories", 1, {"id": 2}, r"categories\[1\]: id 2 is there twice"),
        ("annotations", 2, {"id": 1}, r"annotations\[2\]: id 1 is there twice"),
        ("annotations", 1, {"image_id": 99}, r"annotations\[1\]: no image has the id 99"),
        ("annotations", 1, {"image_id": "3"}, r"annotations\[1\]: 'image_id' has to be int, not str"),
        ("images", 0, {"height": None}, r"images\[0\]: 'height' has to be int, not NoneType"),
        ("images", 0, {"id": True}, r"images\[0\]: 'id' has to be int, not bool"),
    ],
)
def test_what_cannot_be_joined_is_named(write, table, place, change, message):
    value = deepcopy(COCO)
    value[table][place] |= change
    with pytest.raises(DataError, match=r"coco.json:1: " + message):
        opened(write, value)


def test_missing_fields_come_with_the_nearest_name(write):
    value = deepcopy(COCO)
    value["images"][0]["filename"] = value["images"][0].pop("file_name")
    with pytest.raises(DataError, match=r"images\[0\]: no 'file_name'; did you mean 'filename'\?"):
        opened(write, value)


def test_all_problems_come_at_once(write):
    value = deepcopy(COCO)
    value["annotations"][0]["image_id"] = 98
    value["annotations"][1]["image_id"] = 99
    value["categories"][1]["id"] = 2
    with pytest.raises(DataError) as caught:
        opened(write, value)
    assert len(caught.value.problems) == 3


def test_a_cut_off_file_names_the_record(write):
    path = write("coco.json", json.dumps(COCO)[:400])
    with pytest.raises(DataError, match=r"coco.json:1: record 0: .*the file ends inside this value"):
        AnnotationStore.open(path, "coco")
