"""Augmentations: masks, boxes and words stay true of the pixels, for every layout, the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from ullava.config.augment import AugmentConfig
from ullava.config.load import parse_text
from ullava.config.schema import DatasetEntry, EvalRecipe, TrainRecipe
from ullava.data.augment import Augmenter
from ullava.data.augment.augmenter import Plan, jittered, planned
from ullava.data.loading.encode import EncodedMixture
from ullava.data.loading.stats import format_report, measure_mixture
from ullava.data.sampling.mixture import Mixture
from ullava.errors import ConfigError
from ullava.geometry import mask_to_box_xyxy_px
from ullava.structures import DetectedBoxes, Region, Sample, Turn
from ullava.text.answers import grounded_answer, no_target_answer

HEIGHT, WIDTH = 60, 80
BOXES = {"dog": (4, 6, 24, 30), "cat": (50, 30, 74, 54)}
COLORS = {"dog": (200, 40, 40), "cat": (40, 40, 200)}
BOTH = AugmentConfig(flip=0.5, crop=0.7)
ALWAYS_FLIP = AugmentConfig(flip=1.0)


def make_image() -> np.ndarray:
    """An image whose color says what each pixel belongs to."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)
    for name, (x0, y0, x1, y1) in BOXES.items():
        pixels[y0:y1, x0:x1] = COLORS[name]
    return pixels


def polygon(name: str) -> list[list[float]]:
    x0, y0, x1, y1 = BOXES[name]
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def xywh(name: str) -> list[float]:
    x0, y0, x1, y1 = BOXES[name]
    return [x0, y0, x1 - x0, y1 - y0]


def part(name: str) -> dict:
    return {"segmentation": polygon(name), "bbox": xywh(name), "category": name, "height": HEIGHT, "width": WIDTH}


HEAD = {"image_path": "a.png", "height": HEIGHT, "width": WIDTH}
RECORDS = {
    "refer": [HEAD | part("dog") | {"sentences": ["the left dog", "a red dog"]}],
    "grefer": [
        HEAD | {"sentences": ["the animals"], "annotations": [part("dog"), part("cat")]},
        HEAD | {"sentences": ["right cow"], "annotations": [], "no_target": True},
    ],
    "regions": [{"image_path": "a.png", "classes": ["dog", "cat"], "annotations": [part("dog"), part("cat")]}],
    "coco_instances": {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": number, "iscrowd": 0, "area": 1}
            | {"segmentation": polygon(name), "bbox": xywh(name)}
            for number, name in ((1, "dog"), (2, "cat"))
        ],
    },
    "salient_png": [{"image_path": "a.png", "label_path": "m.png", "gpt": {"tag": "dog", "reason": "It is red."}}],
    "label_png": [{"image_path": "a.png", "label_path": "l.png", "classes": [{"class": "dog", "class_id": 1}]}],
}


class Kept:
    """An encoder that keeps what it is given."""

    video_frames = 1

    def encode(self, sample, images, **_):
        return sample, images


@pytest.fixture
def mixture(build, data_folder):
    """A mixture of one layout, its entry augmented as asked."""

    def make(layout: str, augment: AugmentConfig | None, portion: float = 40.0, seed: int = 3) -> Mixture:
        data_folder.image("a.png", make_image())
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        x0, y0, x1, y1 = BOXES["dog"]
        mask[y0:y1, x0:x1] = 255
        data_folder.image("m.png", mask)
        data_folder.image("l.png", (mask > 0).astype(np.uint8))
        entry = DatasetEntry(portion=portion, augment=augment, turns=1)
        return Mixture([build(layout, RECORDS[layout], entry)], [entry], seed)

    return make


def rows(mixed: Mixture) -> list[tuple[Sample, list[np.ndarray]]]:
    dataset = EncodedMixture(mixed, Kept(), augmenter=Augmenter.of(mixed))
    return [dataset[position] for position in range(len(dataset))]


@pytest.mark.parametrize("layout", sorted(RECORDS))
def test_masks_and_boxes_stay_on_their_pixels(mixture, layout):
    changed = 0
    for sample, (image,) in rows(mixture(layout, BOTH)):
        changed += "#" in sample.images[0].name
        for turn in sample.turns:
            for region in turn.regions:
                assert region.mask is not None
                assert region.mask.shape == image.shape[:2] == (sample.truth["height"], sample.truth["width"])
                assert np.array_equal(region.mask, (image == COLORS[region.phrase]).all(-1)), region.phrase
                if region.box_xyxy_px is not None:
                    assert region.box_xyxy_px == mask_to_box_xyxy_px(region.mask)
            assert turn.answer.count("[SEG]") == len(turn.regions)
            assert all(f"[tag]{region.phrase}[/tag]" in turn.answer for region in turn.regions)
    assert changed >= 15


def test_left_to_right_answers_are_sorted_again(mixture):
    names = [
        [region.phrase for region in sample.turns[0].regions]
        for sample, _ in rows(mixture("grefer", ALWAYS_FLIP))
        if sample.turns[0].regions
    ]
    assert names and all(order == ["cat", "dog"] for order in names)


def test_words_turn_with_the_image(mixture):
    for sample, (image,) in rows(mixture("refer", ALWAYS_FLIP)):
        text = " ".join(turn.question for turn in sample.turns)
        assert "right dog" in text or "red dog" in text
        assert "left" not in text and (image[10, WIDTH - 10] == COLORS["dog"]).all()
    absent = [turn for sample, _ in rows(mixture("grefer", ALWAYS_FLIP)) for turn in sample.turns if not turn.regions]
    assert absent and all("left cow" in turn.question and "left cow" in turn.answer for turn in absent)


def test_what_is_done_depends_on_seed_and_position_alone(mixture):
    def told(mixed: Mixture, positions: range) -> list:
        dataset = EncodedMixture(mixed, Kept(), augmenter=Augmenter.of(mixed))
        return [(s.images, s.turns[0].question, i.tobytes()) for s, (i,) in (dataset[p] for p in positions)]

    settings = replace(BOTH, color=0.5)
    whole = told(mixture("refer", settings), range(40))
    assert told(mixture("refer", settings), range(20, 40)) == whole[20:]
    assert told(mixture("refer", settings, seed=4), range(40)) != whole


def test_workers_of_a_loader_make_the_same(mixture):
    dataset = EncodedMixture(mixture("refer", BOTH), Kept())
    dataset.augmenter = Augmenter.of(dataset.mixture)
    seen = [
        [
            (sample.images, image.tobytes())
            for batch in DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=list)
            for sample, (image,) in batch
        ]
        for workers in (0, 2)
    ]
    assert seen[0] == seen[1] and len({image for _, image in seen[0]}) > 5


def test_without_the_key_nothing_changes(mixture):
    assert Augmenter.of(mixture("refer", None)) is None
    plain = [sample for sample, _ in rows(mixture("refer", None))]
    off = [sample for sample, _ in rows(mixture("refer", AugmentConfig()))]
    assert [s.turns[0].question for s in plain] == [s.turns[0].question for s in off]
    assert [s.images for s in plain] == [s.images for s in off]


def test_a_crop_keeps_what_is_asked_for_and_leaves_places_alone(mixture):
    settings = AugmentConfig(crop=1.0, crop_scale=[0.3, 0.6], min_visible=0.9)
    sizes = set()
    for sample, (image,) in rows(mixture("refer", settings)):
        placed = any("left" in turn.question for turn in sample.turns)
        assert (image.shape == (HEIGHT, WIDTH, 3)) or not placed
        sizes.add(image.shape[:2])
        x0, y0, x1, y1 = BOXES["dog"]
        assert sample.turns[0].regions[0].mask.sum() >= 0.9 * (x1 - x0) * (y1 - y0)
    assert len(sizes) > 3


def _sample(regions: tuple[Region, ...], question: str = "<image>Segment every dog.", task="instance") -> Sample:
    truth = {"height": HEIGHT, "width": WIDTH}
    return Sample("s", "d", task, (Path("a.png"),), (Turn(question, grounded_answer(regions), regions),), truth)


def test_objects_outside_a_crop_leave_the_answer():
    boxes = [(2.0, 2.0, 6.0, 6.0), (70.0, 50.0, 78.0, 58.0)]
    sample = _sample(tuple(Region("dog", None, box) for box in boxes))
    settings = AugmentConfig(crop=1.0, crop_scale=[0.3, 0.5])
    counts = set()
    for seed in range(40):
        plan = planned(sample, (HEIGHT, WIDTH), settings, np.random.default_rng(seed))
        turn = plan.sample.turns[0]
        counts.add(len(turn.regions))
        assert turn.answer == grounded_answer(turn.regions)
    assert counts == {1, 2}


def test_a_crop_loses_nothing_of_what_is_not_there():
    sample = _sample((Region("cow", np.zeros((HEIGHT, WIDTH), dtype=bool)),), "<image>Segment the cow.", "res")
    plan = planned(sample, (HEIGHT, WIDTH), AugmentConfig(crop=1.0, crop_scale=[0.3, 0.5]), np.random.default_rng(0))
    assert "crop" in plan.done
    (region,) = plan.sample.turns[0].regions
    assert region.mask.shape == (plan.sample.truth["height"], plan.sample.truth["width"]) != (HEIGHT, WIDTH)
    assert not region.mask.any()


def test_detected_boxes_go_along():
    found = DetectedBoxes(np.array([[4.0, 6.0, 24.0, 30.0]]), np.array([0.9]), ("dog",))
    sample = replace(_sample((Region("dog", None, (4.0, 6.0, 24.0, 30.0)),)), boxes=(found,))
    plan = planned(sample, (HEIGHT, WIDTH), AugmentConfig(flip=1.0, crop=1.0), np.random.default_rng(1))
    assert plan.done == ("crop", "flip")
    assert plan.sample.boxes[0].boxes_xyxy_px.tolist() == [list(plan.sample.turns[0].regions[0].box_xyxy_px)]


def test_a_dialogue_whose_words_cannot_be_turned_is_kept_and_counted():
    turn = Turn("<image>Is that right?", "Yes.")
    sample = Sample("s", "d", "vqa", (Path("a.png"),), (turn,))
    plan = planned(sample, (HEIGHT, WIDTH), AugmentConfig(flip=1.0, crop=1.0), np.random.default_rng(0))
    assert plan.sample is sample and plan.done == ()
    assert plan.kept == (
        "crop: a vqa may speak of anything in the image",
        "flip: words that cannot be turned for certain",
    )


def test_an_annotation_of_another_size_is_left_for_the_encoder_to_refuse():
    sample = _sample((Region("dog", np.ones((HEIGHT, WIDTH), dtype=bool), None),))
    plan = planned(sample, (HEIGHT, WIDTH + 1), ALWAYS_FLIP, np.random.default_rng(0))
    assert plan.sample is sample and plan.done == () and plan.kept == ("not one image",)


def test_color_factors_do_what_pillow_does():
    pixels = make_image()
    bright = jittered(pixels, [("brightness", 1.2)])
    assert np.allclose(bright, np.clip(pixels * 1.2, 0, 255), atol=1)
    gray = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.abs(jittered(pixels, [("saturation", 0.0)]).astype(int) - gray[..., None]).max() <= 1
    plan = planned(_sample((Region("dog", None, (1.0, 1.0, 9.0, 9.0)),)), (HEIGHT, WIDTH), AugmentConfig(color=1.0),
                   np.random.default_rng(0))  # fmt: skip
    assert sorted(name for name, _ in plan.factors) == ["brightness", "contrast", "saturation"]
    assert all(0.8 <= factor <= 1.2 for _, factor in plan.factors)


# ---------------------------------------------------------------- copy-paste
def test_what_is_pasted_belongs_to_the_answer_about_its_class(mixture):
    more, turned = 0, 0
    for sample, (image,) in rows(mixture("coco_instances", AugmentConfig(copy_paste=1.0, flip=0.5))):
        (turn,) = sample.turns
        name = turn.regions[0].phrase
        union = np.any([region.mask for region in turn.regions], axis=0)
        assert np.array_equal(union, (image == COLORS[name]).all(-1)), sample.name
        assert turn.answer == grounded_answer(turn.regions)
        assert all(region.box_xyxy_px == mask_to_box_xyxy_px(region.mask) for region in turn.regions)
        more += len(turn.regions) == 2
        turned += "#" in sample.images[0].name
    assert more >= 8 and turned >= 30


def _class_sample(phrase: str, mask: np.ndarray | None) -> Sample:
    regions = () if mask is None else (Region(phrase, mask, mask_to_box_xyxy_px(mask)),)
    answer = grounded_answer(regions) if regions else no_target_answer(phrase)
    turn = Turn(f"<image>Segment {phrase}.", answer, regions)
    return Sample("s", "d", "res", (Path("a.png"),), (turn,), {"height": HEIGHT, "width": WIDTH})


def _laid(sample: Sample, seed: int, **settings: float) -> Plan:
    """``sample`` with a dog of another one."""
    dog = (make_image() == COLORS["dog"]).all(-1)
    config = AugmentConfig(copy_paste=1.0, **settings)
    return planned(sample, (HEIGHT, WIDTH), config, np.random.default_rng(seed), lambda: _class_sample("dog", dog))


def test_all_of_a_class_as_one_mask_grows_by_what_is_pasted():
    dog = (make_image() == COLORS["dog"]).all(-1)
    grown = 0
    for seed in range(20):
        plan = _laid(_class_sample("dog", dog), seed)
        (region,) = plan.sample.turns[0].regions
        assert plan.paste is None or np.array_equal(region.mask, dog | plan.paste.covered((HEIGHT, WIDTH)))
        grown += region.mask.sum() > dog.sum()
    assert grown > 10


def test_a_class_that_an_answer_calls_absent_is_not_pasted():
    plan = _laid(_class_sample("Dog", None), 0)
    assert plan.kept == ("copy_paste: nothing that fits",) and plan.paste is None
    plan = _laid(_class_sample("cow", None), 0)
    assert plan.done == ("copy_paste",) and plan.sample.turns[0].answer == no_target_answer("cow")


def test_an_object_is_not_hidden_by_what_is_pasted():
    cat = (make_image() == COLORS["cat"]).all(-1)
    for seed in range(30):
        plan = _laid(_class_sample("cat", cat), seed, min_visible=0.9)
        (region,) = plan.sample.turns[0].regions
        assert region.mask.sum() >= 0.9 * cat.sum()
        if plan.paste is not None:
            assert np.array_equal(region.mask, cat & ~plan.paste.covered((HEIGHT, WIDTH)))


def test_copy_paste_is_refused_where_the_truth_cannot_be_made_anew(mixture):
    with pytest.raises(ConfigError, match="dataset.tests.augment.copy_paste: is for questions that name a class"):
        Augmenter.of(mixture("refer", AugmentConfig(copy_paste=0.5)))


def test_stats_count_what_is_done(mixture):
    report = measure_mixture(mixture("refer", AugmentConfig(flip=1.0, crop=1.0)))
    counted = report["datasets"][0]["augmented"]
    assert counted["flip"] == 40
    assert counted["crop"] + counted["no crop: words of place, order, size or number"] == 40
    assert "tests: augmented: crop" in format_report(report)


RECIPE = "model: tiny\nstage: ground\ndataset: {shapes_res: {%s}}\n%s"


@pytest.mark.parametrize(
    ("cls", "text", "message"),
    [
        (
            EvalRecipe,
            "dataset: {shapes_res: {augment: {flip: 0.5}}}",
            "dataset.shapes_res.augment: images are augmented",
        ),
        (EvalRecipe, "dataset: {shapes_gres: {absent_as: words}}", "shapes_gres.absent_as: is how training answers"),
        (TrainRecipe, RECIPE % ("", "eval_dataset: {shapes_res: {augment: {}}}"), "eval_dataset.shapes_res.augment"),
        (TrainRecipe, RECIPE % ("augment: {flip: 1.0}", "pretokenized: true"), "tokenized keeps the words once"),
        (TrainRecipe, RECIPE % ("augment: {flip: 1.5}", ""), "dataset.shapes_res.augment.flip"),
        (TrainRecipe, RECIPE % ("augment: {crop_scale: [0.5]}", ""), "crop_scale is a least and a most share"),
        (TrainRecipe, RECIPE % ("augment: {crop_ratio: [2, 1]}", ""), "crop_ratio is a least and a most change"),
        (TrainRecipe, RECIPE % ("augment: {filp: 1.0}", ""), "did you mean 'flip'"),
    ],
)
def test_recipes_say_what_is_wrong(cls, text, message):
    with pytest.raises(ConfigError) as caught:
        parse_text(cls, text)
    assert message in str(caught.value)
