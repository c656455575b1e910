"""Vision encoders whose visual tokens only the network counts: rows grow after the encoder, and nothing else
notices.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image
from tests.unit.modeling.reading_strategy import make_reading
from transformers import LogitsProcessorList

from ullava.batching.collate import Collator
from ullava.config.schema import LossConfig
from ullava.errors import SampleError, UserError
from ullava.examples import ModelInputs
from ullava.inference.predictor import Predictor
from ullava.structures import Clip, DetectedBoxes, Sample, Turn
from ullava.text.tokens import IGNORE_LABEL
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

TEXT_ONLY = Sample("words", "test", "text", (), (Turn("How are you?", "Fine."),))
SHAPES = ((40, 56), (40, 120), (90, 30))
"""Heights and widths of the test images: one, three and three tiles."""


@pytest.fixture(scope="module")
def reading() -> tuple[Any, Any]:
    model, processor = build_small()
    make_reading(model, processor)
    return model, processor


def asks(question: str, answer: str, name: str) -> Sample:
    return Sample(name, "test", "vqa", (Path(f"{name}.png"),), (Turn(f"<image>{question}", answer),))


def rows(processor: Any, samples: list[Sample], numbers: list[int] | None = None, **options: Any) -> list[Any]:
    chosen = range(len(samples)) if numbers is None else numbers
    return [
        processor.encode(
            sample,
            [make_image(number, *SHAPES[number % 3]) for _ in sample.images],
            videos=[np.stack([make_image(50 + number + frame) for frame in range(8)]) for _ in sample.videos],
            **options,
        )
        for sample, number in zip(samples, chosen, strict=True)
    ]


def collate(processor: Any, examples: list[Any], side: Any = "right") -> dict[str, Any]:
    return Collator(processor.tokenizer.pad_token_id, side)(examples)


def seg_samples() -> list[Sample]:
    """Grounding rows on images of all three shapes, a row of words, two questions about one image."""
    made = [grounded_sample(str(number), 1 + number % 2, *SHAPES[number]) for number in range(3)]
    other = replace(made[0], turns=(replace(made[0].turns[0], question="<image>Where is the large red triangle?"),))
    return [made[0], TEXT_ONLY, made[1], made[2], other]


NUMBERS = [0, 0, 1, 2, 0]


def test_the_same_image_gives_other_tokens_to_another_question(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    batch = collate(processor, rows(processor, seg_samples(), NUMBERS))
    shown = batch.inputs.images
    assert [tuple(tiles.shape[:1]) for tiles in shown.views["tiles"]] == [(1,), (3,), (3,)]
    assert shown.index.tolist() == [0, 1, 2, 0] and shown.row.tolist() == [0, 2, 3, 4]
    assert shown.counts.tolist() == [[3, 18], [3, 50], [3, 50], [3, 18]]
    model.vision.seen = 0
    output = model(**batch.inputs.as_kwargs())
    assert model.vision.seen == 7, "each tile of each distinct image once, no padding"
    kept = output.diagnostics["kept"].tolist()
    assert len(kept) == 4 and kept[0] != kept[3], "the first and the last row ask about one image"
    ids, patch = output.input_ids, processor.token_ids["image_patch_id"]
    assert [int((ids[row] == patch).sum()) for row in (0, 2, 3, 4)] == [count - 1 for count in kept]


def test_words_among_visual_tokens_are_the_vocabulary_s_and_not_supervised(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    batch = collate(processor, rows(processor, seg_samples()[:1]))
    text = model.core.prepare(batch.inputs, left_pad=False)
    ids = text.input_ids[0].tolist()
    start = ids.index(processor.token_ids["image_start_id"])
    assert ids[start + 2] == model.vision.word_id and ids[start + 1] == processor.token_ids["image_patch_id"]
    expected = model.get_input_embeddings().weight[model.vision.word_id]
    torch.testing.assert_close(text.arguments["inputs_embeds"][0, start + 2], expected)
    span = slice(start, ids.index(processor.token_ids["image_end_id"]) + 1)
    assert text.labels[0, span].eq(IGNORE_LABEL).all()
    assert not text.arguments["inputs_embeds"][0].eq(99.0).any(), "the row in the literal's place is not read"


def test_batch_equals_single(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    samples = seg_samples()
    examples = rows(processor, samples, NUMBERS)
    together = model(**collate(processor, examples).inputs.as_kwargs())
    at_token = at_mask = at_box = 0
    for row, example in enumerate(examples):
        alone = model(**collate(processor, [example]).inputs.as_kwargs())
        size, masks = len(alone.targets), len(alone.seg.row)
        assert torch.equal(together.targets[at_token : at_token + size], alone.targets)
        torch.testing.assert_close(
            together.supervised_logits[at_token : at_token + size], alone.supervised_logits, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            together.seg.mask_logits_lowres[at_mask : at_mask + masks], alone.seg.mask_logits_lowres,
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
        torch.testing.assert_close(
            together.loc.boxes_xyxy_head[at_box : at_box + masks], alone.loc.boxes_xyxy_head, rtol=1e-4, atol=1e-5
        )
        assert together.seg.row[at_mask : at_mask + masks].eq(row).all()
        at_token, at_mask, at_box = at_token + size, at_mask + masks, at_box + masks


@pytest.mark.parametrize("overrides", [{}, {"keep": "all"}])
def test_grounding_states_are_found_whatever_the_number_of_tokens(
    reading: tuple[Any, Any], overrides: dict[str, str]
) -> None:
    """The state of [SEG] is the one before it in the row as expanded: compared with a pass on the whole row."""
    model, processor = reading
    examples = rows(processor, seg_samples(), NUMBERS, overrides=overrides)
    batch = collate(processor, examples).inputs.as_kwargs() | {"overrides": overrides}
    output = model(**batch, output_hidden_states=True)
    ids, hidden = output.input_ids, output.hidden_states[0]
    expected = [hidden[r, p - 1] for r, p in (ids == processor.token_ids["loc_id"]).nonzero().tolist()]
    assert len(expected) == len(output.loc.row) == 5
    (found,) = model.box_head(torch.stack(expected))
    torch.testing.assert_close(output.loc.boxes_xyxy_head, found.boxes_xyxy_head[:, 0], rtol=1e-4, atol=1e-5)


def test_forced_counts_are_written_before_the_network_ran(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    overrides = {"keep": "all"}
    batch = collate(processor, rows(processor, seg_samples(), NUMBERS, overrides=overrides))
    assert "image_counts" not in batch.inputs.as_kwargs()
    patch = processor.token_ids["image_patch_id"]
    assert (batch.inputs.as_kwargs()["input_ids"] == patch).sum(dim=1).tolist() == [18, 0, 50, 50, 18]
    output = model(**batch.inputs.as_kwargs(), overrides=overrides)
    assert output.diagnostics["kept"].tolist() == [18, 50, 50], "once for each distinct image"
    single = collate(processor, rows(processor, seg_samples(), NUMBERS))
    deferred = model(**single.inputs.as_kwargs(), overrides=overrides)
    torch.testing.assert_close(output.supervised_logits, deferred.supervised_logits, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="no override 'kep'; did you mean 'keep'"):
        model(**single.inputs.as_kwargs(), overrides={"kep": 1})
    with pytest.raises(UserError, match="no override 'kep'"):
        rows(processor, seg_samples()[:1], overrides={"kep": 1})


def test_the_answer_and_padding_do_not_leak_into_the_choice(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    question = "What is left of the circle?"
    spoken, other = (asks(question, answer, "a") for answer in ("A small square.", "Nothing at all, really nothing."))
    asked = rows(processor, [spoken], prompt_only=True)[0]
    for sample in (spoken, other):
        (row,) = rows(processor, [sample])
        assert np.array_equal(row.instruction_ids, asked.instruction_ids)
    longer = asks("A much longer question with many more words in it than the other one has: what is it?", "No.", "b")
    together = collate(processor, rows(processor, [spoken, longer], [0, 0]))
    alone = collate(processor, [asked])
    output = model.core.encode_images(together.inputs)
    single = model.core.encode_images(alone.inputs)
    assert output.counts[0] == single.counts[0]
    torch.testing.assert_close(output.tokens[: output.counts[0]], single.tokens, rtol=1e-5, atol=1e-6)


def test_batched_generation_equals_single_and_gives_the_prompt_back_as_it_came(reading: tuple[Any, Any]) -> None:
    from tests.unit.modeling.test_network import Script

    model, processor = reading
    ids = processor.token_ids
    script = [5, ids["seg_id"], ids["loc_id"], 7, ids["seg_id"], 11]
    samples = seg_samples()

    def run(examples: list[Any]) -> Any:
        batch = collate(processor, examples, "left").inputs.as_kwargs()
        forced = LogitsProcessorList([Script(script)])
        return model.generate_grounded(
            ModelInputs.from_kwargs(batch), max_new_tokens=len(script), logits_processor=forced
        )

    examples = rows(processor, samples, NUMBERS, prompt_only=True)
    together = run(examples)
    assert together.seg.row.tolist() == [0, 0, 2, 2, 3, 3, 4, 4]
    for row in (0, 2, 3, 4):
        alone, place = run([examples[row]]), together.seg.row == row
        torch.testing.assert_close(
            together.seg.mask_logits_lowres[place], alone.seg.mask_logits_lowres, rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            together.loc.boxes_xyxy_head[together.loc.row == row], alone.loc.boxes_xyxy_head, rtol=1e-3, atol=1e-4
        )
    batch = collate(processor, examples, "left").inputs.as_kwargs()
    batch.pop("labels")
    counts = model.core.encode_images(ModelInputs.from_kwargs(batch)).counts
    sequences = model.generate(**batch, max_new_tokens=4, do_sample=False)
    grown = model.core.prepare(ModelInputs.from_kwargs(batch), left_pad=True).input_ids
    assert (grown[[0, 2, 3, 4]] == ids["image_patch_id"]).sum(dim=1).tolist() == [count - 1 for count in counts]
    assert torch.equal(sequences[:, :-4], batch["input_ids"])
    for row in range(5):
        single = collate(processor, [examples[row]], "left").inputs.as_kwargs()
        single.pop("labels")
        said = model.generate(**single, max_new_tokens=4, do_sample=False)
        assert said[0, -4:].tolist() == sequences[row, -4:].tolist()


def test_videos_and_images_and_words_train_together() -> None:
    model, processor = build_small()
    make_reading(model, processor, noise=0.1)
    film = Sample(
        "film", "test", "vqa", (), (Turn("<video>What moves?", "The circle."),), videos=(Clip(Path("a.gif")),)
    )
    batch = collate(processor, rows(processor, [grounded_sample("0", 1), film, TEXT_ONLY], [0, 1, 2]))
    seen = batch.inputs.videos
    assert seen.counts.tolist() == [[3, 130]] and seen.row.tolist() == [1]
    plan = apply_stage(model, "scratch")
    assert {"box projector", "vision projector", "vision tower"} <= {row.part for row in plan.rows}
    model.train()
    objective = GroundingObjective(LossConfig(aux={"size": 0.5}), processor.masks, model.vision.passes().aux_terms)
    output = model(**batch.inputs.as_kwargs(), generator=torch.Generator().manual_seed(3))
    terms = objective(output, batch.targets)
    assert float(terms.aux["size"].detach()) > 0
    assert set(output.diagnostics) == {"kept", "video_kept"}
    terms.total.backward()
    assert {name for name, value in model.named_parameters() if value.grad is not None} >= {
        name for name in plan.trainable if name.startswith("vision.")
    }
    again = model(**batch.inputs.as_kwargs(), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(again.supervised_logits, output.supervised_logits)


def test_a_batch_of_words_reaches_every_weight(reading: tuple[Any, Any]) -> None:
    model, processor = build_small()
    make_reading(model, processor)
    model.train()
    output = model(**collate(processor, rows(processor, [TEXT_ONLY, TEXT_ONLY])).inputs.as_kwargs())
    (output.supervised_logits.float().mean() + output.idle).backward()
    assert all(parameter.grad is not None for parameter in model.vision.parameters())


def test_bf16_is_finite(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**collate(processor, rows(processor, seg_samples(), NUMBERS)).inputs.as_kwargs())
    assert torch.isfinite(output.supervised_logits).all() and torch.isfinite(output.seg.mask_logits_lowres).all()


def test_boxes_travel_with_their_image(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    found = DetectedBoxes(np.array([[1.0, 2.0, 30.0, 20.0]]), np.array([0.9]), ("cup",))
    plain = asks("What is it?", "A cup.", "a")
    boxed = replace(plain, boxes=(found,))
    batch = collate(processor, rows(processor, [plain, boxed, boxed], [0, 0, 0])).inputs
    assert batch.images.index.tolist() == [0, 1, 1], "with other boxes it is another item"
    assert [len(boxes) for boxes in batch.images.views["boxes"]] == [0, 1]
    output = model.core.encode_images(batch)
    with_boxes = output.tokens[output.counts[0] :]
    assert not torch.equal(output.tokens[2 : output.counts[0]], with_boxes[2 : output.counts[0]])


def test_a_budget_makes_the_image_coarser_before_the_row_is_refused(reading: tuple[Any, Any]) -> None:
    _, processor = reading
    sample = asks("What is it?", "A cup.", "b")
    (whole,) = rows(processor, [sample], [1])
    longest = processor.max_length
    text = len(whole.input_ids) - 1
    try:
        processor.max_length = text + 40
        (coarse,) = rows(processor, [sample], [1])
        assert coarse.images[0].shrunk and coarse.images[0].count.high == 18
        assert coarse.images[0].key != whole.images[0].key
        processor.max_length = text + 17
        with pytest.raises(SampleError, match="nothing is cut"):
            rows(processor, [sample], [1])
    finally:
        processor.max_length = longest
    again = processor.encode(sample, [make_image(1, *SHAPES[1])], prepared=coarse.images)
    assert again.images[0].count.high == 50, "what was made for a tighter row is not used again"


def test_counts_outside_the_announced_bounds_are_refused(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    batch = collate(processor, rows(processor, seg_samples()[:1])).inputs.as_kwargs()
    batch["image_counts"] = torch.tensor([[3, 4]])
    with pytest.raises(UserError, match="tokens for an item that may have 3 to 4"):
        model(**batch)
    batch = collate(processor, rows(processor, seg_samples()[:1])).inputs.as_kwargs()
    del batch["instruction_ids"]
    with pytest.raises(UserError, match="holds instruction_mask, grounded_rows but no instruction_ids"):
        model(**batch)
    del batch["instruction_mask"], batch["grounded_rows"]
    with pytest.raises(UserError, match="holds no instruction_ids"):
        model(**batch)


def test_a_predictor_hands_its_overrides_on(reading: tuple[Any, Any]) -> None:
    model, processor = reading
    asked: list[dict[str, Any]] = []
    encode = model.vision.encode

    def listen(views: Any, context: Any) -> Any:
        asked.append(dict(context.overrides))
        return encode(views, context)

    model.vision.encode = listen
    try:
        predictor = Predictor(model, processor, overrides={"keep": "all"})
        predictor.answer(make_image(1, *SHAPES[1]), "What is it?", max_new_tokens=2)
        predictor.overrides = {}
        free = predictor.answer(make_image(1, *SHAPES[1]), "What is it?", max_new_tokens=2)
        again = predictor.answer(make_image(1, *SHAPES[1]), "What is it?", max_new_tokens=2)
        predictor.answer(make_image(1, *SHAPES[1]), "What is it?", max_new_tokens=2, overrides={"keep": "all"})
        with pytest.raises(UserError, match="no override 'kep'"):
            predictor.answer(make_image(1, *SHAPES[1]), "What is it?", overrides={"kep": "all"})
    finally:
        del model.vision.encode
    assert asked == [{"keep": "all"}, {}, {}, {"keep": "all"}] and free == again
