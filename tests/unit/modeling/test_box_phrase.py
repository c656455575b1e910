"""The head that lets GroundingDINO find the words between the tags: the rule of choice, the whole way to an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image
from tests.unit.modeling.small_detectors import DETECTOR, box_override, wake, write_words
from transformers import AutoProcessor, GroundingDinoProcessor
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from ullava.batching.collate import Collator
from ullava.errors import UserError
from ullava.geometry import box_iou, mask_to_box_xyxy_px, plan_bounded_view
from ullava.inference.predictor import Predictor
from ullava.modeling.heads.box_post_processing import AnsweredObject, DetectedPhrase, PhrasePostProcessor
from ullava.structures import Answer, Sample, Turn
from ullava.text.answers import ObjectSpan

MASK_BOX = (6.0, 4.0, 30.0, 20.0)
SIZE_WH = (56, 40)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def phrase(words: Path) -> tuple[Any, Any]:
    """Thresholds of zero, so that a random detector finds things."""
    override = box_override("grounding_dino_phrase", phrase_tokenizer=str(words), box_threshold=0, text_threshold=0)
    model, processor = build_small((override,))
    wake(model.box_head.detector)
    return model, processor


def rules(box: float = 0.25, text: float = 0.2) -> PhrasePostProcessor:
    return PhrasePostProcessor([32, 48], box_threshold=box, text_threshold=text, max_tokens=16)


def thing(found: list[tuple[list[float], float, float]] | None, masked: bool | None = True) -> AnsweredObject:
    """A thing with a mask (None: an empty one), and boxes in pixels with their scores and word scores."""
    mask = np.zeros((40, 56), dtype=bool)
    mask[4:20, 6:30] = masked is not None
    boxes = None
    if found is not None:
        corners = np.asarray([box for box, _, _ in found], dtype=np.float64).reshape(-1, 4) / np.tile(SIZE_WH, 2)
        scores = np.asarray([[score, word] for _, score, word in found]).reshape(-1, 2)
        boxes = DetectedPhrase(corners, scores[:, 0], scores[:, 1])
    span = ObjectSpan("thing", (0, 5), 0 if masked is not False else None, None)
    return AnsweredObject(span, mask if masked is not False else None, 0.7 if masked is not False else None, [], boxes)


NEAR, NEARER, FAR = [8.0, 4.0, 30.0, 22.0], [6.0, 5.0, 30.0, 20.0], [40.0, 30.0, 56.0, 40.0]


def test_the_box_that_overlaps_the_mask_most_wins_whatever_its_score() -> None:
    box, score = rules().box_of(thing([(NEAR, 0.9, 0.9), (NEARER, 0.3, 0.3), (FAR, 0.99, 0.99)]), SIZE_WH)
    assert box == pytest.approx(NEARER) and score == 0.3


@pytest.mark.parametrize(
    "found",
    [None, [], [(NEAR, 0.25, 0.25)], [(NEAR, 0.9, 0.2)], [(FAR, 0.9, 0.9)]],
    ids=["no phrase", "nothing", "below the box threshold", "below the text threshold", "elsewhere"],
)
def test_without_a_detection_it_is_the_box_of_the_mask(found: Any) -> None:
    assert rules().box_of(thing(found), SIZE_WH) == (MASK_BOX, 0.7)


def test_without_a_mask_the_best_detection_is_taken() -> None:
    found = [(NEAR, 0.5, 0.5), (FAR, 0.6, 0.6)]
    for masked in (False, None):
        box, score = rules().box_of(thing(found, masked), SIZE_WH)
        assert box == pytest.approx(FAR) and score == 0.6
        assert rules().box_of(thing([], masked), SIZE_WH) == (None, None)


def test_boxes_end_at_the_border_of_the_image() -> None:
    box, _ = rules().box_of(thing([([-20.0, -4.0, 30.0, 20.0], 0.9, 0.9)]), SIZE_WH)
    assert box == pytest.approx((0.0, 0.0, 30.0, 20.0))


def test_phrases_are_lower_case_with_a_full_stop_and_words_told_from_separators(phrase: tuple[Any, Any]) -> None:
    boxes = phrase[1].boxes
    texts = [
        "[tag] Red CIRCLE [/tag]: Mask [SEG]. [tag]square[/tag]: Mask [SEG].",
        "[tag]thing[/tag]: Mask [SEG].",
        "Mask [SEG].",
    ]
    prompts = boxes.prompts(texts, [1, -1, 0])
    assert prompts.input_ids.tolist() == [[101, 201, 202, 1012, 102], [101, 203, 1012, 102, 0]]
    assert prompts.attention_mask.tolist() == [[1] * 5, [1] * 4 + [0]]
    assert prompts.is_word.tolist() == [[False, True, True, False, False], [False, True, False, False, False]]
    assert (prompts.row, prompts.thing, prompts.image.tolist()) == ((0, 0), (0, 1), [1, 1])
    assert boxes.prompts([f"[tag]{'red ' * 20}[/tag]: Mask [SEG]."], [0]) is None, "longer than the detector reads"


def answers(model: Any, processor: Any, samples: list[Sample], images: list[np.ndarray], folder: Path) -> list[Answer]:
    for sample, image in zip(samples, images, strict=True):
        Image.fromarray(image).save(sample.images[0])
    return Predictor(model, processor).teacher_forced(samples)


def own_pixels(processor: Any, theirs: Any, image: np.ndarray) -> torch.Tensor:
    """Our view of an image with the other processor's normalization, [1, 3, h, w]."""
    view, _ = processor.boxes.view(image)
    mean, std = (torch.tensor(values)[:, None, None] for values in (theirs.image_mean, theirs.image_std))
    return ((torch.from_numpy(view) / 255 - mean) / std)[None]


def named_sample(folder: Path, name: str, things: int, size: tuple[int, int]) -> Sample:
    plain = grounded_sample(name, things, *size)
    turn = plain.turns[0]
    return Sample(name, "test", "rec", (folder / f"{name}.png",), (Turn(turn.question, turn.answer, turn.regions),))


def test_the_answer_has_the_box_that_transformers_finds_for_the_words(
    phrase: tuple[Any, Any], words: Path, tmp_path: Path
) -> None:
    model, processor = phrase
    sizes = [(40, 56), (24, 64), (40, 56)]
    images = [make_image(number, *size) for number, size in enumerate(sizes)]
    samples = [named_sample(tmp_path, f"p{number}", 1 + number, size) for number, size in enumerate(sizes)]
    found = answers(model, processor, samples, images, tmp_path)
    assert [len(answer.objects) for answer in found] == [1, 2, 3]

    whole = GroundingDinoProcessor(
        GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48}), processor.boxes.tokenizer
    )
    for answer, shown in zip(found, images, strict=True):
        for item in answer.objects:
            assert item.mask is not None and item.box_xyxy_px is not None
            seen = whole(images=Image.fromarray(shown), text=f"{item.phrase}.", return_tensors="pt")
            ours = own_pixels(processor, whole.image_processor, shown)
            # Two gray levels of resizing at most, in units of the standard deviation; the rest on equal pixels.
            assert float((seen["pixel_values"] - ours).abs().max()) < 2.5 / 255 / 0.22
            seen["pixel_values"] = ours
            with torch.no_grad():
                output = model.box_head.detector(**seen)
            theirs = whole.post_process_grounded_object_detection(
                output, threshold=0.0, text_threshold=0.0, target_sizes=[shown.shape[:2]]
            )[0]
            limits = np.tile(shown.shape[1::-1], 2)
            boxes = np.clip(theirs["boxes"].double().numpy(), 0, limits)
            mask_box = mask_to_box_xyxy_px(item.mask)
            if mask_box is None:
                best = int(theirs["scores"].argmax())
            else:
                best = int(box_iou(boxes, np.asarray([mask_box]))[:, 0].argmax())
            assert item.box_xyxy_px == pytest.approx(tuple(boxes[best]), abs=1e-3)
            assert item.box_score == pytest.approx(float(theirs["scores"][best]), abs=1e-5)


def test_an_answer_does_not_depend_on_who_shares_its_batch(phrase: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = phrase
    samples = [named_sample(tmp_path, f"q{number}", 2, size) for number, size in enumerate([(40, 56), (24, 64)])]
    images = [make_image(10, 40, 56), make_image(11, 24, 64)]
    together = answers(model, processor, samples, images, tmp_path)
    for number, sample in enumerate(samples):
        alone = answers(model, processor, [sample], [images[number]], tmp_path)[0]
        for one, other in zip(alone.objects, together[number].objects, strict=True):
            assert one.box_xyxy_px == pytest.approx(other.box_xyxy_px, abs=1e-2)


def test_generated_words_are_looked_for_too(phrase: tuple[Any, Any]) -> None:
    model, processor = phrase
    answer = Predictor(model, processor).answer(make_image(3), "Segment the red circle.", max_new_tokens=4)
    assert answer.new_tokens > 0, "noise, but it goes the same way"


def test_nothing_of_it_trains(phrase: tuple[Any, Any], words: Path) -> None:
    from ullava.config.schema import LossConfig
    from ullava.training.optim.objective import GroundingObjective
    from ullava.training.optim.stages import UNREAD, apply_stage

    model, processor = build_small((box_override("grounding_dino_phrase", phrase_tokenizer=str(words)),))
    plan = apply_stage(model, "ground", quality_trains=False)
    assert not [name for name in plan.trainable if name.startswith("box_head.")]
    assert {row.part for row in plan.rows} >= {UNREAD}
    model.train()
    example = processor.encode(grounded_sample("a", 2), [make_image(0)])
    batch = Collator(processor.tokenizer.pad_token_id)([example])
    output = model(**batch.inputs.as_kwargs())
    terms = GroundingObjective(LossConfig(), processor.masks)(output, batch.targets)
    terms.total.backward()
    assert output.loc.boxes_xyxy_head is None and terms["l1"].item() == terms["giou"].item() == 0.0


def test_save_and_load_keep_words_and_thresholds(phrase: tuple[Any, Any], tmp_path: Path) -> None:
    from ullava.modeling.construction.auto import load_folder

    model, processor = phrase
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_folder(tmp_path, torch.float32)
    other = AutoProcessor.from_pretrained(tmp_path)
    for loaded in (processor_again, other):
        assert loaded.box == processor.box and loaded.boxes.box_threshold == 0
        assert loaded.boxes.tokenizer("red circle.")["input_ids"] == [101, 201, 202, 1012, 102]
    example = processor.encode(grounded_sample("a"), [make_image(0)])
    batch = Collator(processor.tokenizer.pad_token_id)([example]).inputs
    prompts = processor_again.boxes.prompts(["[tag]red[/tag]: Mask [SEG]."], [0])
    torch.testing.assert_close(
        again.find_boxes(prompts, batch).boxes_xyxy_head, model.find_boxes(prompts, batch).boxes_xyxy_head
    )


def test_a_detector_that_reads_words_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="box: kind grounding_dino_phrase reads words: give phrase_tokenizer"):
        build_small((box_override("grounding_dino_phrase"),))
    with pytest.raises(UserError, match="box.phrase_tokenizer: there is no tokenizer in"):
        build_small((box_override("grounding_dino_phrase", phrase_tokenizer=str(tmp_path)),))
    assert DETECTOR["model_type"] == "grounding-dino"


@pytest.mark.parametrize(
    "size_wh", [(640, 480), (480, 640), (333, 500), (1000, 1000), (37, 1200), (400, 30), (97, 801)]
)
def test_the_detector_sees_the_sizes_that_its_own_processor_makes(size_wh: tuple[int, int]) -> None:
    width, height = size_wh
    sides = {"shortest_edge": 80, "longest_edge": 133}
    theirs = GroundingDinoImageProcessorPil(size=sides, do_pad=False)(
        Image.new("RGB", size_wh), return_tensors="np"
    )["pixel_values"][0].shape  # fmt: skip
    view = plan_bounded_view((width, height), 80, 133)
    assert (view.size_wh[1], view.size_wh[0]) == tuple(theirs[1:])
    assert view.to_view([[0, 0, width, height]])[0].tolist() == pytest.approx([0, 0, *view.size_wh])
