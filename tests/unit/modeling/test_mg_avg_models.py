"""Whole models with the strategies ``mg`` and ``avg``: what the contract of vision encoders promises for every one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image

from ullava.batching.collate import Collator
from ullava.config.load import parse_text
from ullava.config.schema import LossConfig, ModelConfig
from ullava.errors import ConfigError, SampleError, UserError
from ullava.examples import ModelInputs
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.structures import Clip, DetectedBoxes, Sample, Turn
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

PYRAMID = "{model_type: convnext, hidden_sizes: [8, 16, 32, 64], depths: [1, 1, 1, 1], layer_scale_init_value: 1.0}"
CHOICE = {
    "mg": ("vision.strategy=mg", f"vision.mg={{pyramid: {{config: {PYRAMID}}}, embed_boxes: true}}"),
    "avg": ("vision.strategy=avg", "vision.avg={text_slots: 6, heads: 4}"),
}
SHAPES = ((40, 56), (40, 120), (90, 30))
WORDS = Sample("words", "test", "text", (), (Turn("How are you?", "Fine."),))


def boxes(*corners: tuple[float, float, float, float]) -> DetectedBoxes:
    scores = np.linspace(0.9, 0.5, len(corners))
    return DetectedBoxes(np.asarray(corners, np.float64).reshape(-1, 4), scores, ("thing",) * len(corners))


def samples() -> list[Sample]:
    """Two grounding rows with and without boxes, words, a wide image, another question about the first."""
    made = [grounded_sample(str(number), 1 + number % 2, *SHAPES[number]) for number in range(3)]
    made[0] = replace(made[0], boxes=(boxes((4, 4, 30, 30), (30, 10, 50, 38)),))
    made[2] = replace(made[2], boxes=(boxes((0, 50, 20, 80)),))
    asked = replace(made[0].turns[0], question="<image>Where is the large red triangle left of the others?")
    return [made[0], WORDS, made[1], made[2], replace(made[0], turns=(asked,))]


NUMBERS = (0, 0, 1, 2, 0)


def rows(processor: Any, given: list[Sample], numbers: tuple[int, ...] = NUMBERS, **options: Any) -> list[Any]:
    return [
        processor.encode(
            sample,
            [make_image(number, *SHAPES[number % 3]) for _ in sample.images],
            videos=[np.stack([make_image(50 + number + frame) for frame in range(8)]) for _ in sample.videos],
            **options,
        )
        for sample, number in zip(given, numbers, strict=False)
    ]


def collate(processor: Any, examples: list[Any], side: Any = "right") -> dict[str, Any]:
    return Collator(processor.tokenizer.pad_token_id, side)(examples)


@pytest.fixture(scope="module", params=["mg", "avg"])
def built(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    return request.param, *build_small(CHOICE[request.param])


def test_batch_equals_single(built: tuple[str, Any, Any]) -> None:
    _, model, processor = built
    examples = rows(processor, samples())
    with torch.no_grad():
        together = model(**collate(processor, examples).inputs.as_kwargs())
        at_token = at_mask = 0
        for row, example in enumerate(examples):
            alone = model(**collate(processor, [example]).inputs.as_kwargs())
            size, masks = len(alone.targets), len(alone.seg.row)
            torch.testing.assert_close(
                together.supervised_logits[at_token : at_token + size], alone.supervised_logits, rtol=1e-4, atol=1e-5
            )
            for name in ("mask_logits_lowres", "iou_scores"):
                found = getattr(together.seg, name)[at_mask : at_mask + masks]
                torch.testing.assert_close(found, getattr(alone.seg, name), rtol=1e-4, atol=1e-5)
            found = together.loc.boxes_xyxy_head[at_mask : at_mask + masks]
            torch.testing.assert_close(found, alone.loc.boxes_xyxy_head, rtol=1e-4, atol=1e-5)
            assert together.seg.row[at_mask : at_mask + masks].eq(row).all()
            at_token, at_mask = at_token + size, at_mask + masks
    assert at_mask == 5


def test_generation_of_a_batch_is_that_of_its_rows(built: tuple[str, Any, Any]) -> None:
    name, model, processor = built
    examples = rows(processor, samples(), prompt_only=True)
    batch = collate(processor, examples, "left").inputs.as_kwargs()
    batch.pop("labels")
    counts = model.core.encode_images(ModelInputs.from_kwargs(batch)).counts
    sequences = model.generate(**batch, max_new_tokens=4, do_sample=False)
    grown = model.core.prepare(ModelInputs.from_kwargs(batch), left_pad=True).input_ids
    placed = (grown == processor.token_ids["image_patch_id"]).sum(dim=1).tolist()
    assert torch.equal(sequences[:, :-4], batch["input_ids"])
    wanted = [counts[item] for item in batch["image_index"].tolist()] if name == "mg" else list(counts)
    assert [placed[row] for row in (0, 2, 3, 4)] == wanted and placed[1] == 0
    for row, example in enumerate(examples):
        single = collate(processor, [example], "left").inputs.as_kwargs()
        single.pop("labels")
        said = model.generate(**single, max_new_tokens=4, do_sample=False)
        assert said[0, -4:].tolist() == sequences[row, -4:].tolist()


def test_training_step_reaches_every_weight_and_keeps_its_counts(built: tuple[str, Any, Any]) -> None:
    name = built[0]
    model, processor = build_small(CHOICE[name])
    film = Sample("film", "test", "vqa", (), (Turn("<video>What moves?", "It does."),), videos=(Clip(Path("a.gif")),))
    batch = collate(processor, rows(processor, [*samples(), film], (*NUMBERS, 1)))
    plan = apply_stage(model, "scratch")
    model.train()
    output = model(**batch.inputs.as_kwargs())
    objective = GroundingObjective(LossConfig(), processor.masks, model.vision.passes().aux_terms)
    objective(output, batch.targets).total.backward()
    missing = [n for n, value in model.named_parameters() if n in plan.trainable and value.grad is None]
    missing = [n for n in missing if n.startswith("vision.")]
    assert missing == []
    parts = {row.part for row in plan.rows}
    own = {"mg": {"vision pyramid", "vision fusion", "object projector"}, "avg": {"vision router"}}[name]
    assert own | {"vision tower", "vision projector"} <= parts
    assert set(output.diagnostics) >= ({"boxes", "gate"} if name == "mg" else {"granularity", "probability"})


def test_words_alone_train(built: tuple[str, Any, Any]) -> None:
    model, processor = build_small(CHOICE[built[0]])
    model.train()
    output = model(**collate(processor, rows(processor, [WORDS, WORDS])).inputs.as_kwargs())
    (output.supervised_logits.float().mean() + output.idle).backward()
    assert all(value.grad is not None for value in model.vision.parameters())


def test_saved_and_loaded(built: tuple[str, Any, Any], tmp_path: Path) -> None:
    _, model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = UllavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    reader = UllavaProcessor.from_pretrained(tmp_path)
    assert {n for n in again.state_dict()} == {n for n in model.state_dict()}
    with torch.no_grad():
        first, second = (
            network(**collate(speaker, rows(speaker, samples())).inputs.as_kwargs())
            for network, speaker in ((model, processor), (again, reader))
        )
    assert torch.equal(first.input_ids, second.input_ids)
    torch.testing.assert_close(first.supervised_logits, second.supervised_logits)


def test_half_precision_is_finite(built: tuple[str, Any, Any]) -> None:
    _, model, processor = built
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = model(**collate(processor, rows(processor, samples())).inputs.as_kwargs())
    assert torch.isfinite(output.supervised_logits).all() and torch.isfinite(output.seg.mask_logits_lowres).all()


def test_overrides(built: tuple[str, Any, Any]) -> None:
    """Forced, every count is written before the network ran, and the network gives just as many."""
    name, model, processor = built
    forces = [{"max_boxes": 1}, {"max_boxes": 0}] if name == "mg" else model.vision.candidates()
    lengths = []
    for overrides in forces:
        batch = collate(processor, rows(processor, samples(), overrides=overrides))
        assert "image_counts" not in batch.inputs.as_kwargs()
        with torch.no_grad():
            output = model(**batch.inputs.as_kwargs(), overrides=overrides)
        lengths.append(int((output.input_ids == processor.token_ids["image_patch_id"]).sum()))
        assert output.input_ids.shape == batch.inputs.input_ids.shape and torch.isfinite(output.supervised_logits).all()
    assert len(set(lengths)) > 1
    with pytest.raises(UserError, match="no override 'resolution'"):
        rows(processor, samples()[:1], overrides={"resolution": 3})


def test_grounding_states_do_not_depend_on_the_number_of_tokens(built: tuple[str, Any, Any]) -> None:
    _, model, processor = built
    with torch.no_grad():
        output = model(**collate(processor, rows(processor, samples())).inputs.as_kwargs(), output_hidden_states=True)
    ids, hidden = output.input_ids, output.hidden_states[0]
    before = [hidden[row, place - 1] for row, place in (ids == processor.token_ids["loc_id"]).nonzero().tolist()]
    (found,) = model.box_head(torch.stack(before))
    torch.testing.assert_close(output.loc.boxes_xyxy_head, found.boxes_xyxy_head[:, 0], rtol=1e-4, atol=1e-5)


def test_a_short_row_sees_less_and_is_never_cut(built: tuple[str, Any, Any]) -> None:
    name, _, processor = built
    sample, longest = samples()[0], processor.max_length
    (whole,) = rows(processor, [sample])
    most = whole.images[0].count.high
    least = 16 if name == "mg" else whole.images[0].count.low
    text = len(whole.input_ids) - (most if name == "mg" else 1)
    try:
        processor.max_length = text + most - 1
        (coarse,) = rows(processor, [sample])
        assert coarse.images[0].shrunk and least <= coarse.images[0].count.high < most
        processor.max_length = text + least - 1
        with pytest.raises(SampleError, match="nothing is cut"):
            rows(processor, [sample])
    finally:
        processor.max_length = longest


def test_settings_of_another_strategy_are_refused() -> None:
    from tests.unit.modeling.conftest import SMALL

    with pytest.raises(ConfigError, match="the table avg belongs to strategy avg, not to mg"):
        parse_text(ModelConfig, SMALL, "small", (*CHOICE["mg"], CHOICE["avg"][1]))
    with pytest.raises(ConfigError, match="max_box.*did you mean 'max_boxes'"):
        parse_text(ModelConfig, SMALL, "small", ("vision.strategy=mg", "vision.mg={max_box: 3}"))
    with pytest.raises(UserError, match="no granularity of 5 tokens"):
        build_small(("vision.strategy=avg", "vision.avg={levels: [5]}"))
