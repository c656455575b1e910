"""Names, expressions and turns that hold special tokens are refused where a dataset is opened or a record read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.errors import DataError, SampleError, UserError

SQUARE = [5.0, 4.0, 15.0, 4.0, 15.0, 10.0, 5.0, 10.0]
SIZE = {"height": 20, "width": 30}
THING = {"segmentation": [SQUARE], "bbox": [5, 4, 10, 6]} | SIZE


def talk(question: str, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": 1, "image": "a.png", "conversations": turns}


RECORDS = {
    "expression": (
        "refer",
        {"image_path": "a.png", "category": "cat", "sentences": ["it", "a [SEG]"]} | THING,
        "'sentences[1]' holds the special token [SEG]",
    ),
    "category": (
        "refer",
        {"image_path": "a.png", "category": "cat</s>", "sentences": ["it"]} | THING,
        "'category' holds the special token </s>",
    ),
    "class of a region": (
        "regions",
        {"image_path": "a.png", "classes": ["a\nb"], "annotations": [THING]},
        "'classes[0]' holds a line break",
    ),
    "class of a label image": (
        "label_png",
        {"image_path": "a.png", "label_path": "b.png", "classes": [{"class": "<image>", "class_id": 1}]},
        "'class' holds the special token <image>",
    ),
    "tag": (
        "salient_png",
        {"image_path": "a.png", "label_path": "b.png", "gpt": {"tag": "[LOC]", "reason": "because"}},
        "'tag' holds the special token [LOC]",
    ),
    "reason": (
        "salient_png",
        {"image_path": "a.png", "label_path": "b.png", "gpt": {"tag": "cat", "reason": "see [SEG]"}},
        "'reason' holds the special token [SEG]",
    ),
    "answer": (
        "llava_json",
        talk("<image>What?", "It is [SEG]."),
        "conversations[1]: 'value' holds the special token [SEG]",
    ),
    "question": (
        "llava_json",
        talk("<image>[tag]cat[/tag]?", "Yes."),
        "conversations[0]: 'value' holds the special token [tag]",
    ),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_record_with_such_words_is_one_bad_sample(build: Any, data_folder: Any, case: str) -> None:
    layout, record, message = RECORDS[case]
    data_folder.image("a.png", np.full((20, 30, 3), 90, np.uint8))
    data_folder.image("b.png", np.ones((20, 30), np.uint8) * (255 if layout == "salient_png" else 1))
    dataset = build(layout, [record])
    for read in (lambda: dataset.queries(0), lambda: dataset.sample(0, np.random.default_rng(0))):
        with pytest.raises(SampleError) as caught:
            for _ in range(20):  # the draw of an expression may pass the bad one by
                read()
        assert message in str(caught.value) and "notes.json:1: record 0" in str(caught.value)


def test_classes_of_a_descriptor_and_of_coco_are_checked_when_they_are_opened(build: Any, data_folder: Any) -> None:
    record = {"image_path": "a.png", "category": "cat", "sentences": ["it"]} | THING
    with pytest.raises(UserError) as caught:
        build("refer", [record], classes=["cat", " ", "a [SEG]"])
    assert [problem.split("dataset.yaml: ")[1] for problem in caught.value.problems] == [
        "classes[1]: ' ' is blank",
        "classes[2]: 'a [SEG]' holds the special token [SEG]",
    ]
    coco = {
        "images": [{"id": 1, "file_name": "a.png"} | SIZE],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0} | THING],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "a</s>"}],
    }
    with pytest.raises(DataError, match="notes.json: category 2: 'a</s>' holds the special token </s>"):
        build("coco_instances", coco)


def test_an_import_leaves_out_categories_with_such_names(command: Any, tmp_path: Path) -> None:
    from tests.unit.data.originals import as_json, instances, make_image, opened, read_all

    value = instances("a.jpg")
    value["images"][1] |= SIZE | {"file_name": "b.jpg"}
    value["categories"][1]["name"] = "racket [SEG]"
    for name in ("a.jpg", "b.jpg"):
        make_image(tmp_path / "images" / name)
    file = as_json(tmp_path / "given.json", value)
    line = ["data", "import", "coco", "--images", str(tmp_path / "images"), "--annotations", str(file)]
    line += ["--out", str(tmp_path / "mine")]
    code, _, err = command(*line)
    assert code == 2 and "categories[1]: 'name' 'racket [SEG]' holds the special token [SEG]" in err
    assert command(*line, "--skip-bad")[0] == 0 and read_all(opened(tmp_path / "mine")) == 1
    assert "--classes a,</s>: '</s>' holds the special token </s>" in command(*line, "--classes", "a,</s>")[2]
