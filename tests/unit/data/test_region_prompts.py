"""Records whose questions point at regions, and what augmentation makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.config.augment import AugmentConfig
from ullava.config.schema import DatasetEntry
from ullava.data.augment.augmenter import planned
from ullava.data.augment.changes import cropped, flipped
from ullava.data.readers.templates import Templates
from ullava.errors import DataError, SampleError
from ullava.geometry import rle_encode
from ullava.structures import RegionPrompt, Sample, Turn

SIZE = {"height": 40, "width": 60}
MASK = np.zeros((40, 60), dtype=bool)
MASK[10:20, 30:50] = True


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def talk(*messages: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[k % 2], "value": message} for k, message in enumerate(messages)]
    return {"id": "1", "image": "a.jpg", "conversations": turns} | SIZE | fields


POINTED = ("<image>What is <region>?", "A dog.", "Is <region> left of <region>?", "Yes.")
REGIONS = [[1, 2, 20, 30], rle_encode(MASK), [30, 2, 59, 30]]


# ---------------------------------------------------------------- LLaVA JSON
def test_regions_are_dealt_out_to_the_questions(build):
    dataset = build("llava_json", [talk(*POINTED, regions=REGIONS)])
    first, second = dataset.sample(0, rng()).turns
    assert first.question == "<image>What is <region>?" and first.prompts == (RegionPrompt((1.0, 2.0, 20.0, 30.0)),)
    assert [prompt.box_xyxy_px for prompt in second.prompts] == [(30.0, 10.0, 50.0, 20.0), (30.0, 2.0, 59.0, 30.0)]
    assert second.prompts[0].mask is not None and (second.prompts[0].mask == MASK).all()
    assert dataset.sample(0, rng()).truth == SIZE, "the size that the image has to have"
    queries = dataset.queries(0)
    assert [len(query.turns[0].prompts) for query in queries] == [1, 2]
    assert queries[1].turns[0].question == "<image>Is <region> left of <region>?"
    assert queries[1].truth == {"answer": "Yes.", **SIZE}


def test_a_quiz_is_drawn_with_its_regions(build):
    words = [word for k in range(4) for word in (f"{'<image>' if k == 0 else ''}q{k} <region>", f"a{k}")]
    boxes = [[k, k, k + 5, k + 5] for k in range(4)]
    dataset = build("llava_json", [talk(*words, answer_type=["x"] * 4, regions=boxes)], DatasetEntry(turns=2))
    for seed in range(20):
        for turn in dataset.sample(0, np.random.default_rng(seed)).turns:
            assert turn.prompts[0].box_xyxy_px[0] == float(turn.answer[-1])


def test_without_regions_the_marker_is_a_word(build):
    (turn,) = build("llava_json", [talk("<image>Where is s3.<region>.example?", "There.")]).sample(0, rng()).turns
    assert turn.prompts == () and "<region>" in turn.question


def test_a_region_on_another_image(build):
    record = talk("<image><image>Is <region> like <region>?", "No.", image=["a.jpg", "b.jpg"],
                  regions=[{"box": [1, 2, 90, 95], "image": 0}, [1, 2, 20, 30]])  # fmt: skip
    (turn,) = build("llava_json", [record]).sample(0, rng()).turns
    assert [prompt.image for prompt in turn.prompts] == [0, None], "the size is that of the last image"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (talk(*POINTED, regions=REGIONS[:2]), "3 <region> markers in the questions, but 2 regions"),
        (talk("<image>What is it?", "A dog.", regions=REGIONS[:1]), "0 <region> markers in the questions"),
        (talk("<image>Is it?", "<region>", regions=REGIONS[:1]), "0 <region> markers in the questions, but 1 regions"),
        (talk(*POINTED[:2], regions=[[1, 2, 90, 30]]), r"'regions\[0\]' \[1, 2, 90, 30\] leaves the image of 60 x 40"),
        (talk(*POINTED[:2], regions=[[1, 2, 3]]), r"'regions\[0\]' is neither a box"),
        (talk(*POINTED[:2], regions=[rle_encode(MASK[:20])]), r"'regions\[0\]' is a mask of 60 x 20 pixels"),
        (talk(*POINTED[:2], regions={"box": [1, 2, 3, 4]}), "'regions' has to be a list"),
        (talk(*POINTED[:2], regions=[{"box": [1, 2, 3, 4], "image": 1}]), r"'regions\[0\]' is on image 1"),
        (talk(*POINTED[:2], regions=REGIONS[:1], height=None), "'height' has to be a whole number"),
        (talk("<video>What is <region>?", "A dog.", image=None, video="a.mp4", regions=REGIONS[:1]),
         "'regions' lie on an image, and this record has none"),
    ],
)  # fmt: skip
def test_wrong_regions_are_named_with_file_and_record(build, record, message):
    with pytest.raises(SampleError, match=message) as found:
        build("llava_json", [record]).sample(0, rng())
    assert "notes.json" in found.value.reason and "record" in found.value.reason


# ---------------------------------------------------------------- templates that point
def refer(**more: Any) -> dict[str, Any]:
    return {"image_path": "a.png", **SIZE, "segmentation": rle_encode(MASK), "category": "dog",
            "sentences": ["the dog", "the animal"], **more}  # fmt: skip


def test_a_template_points_at_the_box_of_what_is_asked_for(build, data_folder):
    file = data_folder.root / "POINT.json"
    file.write_text('["<image>Segment what is in <region>.", "<image>Find <class>."]', encoding="utf-8")
    dataset = build("refer", [refer()], DatasetEntry(template=str(file), turns=0), task="res")
    drawn = [turn for seed in range(8) for turn in dataset.sample(0, np.random.default_rng(seed)).turns]
    for turn in drawn:
        pointed = "<region>" in turn.question
        assert turn.prompts == ((RegionPrompt((30.0, 10.0, 50.0, 20.0)),) if pointed else ())
        assert "[SEG]" in turn.answer and (turn.regions[0].mask == MASK).all()
    assert {bool(turn.prompts) for turn in drawn} == {True, False}
    assert dataset.queries(0)[0].turns[0].prompts[0].mask is None


def test_templates_that_cannot_point_are_refused(build, data_folder):
    file = data_folder.root / "POINT.json"
    file.write_text('["<image>Segment what is in <region>."]', encoding="utf-8")
    group = {"image_path": "a.png", **SIZE, "sentences": ["dogs"], "annotations": [], "no_target": True}
    with pytest.raises(DataError, match="about one thing each"):
        build("grefer", [group], DatasetEntry(template=str(file)), task="res")
    file.write_text('["<image>Is <region> the <class>?", "<image><region> or <region>?"]', encoding="utf-8")
    with pytest.raises(DataError) as found:
        Templates.load(file, True, may_point=True)
    assert len(found.value.problems) == 2 and all("once" in problem for problem in found.value.problems)


# ---------------------------------------------------------------- augmentation
def sample(question: str = "<image>Is <region> left of <region>?", task: Any = "vqa") -> Sample:
    prompts = (RegionPrompt((2.0, 4.0, 20.0, 30.0)), RegionPrompt((30.0, 10.0, 50.0, 20.0), MASK))
    return Sample("it", "", task, (Path("a.png"),), (Turn(question, "Yes.", prompts=prompts),))


def test_a_mirrored_image_mirrors_what_is_pointed_at():
    turned = flipped(sample(), 60)
    assert turned is not None
    (turn,) = turned.turns
    assert turn.question == "<image>Is <region> right of <region>?", "the order of the regions stays"
    assert [prompt.box_xyxy_px for prompt in turn.prompts] == [(40.0, 4.0, 58.0, 30.0), (10.0, 10.0, 30.0, 20.0)]
    assert turn.prompts[1].mask is not None and (turn.prompts[1].mask == MASK[:, ::-1]).all()


def test_a_crop_moves_regions_and_keeps_them_visible():
    part = cropped(sample(), (0, 2, 45, 40), 0.5)
    assert part is not None
    first, second = part.turns[0].prompts
    assert first.box_xyxy_px == (2.0, 2.0, 20.0, 28.0)
    assert second.box_xyxy_px == (30.0, 8.0, 45.0, 18.0) and second.mask is not None
    assert second.mask.shape == (38, 45) and second.mask.sum() == 150
    assert cropped(sample(), (0, 0, 35, 40), 0.5) is None, "a quarter of the second is too little"
    assert cropped(sample(), (25, 0, 60, 40), 0.0) is None, "nothing of the first"


def test_nothing_is_pasted_over_what_is_pointed_at_and_sizes_have_to_fit():
    asked = sample(task="res")
    plan = planned(
        asked, (40, 60), AugmentConfig(copy_paste=1.0), rng(), lambda: pytest.fail("drew something to paste")
    )
    assert plan.done == ()
    other = planned(asked, (41, 60), AugmentConfig(flip=1.0), rng())
    assert other.kept == ("not one image",), "the mask is of another image"
    mirrored = planned(replace(asked, task="vqa"), (40, 60), AugmentConfig(flip=1.0), rng())
    assert mirrored.done == ("flip",)
