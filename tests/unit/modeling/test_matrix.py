"""Every vision encoder with every box head on every kind of language model, on images, videos and words in one batch.

All 60 are marked slow; without that mark 20 run, in which every two of the three kinds of part meet.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image
from tests.unit.modeling.small_detectors import box_override, wake, write_words
from tests.unit.modeling.small_segmenters import head as segmenter
from tests.unit.modeling.small_segmenters import sizes
from tests.unit.modeling.test_network import Script
from transformers import LogitsProcessorList

from ullava.batching.collate import Collator
from ullava.config.schema import LossConfig, VisionConfig
from ullava.examples import Batch
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.heads.box_table import BOX_HEADS
from ullava.modeling.vision.strategies import STRATEGIES
from ullava.structures import Clip, DetectedBoxes, Sample, Turn
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

VISION_ENCODERS: dict[str, tuple[str, ...]] = {
    "clip_mlp": (),
    "conv": (
        "vision.strategy=conv",
        "vision.tower.config={num_stages: 5, hidden_sizes: [8, 8, 12, 12, 16], depths: [1, 1, 1, 1, 1], patch_size: 1, "
        "image_size: 64, layer_scale_init_value: 1.0}",
        "vision.image_aspect_ratio=any",
        "vision.conv={video_side: 32}",
    ),
    "mg": (
        "vision.strategy=mg",
        "vision.mg={pyramid: {config: {model_type: convnext, hidden_sizes: [8, 16, 32, 64], depths: [1, 1, 1, 1]}}}",
    ),
    "avg": ("vision.strategy=avg", "vision.avg={text_slots: 6, heads: 4}"),
    "slime": ("vision.strategy=slime", "vision.slime={local_side: 2, heads: 4, top_p: 0.6, temperature: 0.02}"),
}
LANGUAGES = ("llama", "qwen2", "phi3")
CROSS = [(front, box, language) for front in VISION_ENCODERS for box in BOX_HEADS for language in LANGUAGES]


def _in_the_sample(front: str, box: str, language: str) -> bool:
    """Each pair of two kinds of part is in it: a Latin square, and once more its first column."""
    return (list(VISION_ENCODERS).index(front) + BOX_HEADS.index(box)) % 3 == LANGUAGES.index(language)


CASES = [pytest.param(*case, marks=() if _in_the_sample(*case) else pytest.mark.exhaustive) for case in CROSS]


def test_the_matrix_leaves_no_part_out() -> None:
    assert set(VISION_ENCODERS) == set(STRATEGIES) == set(get_args(get_type_hints(VisionConfig)["strategy"]))
    chosen = [case for case in CROSS if _in_the_sample(*case)]
    assert len(chosen) == 20 and len(CROSS) == 60
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(case[first], case[second]) for case in chosen}
        assert pairs == {(case[first], case[second]) for case in CROSS}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words"))


def build(front: str, box: str, language: str, words: Path) -> tuple[Any, Any]:
    head: tuple[str, ...] = ()
    if box == "grounding_dino_query":
        head = (box_override(box),)
    elif box == "grounding_dino_phrase":
        head = (box_override(box, phrase_tokenizer=str(words), box_threshold=0, text_threshold=0),)
    elif box == "mask":
        head = (segmenter("sam2", {"config": sizes("sam2")}), "box={kind: mask, width: 8}")
    model, processor = build_small((*VISION_ENCODERS[front], *head, f"language.config.model_type={language}"))
    if box.startswith("grounding_dino"):
        wake(model.box_head.detector)
    return model, processor


def samples() -> list[Sample]:
    """A grounded image with objects, a wide one, a video, words alone."""
    found = DetectedBoxes(np.array([[4.0, 4, 30, 30], [20, 10, 50, 38]]), np.array([0.9, 0.8]), ("thing", "thing"))
    film = Turn("<video>What moves?", "The circle.")
    return [
        replace(grounded_sample("a", 2), boxes=(found,)),
        grounded_sample("b", 1, 40, 120),
        Sample("film", "test", "vqa", (), (film,), videos=(Clip(Path("film.gif")),)),
        Sample("words", "test", "text", (), (Turn("How are you?", "Fine."),)),
    ]


def batch_of(processor: Any, given: list[Sample], **options: Any) -> Batch:
    shapes = {"a": (40, 56), "b": (40, 120)}
    examples = [
        processor.encode(
            sample,
            [make_image(number, *shapes[sample.name]) for _ in sample.images],
            videos=[np.stack([make_image(50 + frame, 30, 44) for frame in range(8)]) for _ in sample.videos],
            **options,
        )
        for number, sample in enumerate(given)
    ]
    side: Any = "left" if options else "right"
    return Collator(processor.tokenizer.pad_token_id, side)(examples)


@pytest.mark.parametrize(("front", "box", "language"), CASES)
def test_they_train_and_answer_together(front: str, box: str, language: str, words: Path, tmp_path: Path) -> None:
    model, processor = build(front, box, language, words)
    given = samples()
    batch = batch_of(processor, given)
    before = model(**batch.inputs.as_kwargs())
    assert before.seg.row.tolist() == [0, 0, 1]
    assert (before.loc.boxes_xyxy_head is None) == (box == "grounding_dino_phrase")

    plan = apply_stage(model, "scratch", quality_trains=False)
    model.train()
    output = model(**batch.inputs.as_kwargs())
    objective = GroundingObjective(LossConfig(), processor.masks, model.vision.passes().aux_terms)
    objective(output, batch.targets).total.backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    missed = {name for name in plan.trainable - reached if not name.startswith("mask_head.sam.")}
    assert not missed
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    model.eval()

    ids = processor.token_ids
    script = [ids["tag_start_id"], 7, ids["tag_end_id"], ids["seg_id"], ids["loc_id"], 11]
    asked = batch_of(processor, given, prompt_only=True).inputs
    said = LogitsProcessorList([Script(script)])
    answered = model.generate_grounded(asked, max_new_tokens=len(script), logits_processor=said)
    assert answered.new_ids.tolist() == [script] * 4
    assert answered.seg.row.tolist() == [0, 1], "a video and words ground nothing"
    assert bool(torch.isfinite(answered.seg.mask_logits_lowres).all())

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_folder(tmp_path, torch.float32)
    after = again(**batch_of(processor_again, given).inputs.as_kwargs())
    torch.testing.assert_close(after.supervised_logits, before.supervised_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.seg.mask_logits_lowres, before.seg.mask_logits_lowres, rtol=1e-4, atol=1e-5)
