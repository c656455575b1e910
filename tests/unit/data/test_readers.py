from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ullava.config.schema import DatasetEntry
from ullava.errors import DataError, SampleError
from ullava.geometry import rle_encode

H, W = 20, 30
MASK = np.zeros((H, W), dtype=bool)
MASK[4:10, 5:15] = True
OTHER = np.zeros((H, W), dtype=bool)
OTHER[12:18, 1:4] = True
POLYGON = [5.0, 4.0, 15.0, 4.0, 15.0, 10.0, 5.0, 10.0]


def rle(mask: np.ndarray) -> dict[str, Any]:
    return dict(rle_encode(mask))


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(int)))
    return {"size": [H, W], "counts": np.diff([0, *edges.tolist(), flat.size]).tolist()}


def refer(**changes: Any) -> dict[str, Any]:
    record = {
        "image_path": "images/a.jpg",
        "segmentation": [POLYGON],
        "category": "Dog",
        "bbox": [5, 4, 10, 6],
        "sentences": ["the dog", "left one", "brown animal", "it"],
        "height": H,
        "width": W,
    }
    return {key: value for key, value in (record | changes).items() if value is not ...}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ---------------------------------------------------------------- refer
def test_one_record_is_one_object_with_several_questions(build):
    dataset = build("refer", [refer()])
    sample = dataset.sample(0, rng())
    assert (sample.name, sample.dataset, sample.task) == ("tests/train/0", "tests", "res")
    assert sample.images[0].parts[-2:] == ("images", "a.jpg")
    assert len(sample.turns) == 3
    assert [turn.question.count("<image>") for turn in sample.turns] == [1, 0, 0]
    asked = [next(s for s in refer()["sentences"] if s in turn.question) for turn in sample.turns]
    assert len(set(asked)) == 3
    region = sample.turns[0].regions[0]
    assert (region.phrase, region.box_xyxy_px) == ("dog", (5, 4, 15, 10))
    np.testing.assert_array_equal(region.mask, MASK)
    assert all(turn.regions[0].mask is region.mask for turn in sample.turns), "decoded once"
    assert sample.turns[0].answer == "Sure. [tag]dog[/tag]: Mask [SEG]; Location [LOC]."


@pytest.mark.parametrize(
    "segmentation", [[POLYGON], [rle(MASK)], rle(MASK), [uncompressed(MASK)], [POLYGON, POLYGON], [rle(MASK)] * 2]
)
def test_every_form_of_a_mask_is_read_and_united(build, segmentation):
    region = build("refer", [refer(segmentation=segmentation, bbox=...)]).sample(0, rng()).turns[0].regions[0]
    np.testing.assert_array_equal(region.mask, MASK)
    assert region.box_xyxy_px == (5, 4, 15, 10), "the box of the mask where the record has none"


def test_queries_ask_every_sentence_with_the_fixed_template(build):
    queries = build("refer", [refer()]).queries(0)
    assert [query.name for query in queries] == [f"tests/train/0/{k}" for k in range(4)]
    assert [query.turns[0].question for query in queries][:2] == ["<image>Segment the dog.", "<image>Segment left one."]
    assert [query.truth["expression"] for query in queries] == refer()["sentences"]
    assert {(query.truth["height"], query.truth["width"]) for query in queries} == {(H, W)}


def test_grouped_by_image_a_sample_takes_different_objects(build):
    records = [
        refer(sentences=["one"], image_path="images/a.jpg"),
        refer(sentences=["other"], image_path="images/b.jpg"),
        refer(sentences=["two"], image_path="images/a.jpg", segmentation=rle(OTHER), bbox=...),
    ]
    dataset = build("refer", records, DatasetEntry(group="image", turns=2))
    assert len(dataset) == 2
    sample = dataset.sample(0, rng())
    assert {turn.question.split()[-1].strip(".?") for turn in sample.turns} <= {"one", "two", "image", "box"}
    assert {turn.regions[0].box_xyxy_px for turn in sample.turns} == {(5, 4, 15, 10), (1, 12, 4, 18)}
    assert [query.truth["expression"] for query in dataset.queries(0)] == ["one", "two"]
    assert dataset.sources(0).count("record") == 2 and "record 2" in dataset.sources(0)


@pytest.mark.parametrize(("turns", "expected"), [(1, 1), (3, 3), (9, 4), (0, 4)])
def test_turns_cap_the_questions(build, turns, expected):
    assert len(build("refer", [refer()], DatasetEntry(turns=turns)).sample(0, rng()).turns) == expected


def test_templates_and_sentences_vary_with_the_random_numbers(build):
    dataset = build("refer", [refer()])
    first = {dataset.sample(0, np.random.default_rng(seed)).turns[0].question for seed in range(40)}
    assert len(first) > 10
    assert dataset.sample(0, rng()).turns[0].question == dataset.sample(0, rng()).turns[0].question


def test_comprehension_needs_no_mask(build):
    dataset = build("refer", [refer(segmentation=...)], DatasetEntry(task="rec"))
    sample = dataset.sample(0, rng())
    assert sample.task == "rec" and sample.turns[0].regions[0].mask is None
    assert sample.turns[0].answer == "Sure. [tag]dog[/tag]: Location [LOC]."


def test_limit_keeps_the_first_records(build):
    assert len(build("refer", [refer()] * 5, DatasetEntry(limit=2))) == 2


def test_a_box_that_rounds_over_the_border_is_cut(build):
    region = build("refer", [refer(bbox=[5, 4, 25.6, 6])]).sample(0, rng()).turns[0].regions[0]
    assert region.box_xyxy_px == (5, 4, 30, 10)


REFER_FAULTS = {
    "polygon with two points": ({"segmentation": [[1, 1, 5, 5]]}, "segmentation: polygon 0 needs three points"),
    "polygon of words": ({"segmentation": [["a", "b", "c", "d", "e", "f"]]}, "something that is not a number"),
    "polygon far outside": ({"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, "leaves the image"),
    "polygon without a pixel": ({"segmentation": [[3.0, 3.0, 3.1, 3.0, 3.1, 3.1]]}, "the mask has no pixel"),
    "no polygon": ({"segmentation": []}, "segmentation must be"),
    "mask of another size": ({"segmentation": rle(MASK[:-1])}, "mask is 30x19 .* but the image is 30x20"),
    "empty mask": ({"segmentation": rle(MASK & False)}, "the mask has no pixel"),
    "runs that do not add up": ({"segmentation": {"size": [H, W], "counts": [3, 4]}}, "RLE runs add up to 7 pixels"),
    "RLE without size": ({"segmentation": {"counts": "abc"}}, "RLE lacks size"),
    "RLE cut off": ({"segmentation": {"size": [H, W], "counts": rle(MASK)["counts"][:-2] + "o"}}, "RLE"),
    "no segmentation": ({"segmentation": ...}, "no 'segmentation'"),
    "no sentences": ({"sentences": ...}, "no 'sentences'"),
    "misspelt": ({"sentences": ..., "sentence": ["a"]}, "no 'sentences'; did you mean 'sentence'?"),
    "empty list": ({"sentences": []}, "'sentences' has to be a list of strings, with at least one"),
    "blank sentence": ({"sentences": ["a", " "]}, "none of them blank"),
    "one string": ({"sentences": "the dog"}, "'sentences' has to be a list, not 'the dog'"),
    "numbers": ({"sentences": [1]}, "'sentences' has to be a list of strings"),
    "height as text": ({"height": "20"}, "'height' has to be a whole number, not '20'"),
    "height as truth": ({"height": True}, "'height' has to be a whole number, not true/false"),
    "negative width": ({"width": -30}, "an image of -30 x 20"),
    "no path": ({"image_path": ""}, "'image_path' has to be a string with something in it"),
    "path upwards": ({"image_path": "../../secret.jpg"}, "has to be a path below the folder of the images"),
    "absolute path": ({"image_path": "/secret.jpg"}, "has to be a path below the folder of the images"),
    "no category": ({"category": None}, "'category' has to be a string with something in it, not null"),
    "unknown category": ({"category": "dgo"}, "unknown category 'dgo'; did you mean 'dog'?"),
    "three numbers": ({"bbox": [1, 2, 3]}, "'bbox' has to be four numbers"),
    "empty box": ({"bbox": [5, 4, 0, 6]}, "is empty or inside out"),
    "box outside": ({"bbox": [25, 4, 10, 6]}, "leaves the image of 30 x 20 pixels"),
}


@pytest.mark.parametrize("fault", REFER_FAULTS)
@pytest.mark.parametrize("use", ["sample", "queries"])
def test_a_wrong_record_is_named_with_file_and_number(build, data_folder, fault, use):
    changes, message = REFER_FAULTS[fault]
    dataset = build("refer", [refer(), refer(**changes)], classes=["dog", "cat"])
    with pytest.raises(SampleError, match=message.replace("?", r"\?")) as caught:
        dataset.sample(1, rng()) if use == "sample" else dataset.queries(1)
    assert caught.value.sample == "tests/train/1"
    assert caught.value.reason.startswith(f"{data_folder.root / 'notes.json'}:1: record 1: ")
    assert dataset.queries(0), "the record before it is not touched"


# ---------------------------------------------------------------- grefer
def grefer(**changes: Any) -> dict[str, Any]:
    part = {"segmentation": rle(MASK), "bbox": [5, 4, 10, 6], "category": "dog"}
    left = {"segmentation": rle(OTHER), "bbox": [1, 12, 3, 6], "category": "cat"}
    record = {"image_path": "a.jpg", "height": H, "width": W, "sentences": ["both"], "no_target": False}
    return record | {"annotations": [part, left]} | changes


def test_several_targets_come_from_left_to_right(build):
    turn = build("grefer", [grefer()]).sample(0, rng()).turns[0]
    assert [region.phrase for region in turn.regions] == ["cat", "dog"]
    assert turn.answer.count("[SEG]") == turn.answer.count("[LOC]") == 2
    np.testing.assert_array_equal(turn.regions[0].mask, OTHER)


def test_no_target_is_answered_in_words(build):
    dataset = build("grefer", [grefer(no_target=True, annotations=[], sentences=["the red cow"])])
    for turn in (dataset.sample(0, rng()).turns[0], dataset.queries(0)[0].turns[0]):
        assert (turn.answer, turn.regions) == ("No such object: the red cow.", ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_target": True}, "'no_target' is true, but there are 2 annotations"),
        ({"annotations": []}, "no annotations, but 'no_target' is not true"),
        ({"no_target": 1}, "'no_target' has to be true or false"),
        ({"annotations": [7]}, r"'annotations\[0\]' has to be an object, not a number"),
        ({"annotations": [{"category": "dog"}]}, r"annotations\[0\]: no 'segmentation'"),
        ({"annotations": {}}, "'annotations' has to be a list, not an object"),
    ],
)
def test_wrong_groups_are_named(build, changes, message):
    with pytest.raises(SampleError, match=f"record 0: .*{message}|record 0: {message}"):
        build("grefer", [grefer(**changes)]).sample(0, rng())


# ---------------------------------------------------------------- label_png
LABELS = np.zeros((H, W), np.uint8)
LABELS[4:10, 5:15] = 3
LABELS[12:18, 1:4] = 7
LABELS[0] = 255


def semantic(**changes: Any) -> dict[str, Any]:
    classes = [{"class": "Sky", "class_id": 3}, {"class": "sea", "class_id": 7}]
    return {"image_path": "a.jpg", "label_path": "a.png", "classes": classes} | changes


def test_classes_are_their_pixels(build, data_folder):
    data_folder.image("a.png", LABELS)
    dataset = build("label_png", [semantic(height=H, width=W)], ignore_label=255)
    sky, sea = dataset.queries(0)
    assert sky.turns[0].question == "<image>Segment the class Sky."
    np.testing.assert_array_equal(sky.turns[0].regions[0].mask, MASK)
    assert sea.turns[0].regions[0].box_xyxy_px == (1, 12, 4, 18)
    assert (sky.truth["class"], sky.truth["class_id"], sky.truth["height"]) == ("Sky", 3, H)
    np.testing.assert_array_equal(sky.truth["ignore_mask"], LABELS == 255)
    assert {turn.regions[0].phrase for turn in dataset.sample(0, rng()).turns} == {"sky", "sea"}


def test_an_offset_lies_between_class_and_stored_label(build, data_folder):
    """ADE20K: stored 0 is no class, stored n is class n - 1."""
    data_folder.image("a.png", LABELS)
    record = semantic(classes=[{"class": "sky", "class_id": 2}])
    query = build("label_png", [record], label_offset=-1, ignore_label=0).queries(0)[0]
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, MASK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": [{"class": "sky", "class_id": 4}]}, r"class 'sky' \(4\) has no pixel in a.png"),
        ({"classes": [{"class": "sky", "class_id": 255}]}, "has the number of pixels to ignore"),
        ({"classes": [{"class": "sky", "class_id": 3}, {"class": "sea", "class_id": 3}]}, "class_id is there twice"),
        ({"classes": [{"class": "skie", "class_id": 3}]}, "unknown class 'skie'; known: sea, sky"),
        ({"classes": [{"class": "sky"}]}, r"classes\[0\]: no 'class_id'"),
        ({"classes": []}, "'classes' is empty"),
        ({"label_path": "b.png"}, "b.png: no such image"),
        ({"label_path": "colours.png"}, "one channel of class numbers"),
        ({"label_path": "empty.png"}, "empty.png: the file is empty"),
        ({"height": H, "width": W + 1}, "the label image has 30 x 20 pixels .* but the record says 31 x 20"),
    ],
)
def test_wrong_labels_are_named(build, data_folder, changes, message):
    data_folder.image("a.png", LABELS)
    data_folder.image("colours.png", np.dstack([LABELS] * 3))
    (data_folder.root / "empty.png").touch()
    dataset = build("label_png", [semantic(**changes)], ignore_label=255, classes=["sky", "sea"])
    for read in (lambda: dataset.sample(0, rng()), lambda: dataset.queries(0)):
        with pytest.raises(SampleError, match=f"notes.json:1: record 0: .*{message}|record 0: {message}"):
            read()


# ---------------------------------------------------------------- coco_instances
def coco() -> dict[str, Any]:
    one = {"id": 1, "image_id": 4, "category_id": 2, "segmentation": [POLYGON], "bbox": [5, 4, 10, 6], "iscrowd": 0}
    return {
        "images": [{"id": 4, "file_name": "a.jpg", "height": H, "width": W}],
        "annotations": [
            one,
            one | {"id": 2, "segmentation": rle(OTHER), "bbox": [1, 12, 3, 6]},
            one | {"id": 3, "iscrowd": 1, "segmentation": uncompressed(OTHER)},
            one | {"id": 5, "category_id": 9},
        ],
        "categories": [{"id": 2, "name": "Dog"}, {"id": 9, "name": "cat"}],
    }


def test_instances_of_a_category_from_left_to_right(build):
    dataset = build("coco_instances", coco())
    dogs, cats = dataset.queries(0)
    assert [region.box_xyxy_px for region in dogs.turns[0].regions] == [(1, 12, 4, 18), (5, 4, 15, 10)]
    assert dogs.turns[0].question == "<image>Segment every Dog, one by one."
    assert (dogs.truth["image_id"], dogs.truth["category_id"], cats.truth["category_id"]) == (4, 2, 9)
    assert dogs.truth["crowd"] == [uncompressed(OTHER)] and "crowd" not in cats.truth
    assert sum(len(turn.regions) for turn in dataset.sample(0, rng()).turns) == 3


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, {"category_id": 77}, r"annotations\[0\]: unknown category_id 77 \(annotation 1\)"),
        (1, {"segmentation": [[1, 2, 3, 4]]}, r"annotations\[1\]: segmentation: polygon 0 needs three points"),
        (0, {"iscrowd": "yes"}, r"annotations\[0\]: 'iscrowd' has to be 0 or 1"),
    ],
)
def test_wrong_annotations_are_named(build, place, change, message):
    value = coco()
    value["annotations"][place] |= change
    with pytest.raises(SampleError, match=r"notes.json:1: record 0: " + message):
        build("coco_instances", value).queries(0)


def test_real_photos_are_read_whole(shared_dir, tmp_path, monkeypatch):
    """COCO photos with polygons, RLE and crowds; sizes agree with the decoded images."""
    from ullava.config.load import dump_config
    from ullava.config.schema import DatasetConfig, SplitConfig
    from ullava.data.loading.build import build_dataset
    from ullava.media.images import read_image_rgb_u8

    root = shared_dir / "realdata" / "coco_tiny_liz"
    if not root.is_dir():
        pytest.skip("realdata/coco_tiny_liz is not here")
    split = SplitConfig(annotations="annotations/instances_val2017.json", images="val2017")
    config = DatasetConfig(
        name="x", layout="coco_instances", task="instance", splits={"val": split}, license="x", source="x"
    )
    file = tmp_path / "datasets" / "photos" / "dataset.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(dump_config(config), encoding="utf-8")
    monkeypatch.setenv("ULLAVA_RESOURCES", str(tmp_path))
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path / "cache"))
    dataset = build_dataset("photos", DatasetEntry(), root)
    assert len(dataset) == 48
    truth = json.loads((root / split.annotations).read_text())
    found = sum(len(query.turns[0].regions) for index in range(48) for query in dataset.queries(index))
    assert found == sum(not annotation["iscrowd"] for annotation in truth["annotations"])
    for index in range(0, 48, 12):
        query = dataset.queries(index)[0]
        image = read_image_rgb_u8(query.images[0])
        assert image.shape[:2] == (query.truth["height"], query.truth["width"])


# ---------------------------------------------------------------- salient_png
def test_the_salient_object_comes_with_its_reason(build, data_folder):
    data_folder.image("m.png", MASK.astype(np.uint8) * 255)
    gpt = {"reason": "it is bright.", "tag": "Red Dog"}
    record = {"image_path": "a.jpg", "label_path": "m.png", "gpt": gpt}
    sample = build("salient_png", [record]).sample(0, rng())
    assert sample.turns[0].answer == "Sure. [tag]red dog[/tag]: Mask [SEG]; Location [LOC]. it is bright."
    np.testing.assert_array_equal(sample.turns[0].regions[0].mask, MASK)
    query = build("salient_png", [{key: record[key] for key in ("image_path", "label_path")}]).queries(0)[0]
    assert query.turns[0].answer == "Sure. [tag]salient object[/tag]: Mask [SEG]; Location [LOC]."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_path": "none.png"}, "none.png: no such image"),
        ({"label_path": "black.png"}, "the mask black.png has no pixel"),
        ({"label_path": "zero.png"}, "zero.png: the file is empty"),
        ({"height": 5, "width": 5}, "the mask has 30 x 20 pixels"),
        ({"gpt": {"tag": "dog"}}, "gpt: no 'reason'"),
        ({"gpt": "dog"}, "'gpt' has to be an object"),
    ],
)
def test_wrong_salient_records_are_named(build, data_folder, changes, message):
    data_folder.image("m.png", MASK.astype(np.uint8) * 255)
    data_folder.image("black.png", MASK.astype(np.uint8))
    (data_folder.root / "zero.png").touch()
    dataset = build("salient_png", [{"image_path": "a.jpg", "label_path": "m.png"} | changes])
    with pytest.raises(SampleError, match=f"record 0: .*{message}|record 0: {message}"):
        dataset.queries(0)


# ---------------------------------------------------------------- regions
def parts() -> dict[str, Any]:
    def one(mask: np.ndarray) -> dict[str, Any]:
        return {"height": H, "width": W, "segmentation": rle(mask)}

    return {
        "image_path": "a.jpg",
        "classes": ["Wheel", "door", "Wheel"],
        "annotations": [one(MASK), one(MASK | OTHER), one(OTHER)],
    }


def test_a_name_that_several_regions_share_is_one_question(build):
    dataset = build("regions", [parts()])
    wheel, door = dataset.queries(0)
    assert [region.box_xyxy_px for region in wheel.turns[0].regions] == [(1, 12, 4, 18), (5, 4, 15, 10)]
    assert (wheel.truth["class"], door.turns[0].question) == ("Wheel", "<image>Segment door.")
    assert len(dataset.sample(0, rng()).turns) == 2


def test_lists_that_are_not_parallel_are_named(build):
    record = parts()
    record["classes"].pop()
    with pytest.raises(SampleError, match="2 classes, but 3 annotations"):
        build("regions", [record]).sample(0, rng())
    record = parts()
    record["annotations"][1]["height"] = 21
    with pytest.raises(SampleError, match="different sizes of the image"):
        build("regions", [record]).sample(0, rng())


def test_an_empty_annotation_file_is_refused(build):
    with pytest.raises(DataError, match="notes.json: holds no records"):
        build("refer", [])
