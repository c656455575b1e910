"""What ``ullava predict`` wrote is read again; what is not that is named by file, line and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.exports.answered import BOX, MASKS, H, W, collection, make_results, ring, thing, write_results

from ullava.errors import DataError, UserError
from ullava.exports.collection import Choice, gather
from ullava.exports.results import read_results
from ullava.geometry import VideoMasks, rle_decode, rle_encode
from ullava.inference.answering import answer_one
from ullava.inference.batch import Question
from ullava.structures import Answer, GroundedObject, MasksOverTime


def test_a_batch_is_read_as_it_was_written(tmp_path: Path) -> None:
    records = read_results(make_results(tmp_path))
    assert [record.id for record in records] == ["masks", "nothing", "box", "both", "words"]
    found = records[0].objects
    assert [item.phrase for item in found] == list(MASKS) and records[0].model == "fake"
    for item, mask in zip(found, MASKS.values(), strict=True):
        np.testing.assert_array_equal(rle_decode(item.mask or {}), mask)
    assert records[2].objects[0].box_xyxy_px == BOX and records[2].objects[0].mask is None


def test_one_answer_is_read_too(tmp_path: Path) -> None:
    class One:
        def answer_samples(self, samples: Any, *, max_new_tokens: int) -> list[Answer]:
            return [Answer("...", (thing("ring", ring(), BOX),))]

    answer_one(One(), Question("q", (), "where?"), tmp_path / "res", {"model": "m", "max_new_tokens": 3})
    path = tmp_path / "res" / "answer.json"
    value = json.loads(path.read_text())
    path.write_text("\ufeff" + json.dumps(value | {"images": ["a.png"]}, indent=2), encoding="utf-8")
    for given in (tmp_path / "res", path):
        (record,) = read_results(given)
        assert record.id == "q" and record.objects[0].phrase == "ring" and record.images == ("a.png",)


GOOD: dict[str, Any] = {
    "id": "q", "images": ["a.png"], "prompt": "?", "text": "", "model": "m",
    "objects": [{"phrase": "cat", "span": [0, 3], "image": 0, "score": 0.5, "box_xyxy_px": [1, 2, 3, 4], "mask": None}],
}  # fmt: skip


def changed(**keys: Any) -> dict[str, Any]:
    return {**GOOD, "objects": [{**GOOD["objects"][0], **keys}]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "q", ', ":2: not JSON"),
        ("[1]", ":2: an answer is an object {...}, not [1]"),
        ({key: value for key, value in GOOD.items() if key != "objects"}, ":2: objects is missing"),
        ({"promt" if key == "prompt" else key: value for key, value in GOOD.items()}, "did you mean 'promt'?"),
        ({**GOOD, "id": 7}, ":2: id: expected text, not 7"),
        ({**GOOD, "id": "first"}, ":2: id: 'first' is already that of"),
        ({**GOOD, "images": [""]}, ":2: images: expected file names"),
        ({**GOOD, "prompt": "half \udce4"}, ":2: prompt: holds a null character, or half of a character"),
        ({**GOOD, "objects": [3]}, ":2: objects[0]: expected an object"),
        (changed(box_xyxy=[]), ":2: objects[0]: unknown key 'box_xyxy'; did you mean 'box_xyxy_px'?"),
        (changed(phrase=None), ":2: objects[0]: phrase: expected text, not null"),
        (changed(phrase="\0"), ":2: objects[0]: phrase: holds a null character"),
        (changed(image=1), ":2: objects[0]: image: expected the place of one of 1 images, from 0, not 1"),
        (changed(group="a"), ':2: objects[0]: group: expected a whole number from 0, or null, not "a"'),
        (changed(group=-1), "group: expected a whole number from 0, or null, not -1"),
        (changed(score=2), ":2: objects[0]: score: expected a number from 0 to 1, not 2"),
        (changed(score=float("nan")), "score: expected a number from 0 to 1, not NaN"),
        (changed(box_xyxy_px=[1, 2, 3]), "box_xyxy_px: expected four numbers or null, not [1, 2, 3]"),
        (changed(box_xyxy_px=[3, 2, 1, 4]), "box_xyxy_px: expected x0 <= x1 and y0 <= y1"),
        (changed(mask=[[1, 2]]), "mask: expected a run-length code or null"),
        (changed(mask={"size": [0, 0], "counts": ""}), "mask: RLE size must be [height, width], not [0, 0]"),
        (changed(mask={"size": [4, 4], "counts": "~"}), "objects[0]: mask: RLE counts are cut off"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_named(write: Callable[[str, str], Path], line: Any, message: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    path = write("res/answers.jsonl", json.dumps({**GOOD, "id": "first"}) + f"\n{text}\n")
    with pytest.raises(DataError) as caught:
        read_results(path.parent)
    assert all(problem.startswith(str(path)) for problem in caught.value.problems)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


def test_every_bad_line_is_told_at_once(write: Callable[[str, str], Path]) -> None:
    path = write("res/answers.jsonl", f"nonsense\n\n{json.dumps(changed(score=None))}\n{json.dumps(GOOD)}\n")
    with pytest.raises(DataError) as caught:
        read_results(path)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither answer.json nor answers.jsonl in this folder"),
        ({"answers.jsonl": ""}, "holds no answer"),
        ({"answers.jsonl.part": "{}"}, "the batch was not finished"),
        ({"answers.jsonl": "{}", "answer.json": "{}"}, "holds both answer.json and answers.jsonl"),
        ({"answer.json": "{"}, "answer.json: not JSON"),
    ],
)
def test_folders_without_answers_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_results(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file of answers"):
        read_results(tmp_path / "none")


# ---------------------------------------------------------------- gathered by image and class
def test_objects_are_gathered_by_image_and_class(tmp_path: Path) -> None:
    made = collection(tmp_path)
    assert made.classes == ["Dog", "red ring", "stairs", "two parts"]
    assert [(image.name, image.stem, len(image.things)) for image in made.images] == [
        ("a.png", "a", 3), ("b.jpg", "b", 0), ("more/a.jpg", "a-3", 2),
    ]  # fmt: skip
    assert {(image.height, image.width) for image in made.images} == {(H, W)}
    assert made.notes == ["left out: answers without an image: 1"]


def test_things_of_videos_are_read_and_left_out(tmp_path: Path) -> None:
    over_time = MasksOverTime(VideoMasks.from_masks([ring(), None], (H, W)), (0.9, 0.2), (0.8, 0.1))
    seen = GroundedObject("ring", (0, 4), None, None, 0.8, 0.8, over_time=over_time)
    question = Question("q", (), "where?", (tmp_path / "a.gif",))
    records = read_results(write_results(tmp_path / "res", [(question, Answer("...", (seen,)))]))
    assert records[0].objects[0].of_video and records[0].objects[0].mask is None
    notes = gather(records, Choice()).notes
    assert notes == ["left out: answers without an image: 1", "left out: things of videos: 1"]
    line = (tmp_path / "res" / "answers.jsonl").read_text()
    (tmp_path / "res" / "answers.jsonl").write_text(line.replace("frame_scores", "frame_score"))
    with pytest.raises(DataError, match="unknown key 'frame_score'; did you mean 'frame_scores'"):
        read_results(tmp_path / "res")


def test_scores_and_classes_choose(tmp_path: Path) -> None:
    made = collection(tmp_path, min_score=0.75, classes=["RED RING", "two part"])
    assert made.classes == ["RED RING", "two part"]
    assert [(thing.phrase, thing.label) for _, thing in made.things()] == [("red ring", 0)]
    assert "left out: objects below the score 0.75: 3" in made.notes
    assert "left out: 1 objects of names that are not among --classes: 'stairs' (1)" in made.notes
    assert any(note.startswith("class 'two part': no object") for note in made.notes)
    one = gather(read_results(tmp_path / "results"), Choice(single_class="thing"))
    assert one.classes == ["thing"] and {thing.label for _, thing in one.things()} == {0} and len(one.things()) == 5
    with pytest.raises(UserError, match="exclude each other"):
        collection(tmp_path / "again", classes=["a"], single_class="b")


def test_blank_masks_and_things_without_a_place_are_left_out(tmp_path: Path) -> None:
    blank = np.zeros((H, W), bool)
    things = (thing("cat", blank), thing("dog", blank, BOX), thing("cow", None))
    image = Question("q", (tmp_path / "gone.png",), "?")
    made = gather(read_results(write_results(tmp_path / "r", [(image, Answer("", things))])), Choice())
    assert [(one.phrase, one.mask, one.own_box_xyxy_px) for _, one in made.things()] == [("dog", None, BOX)]
    assert "left out: objects whose mask has no pixel: 1" in made.notes
    assert "left out: objects without mask and box: 1" in made.notes
    assert (made.images[0].height, made.images[0].width, made.images[0].path) == (H, W, None)


def test_images_that_are_gone_are_named_or_looked_for(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(DataError) as caught:
        gather(read_results(results), Choice())
    assert len(caught.value.problems) == 1 and "b.jpg: no such image (--images DIR" in caught.value.problems[0]
    made = gather(read_results(results), Choice(images=tmp_path / "moved"))
    assert made.images[1].path == tmp_path / "moved" / "b.jpg"


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    path = results / "answers.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["objects"][1]["mask"] = rle_encode(np.ones((4, 5), bool))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError, match=r"answers.jsonl:1: objects\[1\]: mask is \[4, 5\] \(HxW\), others of"):
        gather(read_results(results), Choice())
    for item in records[0]["objects"]:
        item["mask"] = rle_encode(np.ones((4, 5), bool))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError, match=r"a.png: is \[30, 44\] \(HxW\), but the masks of the answers are \[4, 5\]"):
        gather(read_results(results), Choice())
