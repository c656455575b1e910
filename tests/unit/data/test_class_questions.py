"""One question for each class of an image: unions of masks, only boxes, least areas, crowds, and absent classes."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, SQUARE, H, W, make_image, masks, png

from ullava.config.schema import DatasetEntry
from ullava.data.readers.base import TaskDataset
from ullava.errors import ConfigError, DataError, SampleError
from ullava.evaluation.batching import image_groups
from ullava.evaluation.scoring import SCORERS, family_of
from ullava.geometry import rle_encode
from ullava.structures import Answer, GroundedObject, Sample
from ullava.text.answers import grounded_answer, no_target_answer

DOG, CORNER_MASK = masks()[:2]
NAMES = ["dog", "cat", "cow", "bus", "cup", "kite"]
CATEGORIES = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
RIGHT_OF_SQUARE = [15.0, 4.0, 20.0, 4.0, 20.0, 10.0, 15.0, 10.0]
DOT = [25.0, 15.0, 27.0, 15.0, 27.0, 17.0, 25.0, 17.0]


def note(number: int, category: int, outline: list[float] | None, image: int = 1, **more: Any) -> dict[str, Any]:
    made = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0} | more
    if outline is not None:
        xs, ys = outline[::2], outline[1::2]
        made["segmentation"] = [outline]
        made.setdefault("bbox", [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)])
    return made


def coco(*notes: dict[str, Any], images: int = 1) -> dict[str, Any]:
    size = {"height": H, "width": W}
    shown = [{"id": n, "file_name": f"{n}.png"} | size for n in range(1, images + 1)]
    return {"images": shown, "annotations": list(notes), "categories": CATEGORIES}


TWO_DOGS_AND_A_CAT = coco(note(1, 1, SQUARE), note(2, 1, RIGHT_OF_SQUARE), note(3, 2, CORNER))


def entry(**keys: Any) -> DatasetEntry:
    return DatasetEntry(**({"task": "res"} | keys))


def drawn(dataset: TaskDataset, count: int, index: int = 0) -> list[Sample]:
    return [dataset.sample(index, np.random.default_rng(seed)) for seed in range(count)]


def test_all_objects_of_a_class_are_one_region(build: Any) -> None:
    dataset = build("coco_instances", TWO_DOGS_AND_A_CAT, entry())
    dog, cat = dataset.queries(0)
    assert [query.turns[0].question for query in (dog, cat)] == ["<image>Segment the dog.", "<image>Segment the cat."]
    assert dog.turns[0].answer == "Sure. [tag]dog[/tag]: Mask [SEG]; Location [LOC]."
    (region,) = dog.turns[0].regions
    assert region.mask is not None and np.count_nonzero(region.mask) == 60 + 30
    assert region.box_xyxy_px == (5, 4, 20, 10), "around all of them"
    assert dog.truth == {"class": "dog", "image_id": 1, "category_id": 1, "height": H, "width": W}
    assert family_of(dataset) == "res" and image_groups(dataset) == [[0]]


def test_training_and_evaluation_ask_the_same(build: Any) -> None:
    dataset = build("coco_instances", TWO_DOGS_AND_A_CAT, entry(turns=0))
    asked = {query.turns[0].answer: query.turns[0].regions[0] for query in dataset.queries(0)}
    for sample in drawn(dataset, 20):
        assert {turn.answer for turn in sample.turns} == set(asked)
        assert sample.turns[0].question.startswith("<image>") and "<image>" not in sample.turns[1].question
        for turn in sample.turns:
            np.testing.assert_array_equal(turn.regions[0].mask, asked[turn.answer].mask)


@pytest.mark.parametrize(("least", "asked"), [(0.0, ["dog", "cat"]), (0.031, ["dog"]), (0.15, ["dog"])])
def test_classes_below_the_least_area_are_not_asked(build: Any, least: float, asked: list[str]) -> None:
    """18 of 600 pixels are the cat's, 90 the dogs' together."""
    dataset = build("coco_instances", TWO_DOGS_AND_A_CAT, entry(min_area=least))
    assert [query.truth["class"] for query in dataset.queries(0)] == asked
    assert {s.turns[0].regions[0].phrase for s in drawn(dataset, 20)} == set(asked)


def test_images_without_a_class_to_ask_are_passed_over_and_told(build: Any) -> None:
    given = coco(note(1, 2, DOT), note(2, 1, SQUARE, image=2), note(3, 2, CORNER, image=3), images=3)
    dataset = build("coco_instances", given, entry(min_area=0.02))
    assert len(dataset) == 2 and [dataset.queries(i)[0].name for i in range(2)] == [
        "tests/train/1/0",
        "tests/train/2/0",
    ]
    assert ": record 2" in dataset.sources(1) and len(dataset.text_lengths().kinds) == 2
    assert dataset.told() == ["2 questions about 2 classes", "not asked: 1 below min_area 0.02"]
    limited = build("coco_instances", given, entry(min_area=0.02, limit=2))
    assert len(limited) == 1 and limited.told()[0] == "1 questions about 1 classes"
    with pytest.raises(DataError, match=r"no image shows a class that can be asked \(min_area 0\.5\)"):
        build("coco_instances", given, entry(min_area=0.5))


def test_absent_classes_are_never_there(build: Any) -> None:
    """Neither one that is too small, nor one that a crowd shows."""
    crowd = note(4, 3, None, iscrowd=1, segmentation=dict(rle_encode(CORNER_MASK)), bbox=[1, 12, 3, 6])
    given = coco(note(1, 1, SQUARE), note(2, 2, DOT), crowd)
    dataset = build("coco_instances", given, entry(min_area=0.02, absent=0.5))
    named = [turn.question for sample in drawn(dataset, 300) for turn in sample.turns if not turn.regions]
    assert 100 < len(named) < 200, "half of the questions"
    for name in ("dog", "cat", "cow"):
        assert not any(name in question for question in named)
    for name in ("bus", "cup", "kite"):
        assert any(name in question for question in named)
    query = dataset.queries(0)[-1]
    if not query.turns[0].regions:
        assert query.turns[0].answer == no_target_answer(query.truth["class"])
    assert dataset.told()[-1] == "50% of the questions about one of 6 that is absent"


@pytest.mark.parametrize("share", [0.12, 0.5])
def test_the_share_of_absent_classes_is_that_of_the_entry(build: Any, share: float) -> None:
    given = coco(*(note(n, 1 + n % 2, SQUARE, image=n) for n in range(1, 201)), images=200)
    dataset = build("coco_instances", given, entry(absent=share))
    assert family_of(dataset) == "gres"
    for turns in (
        [turn for index in range(200) for turn in dataset.sample(index, np.random.default_rng(index)).turns],
        [query.turns[0] for index in range(200) for query in dataset.queries(index)],
    ):
        assert abs(np.mean([not turn.regions for turn in turns]) - share) < 0.1


def test_evaluation_asks_the_same_absent_classes_every_time(build: Any) -> None:
    given = coco(*(note(n, 1, SQUARE, image=n) for n in range(1, 21)), images=20)
    dataset = build("coco_instances", given, entry(absent=0.5))
    again = pickle.loads(pickle.dumps(dataset))
    asked = [[query.truth["class"] for query in dataset.queries(index)] for index in range(20)]
    assert asked == [[query.truth["class"] for query in again.queries(index)] for index in range(20)]
    assert len({tuple(names) for names in asked}) > 3, "not the same in every image"
    absent = [q for i in range(20) for q in dataset.queries(i) if q.truth.get("absent")]
    assert absent and all((q.truth["height"], q.truth["width"]) == (H, W) for q in absent)


def test_frequent_classes_are_absent_more_often(build: Any) -> None:
    """Cats are in a hundred images: where none is, it is asked for ten times as often as what is never there."""
    notes = [note(n, 2, SQUARE, image=n) for n in range(1, 100)] + [note(100, 1, SQUARE, image=100)]
    dataset = build("coco_instances", coco(*notes, images=100), entry(absent=0.9))
    named = [s.turns[0].question for s in drawn(dataset, 600, index=99) if not s.turns[0].regions]
    cats, buses = (sum(name in question for question in named) for name in ("cat", "bus"))
    assert cats > 4 * buses > 0


def test_absent_classes_may_be_answered_by_an_empty_mask_in_training_alone(build: Any) -> None:
    """The words are those of a class that is there; what is asked is the same as with an answer in words."""
    dataset = build("coco_instances", TWO_DOGS_AND_A_CAT, entry(absent=0.5, absent_as="empty_mask"))
    in_words = build("coco_instances", TWO_DOGS_AND_A_CAT, entry(absent=0.5))
    empty = 0
    for seed in range(30):
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        turns, told = dataset.sample(0, rngs[0]).turns, in_words.sample(0, rngs[1]).turns
        assert [turn.question for turn in turns] == [turn.question for turn in told]
        for turn, same in zip(turns, told, strict=True):
            assert turn.answer == grounded_answer(turn.regions)
            (region,) = turn.regions
            assert region.mask is not None and region.mask.shape == (H, W)
            assert region.mask.any() == bool(same.regions)
            empty += not region.mask.any()
    assert empty > 10
    absent = [query for query in dataset.queries(0) if query.truth.get("absent")]
    assert all(query.turns[0].answer == no_target_answer(query.truth["class"]) for query in absent)


def test_no_target_is_answered_by_an_empty_mask_where_training_wants_it(build: Any) -> None:
    record = {"image_path": "1.png", "height": H, "width": W, "sentences": ["the red cow"], "annotations": []}
    dataset = build("grefer", [record | {"no_target": True}], DatasetEntry(absent_as="empty_mask"))
    turn = dataset.sample(0, np.random.default_rng(0)).turns[0]
    assert turn.answer == "Sure. [tag]the red cow[/tag]: Mask [SEG]."
    mask = turn.regions[0].mask
    assert mask is not None and mask.shape == (H, W) and not mask.any()


@pytest.mark.parametrize(
    ("layout", "keys", "message"),
    [
        ("coco_instances", {"absent_as": "empty_mask"}, "absent_as: no question of this entry"),
        ("coco_instances", {"absent_as": "words", "task": "instance"}, "absent_as: no question of this entry"),
        ("coco_instances", {"absent_as": "empty_mask", "task": "rec", "absent": 0.2}, "of the task 'res'"),
    ],
)
def test_empty_masks_are_refused_where_they_mean_nothing(
    build: Any, layout: str, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(layout, TWO_DOGS_AND_A_CAT, entry(**keys))


def test_data_that_leaves_things_out_refuses_absent_classes_by_name(build: Any) -> None:
    build("coco_instances", TWO_DOGS_AND_A_CAT, entry(), exhaustive=False)
    with pytest.raises(ConfigError, match=r"dataset tests: absent: .* \(exhaustive: false\)"):
        build("coco_instances", TWO_DOGS_AND_A_CAT, entry(absent=0.1), exhaustive=False)


@pytest.mark.parametrize("key", ["min_area", "absent"])
def test_the_keys_are_refused_where_questions_name_no_class(build: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: is for questions about classes: coco_instances \(res and rec\)"):
        build("coco_instances", TWO_DOGS_AND_A_CAT, DatasetEntry(**{key: 0.1}))


def test_training_learns_everything_that_an_image_shows_whatever_it_asks(build: Any) -> None:
    boxed = note(9, 1, None, bbox=[20, 10, 8, 6])
    file = coco(note(1, 1, SQUARE), boxed, note(3, 2, CORNER))
    for task in ("res", "rec"):
        things = drawn(build("coco_instances", file, entry(task=task)), 1)[0].things
        assert [(thing.phrase, thing.mask is None) for thing in things] == [
            ("dog", False),
            ("dog", True),
            ("cat", False),
        ]
        assert things[1].box_xyxy_px == (20.0, 10.0, 28.0, 16.0)
    assert drawn(build("coco_instances", file, entry(), exhaustive=False), 1)[0].things == ()


def test_crowds_belong_to_the_class_and_count_in_no_figure(build: Any) -> None:
    crowd = note(2, 1, None, iscrowd=1, segmentation=dict(rle_encode(CORNER_MASK)), bbox=[1, 12, 3, 6])
    dataset = build("coco_instances", coco(note(1, 1, SQUARE), crowd), entry())
    (query,) = dataset.queries(0)
    region = query.turns[0].regions[0]
    np.testing.assert_array_equal(region.mask, DOG | CORNER_MASK)
    np.testing.assert_array_equal(query.truth["ignore_mask"], CORNER_MASK)
    for family in ("res", "gres"):
        for mask in (DOG, DOG | CORNER_MASK):
            scorer = SCORERS[family]()
            row = scorer.score(query, Answer("", (GroundedObject("dog", (0, 1), mask, None, 1.0),)))
            assert (row["intersection"], row["union"]) == (60, 60)


def test_a_class_with_objects_that_have_a_box_alone_is_not_asked_for_masks(build: Any) -> None:
    boxed = [note(9, 1, None, bbox=[20, 10, 8, 8]), note(9, 1, None, bbox=[20, 10, 8, 8], segmentation=[])]
    for extra in boxed:
        dataset = build("coco_instances", coco(note(1, 1, SQUARE), extra, note(3, 2, CORNER)), entry(absent=0.5))
        asked = {turn.question for sample in drawn(dataset, 60) for turn in sample.turns}
        assert not any("dog" in question for question in asked), "its truth would lack one; and it is not absent"
        assert "1 with objects that have a box alone" in dataset.told()[1]
        boxes = build("coco_instances", coco(note(1, 1, SQUARE), extra, note(3, 2, CORNER)), entry(task="rec"))
        assert [query.truth["class"] for query in boxes.queries(0)] == ["cat"]
    small = coco(note(1, 1, SQUARE), note(2, 1, None, bbox=[20, 10, 1, 1]))
    assert build("coco_instances", small, entry(min_area=0.005)).queries(0)[0].truth["class"] == "dog"
    with pytest.raises(DataError, match="no image shows a class that can be asked"):
        build("coco_instances", small, entry())


def test_comprehension_asks_for_the_only_object_of_a_class(build: Any) -> None:
    given = coco(note(1, 1, None, bbox=[5, 4, 10, 6]), note(2, 2, None, bbox=[1, 12, 3, 6]),
                 note(3, 2, None, bbox=[9, 12, 3, 6]), note(4, 3, None, bbox=[1, 1, 2, 2]))  # fmt: skip
    dataset = build("coco_instances", given, DatasetEntry(min_area=0.01), task="rec", boxes_only=True)
    (query,) = dataset.queries(0)
    assert query.turns[0].answer == "Sure. [tag]dog[/tag]: Location [LOC]."
    assert query.turns[0].regions[0].box_xyxy_px == (5, 4, 15, 10) and family_of(dataset) == "rec"
    assert dataset.told()[1] == "not asked: 1 below min_area 0.01, 1 of several objects"
    general = build("coco_instances", given, DatasetEntry(absent=0.5), task="rec", boxes_only=True)
    assert family_of(general) == "grec"
    with pytest.raises(ConfigError, match="boxes and no masks"):
        build("coco_instances", given, entry(), task="rec", boxes_only=True)


# ---------------------------------------------------------------- label images
LABELLED = {"image_path": "a.png", "label_path": "m.png"}


def labels(data_folder: Any) -> None:
    make_image(data_folder.root / "a.png")
    values = np.full((H, W), 9, np.uint8)
    values[DOG], values[CORNER_MASK], values[0] = 1, 2, 255
    png(data_folder.root / "m.png", values)


def test_label_images_are_asked_by_class(build: Any, data_folder: Any) -> None:
    labels(data_folder)
    record = LABELLED | {"classes": [{"class": "Dog", "class_id": 1}, {"class": "cat", "class_id": 2}]}
    descriptor: dict[str, Any] = {"classes": NAMES, "ignore_label": 255}
    dataset = build("label_png", [record], entry(min_area=0.05, absent=0.5), **descriptor)
    dog = dataset.queries(0)[0]
    assert dog.turns[0].question == "<image>Segment the Dog." and family_of(dataset) == "gres"
    np.testing.assert_array_equal(dog.turns[0].regions[0].mask, DOG)
    assert dog.truth["ignore_mask"].sum() == W
    absent = {turn.question for s in drawn(dataset, 100) for turn in s.turns if not turn.regions}
    assert absent and not any(name in question for question in absent for name in ("Dog", "dog", "cat"))
    assert build("label_png", [record], **descriptor, task="semantic").queries(0)[0].task == "semantic"


def test_two_numbers_of_one_name_are_one_class(build: Any, data_folder: Any) -> None:
    labels(data_folder)
    record = LABELLED | {"classes": [{"class": "dog", "class_id": 1}, {"class": "Dog ", "class_id": 2}]}
    (query,) = build("label_png", [record], entry()).queries(0)
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, DOG | CORNER_MASK)


def test_without_a_class_list_nothing_is_absent(build: Any, data_folder: Any) -> None:
    labels(data_folder)
    record = LABELLED | {"classes": [{"class": "dog", "class_id": 1}]}
    with pytest.raises(ConfigError, match="absent: dataset tests lists no classes"):
        build("label_png", [record], entry(absent=0.1))


def test_an_outline_thinner_than_a_pixel_adds_nothing(build: Any) -> None:
    thin = note(2, 1, [3.0, 3.0, 3.1, 3.0, 3.1, 3.1])
    dataset = build("coco_instances", coco(note(1, 1, SQUARE), thin, note(3, 2, thin["segmentation"][0])), entry())
    (query,) = dataset.queries(0)
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, DOG)
    assert dataset.told()[1] == "not asked: 1 below min_area 0.0"


def test_a_box_without_height_is_an_object_and_no_area(build: Any) -> None:
    flat = note(2, 1, None, bbox=[20, 10, 3.2, 0.0])
    given = coco(note(1, 1, SQUARE), flat, note(3, 2, CORNER))
    assert [q.truth["class"] for q in build("coco_instances", given, entry()).queries(0)] == ["dog", "cat"]
    assert [q.truth["class"] for q in build("coco_instances", given, entry(task="rec")).queries(0)] == ["cat"]


# ---------------------------------------------------------------- faults and the counts that are kept
def test_a_wrong_record_is_asked_so_that_its_fault_is_told(build: Any) -> None:
    bad = note(2, 1, [1.0, 1.0, 5.0, 5.0], image=2)
    dataset = build("coco_instances", coco(note(1, 1, SQUARE), bad, images=2), entry())
    assert len(dataset) == 2 and dataset.told()[1] == "1 records are wrong, which reading them tells"
    for read in (lambda: dataset.queries(1), lambda: drawn(dataset, 1, 1)):
        with pytest.raises(SampleError, match=r"notes\.json:1: record 1: annotations\[0\]: segmentation"):
            read()


def test_classes_are_counted_once(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build("coco_instances", TWO_DOGS_AND_A_CAT, entry(min_area=0.05))
    kept = list(first.origin.store.arrow.parent.glob("*.CocoClassReader.classes.npz"))
    assert len(kept) == 1

    def never(*_: Any) -> Any:
        raise AssertionError("counted again")

    monkeypatch.setattr(type(first), "measure", never)
    again = type(first)(first.origin)
    assert [q.truth["class"] for q in again.queries(0)] == ["dog"]
    kept[0].write_bytes(b"cut off")
    with pytest.raises(AssertionError, match="counted again"):
        type(first)(first.origin)
    monkeypatch.undo()
    build("coco_instances", json.loads(json.dumps(TWO_DOGS_AND_A_CAT | {"info": {}})), entry())
    assert not kept[0].exists(), "goes with the file that it was counted in"
