"""Strategy ``slime`` in a whole model: counts, questions, batches, stages, videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image
from transformers import LogitsProcessorList

from ullava.batching.collate import Collator
from ullava.errors import ConfigError, SampleError, UserError
from ullava.examples import ModelInputs
from ullava.modeling.processing.sample_rules import question_sample
from ullava.structures import Clip, Sample, Turn
from ullava.text.tokens import IGNORE_LABEL
from ullava.training.optim.stages import apply_stage

SETTINGS = "local_side: 2, heads: 4, top_p: 0.6, temperature: 0.02"
WHOLE = 16
"""Tokens of the global view: the small tower's grid of 4 x 4. A tile gives 2 x 2."""
SHAPES = ((40, 56), (40, 120), (90, 30))
TILES = (4, 4, 3)
"""How many tiles images of these heights and widths have."""
TEXT_ONLY = Sample("words", "test", "text", (), (Turn("How are you?", "Fine."),))


def build(settings: str = SETTINGS) -> tuple[Any, Any]:
    return build_small(("vision.strategy=slime", f"vision.slime={{{settings}}}"))


@pytest.fixture(scope="module")
def slime() -> tuple[Any, Any]:
    return build()


def rows(processor: Any, samples: list[Sample], numbers: list[int], **options: Any) -> list[Any]:
    return [
        processor.encode(sample, [make_image(n, *SHAPES[n % 3]) for _ in sample.images], **options)
        for sample, n in zip(samples, numbers, strict=True)
    ]


def collate(processor: Any, examples: list[Any], side: Any = "right") -> dict[str, Any]:
    return Collator(processor.tokenizer.pad_token_id, side)(examples).inputs.as_kwargs()


def asks(question: str, answer: str = "Yes.") -> Sample:
    return Sample("q", "test", "vqa", (Path("q.png"),), (Turn(f"<image>{question}", answer),))


def film(question: str = "What moves?") -> Sample:
    return Sample("f", "test", "vqa", (), (Turn(f"<video>{question}", "It."),), videos=(Clip(Path("f.gif")),))


SAMPLES = [grounded_sample(str(n), 1 + n % 2, *SHAPES[n]) for n in range(3)]
OTHER = replace(asks("Is the small red circle left of the square?"), images=SAMPLES[0].images)
SAMPLES = [SAMPLES[0], TEXT_ONLY, SAMPLES[1], SAMPLES[2], OTHER]
NUMBERS = [0, 0, 1, 2, 0]


def test_pointing_keeps_at_least_the_floor(slime: tuple[Any, Any]) -> None:
    """Of one image under one question the row that points keeps all with a floor of 1; the other as ever."""
    question = "Is the small red circle left of the square?"
    told = replace(asks(question), images=(Path("p.png"),))
    points = replace(told, task="res")
    for settings, expected in ((SETTINGS, None), (SETTINGS + ", min_top_p: 1.0", 1.0)):
        model, processor = build(settings)
        batch = collate(processor, rows(processor, [told, points], [0, 0]))
        assert batch["grounded_rows"].tolist() == [False, True]
        first, second = model(**batch).diagnostics["kept_share"]
        assert first < 1.0 and second == (first if expected is None else expected)
        low = model(**batch, overrides={"top_p": 0.0}).diagnostics["kept_share"]
        assert low[0] == low[1] == 1 / (4 * TILES[0])


def test_a_row_points_before_it_is_answered(slime: tuple[Any, Any]) -> None:
    """Training sees the same as inference; a free question about an image may ask for a mask."""
    _, processor = slime
    sample, seen = SAMPLES[0], make_image(0, *SHAPES[0])
    assert processor.encode(sample, [seen]).grounded and processor.encode(sample, [seen], prompt_only=True).grounded
    assert processor.encode(question_sample("Where?", [Path("q.png")]), [seen], prompt_only=True).grounded
    assert not processor.encode(TEXT_ONLY, []).grounded


def test_a_floor_is_a_share() -> None:
    with pytest.raises(ConfigError, match="min_top_p 1.5: a share is 1 at most"):
        build("min_top_p: 1.5")


def test_tokens_of_a_row(slime: tuple[Any, Any]) -> None:
    model, processor = slime
    batch = collate(processor, rows(processor, SAMPLES, NUMBERS))
    assert batch["image_counts"].tolist() == [[18, 17 + 4 * TILES[n]] for n in (0, 1, 2, 0)]
    assert [len(tiles) for tiles in batch["pixel_values_tiles"]] == list(TILES)
    output = model(**batch)
    kept = [len(part) for part in output.diagnostics["kept"]]
    ids, patch = output.input_ids, processor.token_ids["image_patch_id"]
    for row, count in zip((0, 2, 3, 4), kept, strict=True):
        places = (ids[row] == patch).nonzero().flatten().tolist()
        assert len(places) == WHOLE + count
        comma = places[0] + WHOLE
        assert ids[row, comma] == processor.tokenizer.get_vocab()[","]
        assert places == [*range(places[0], comma), *range(comma + 1, comma + 1 + count)]
    assert any(count < 4 * tiles for count, tiles in zip(kept, (4, 4, 3, 4), strict=True))
    assert all(part.tolist() == sorted(part.tolist()) for part in output.diagnostics["kept"])


def test_visual_tokens_and_separator_are_not_supervised(slime: tuple[Any, Any]) -> None:
    model, processor = slime
    batch = collate(processor, rows(processor, SAMPLES[:1], [0]))
    labels = batch["labels"][0]
    output = model(**batch)
    assert len(output.targets) == int((labels != IGNORE_LABEL).sum())


def test_batch_equals_single(slime: tuple[Any, Any]) -> None:
    model, processor = slime
    examples = rows(processor, SAMPLES, NUMBERS)
    together = model(**collate(processor, examples))
    at_token = at_mask = 0
    for example in examples:
        alone = model(**collate(processor, [example]))
        size, masks = len(alone.targets), len(alone.seg.row)
        torch.testing.assert_close(
            together.supervised_logits[at_token : at_token + size], alone.supervised_logits, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            together.seg.mask_logits_lowres[at_mask : at_mask + masks], alone.seg.mask_logits_lowres,
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
        at_token, at_mask = at_token + size, at_mask + masks


def test_batched_generation_equals_single(slime: tuple[Any, Any]) -> None:
    from tests.unit.modeling.test_network import Script

    model, processor = slime
    ids = processor.token_ids
    script = [5, ids["seg_id"], ids["loc_id"], 7]
    examples = rows(processor, SAMPLES, NUMBERS, prompt_only=True)

    def run(chosen: list[Any]) -> Any:
        forced = LogitsProcessorList([Script(script)])
        batch = collate(processor, chosen, "left")
        return model.generate_grounded(
            ModelInputs.from_kwargs(batch), max_new_tokens=len(script), logits_processor=forced
        )

    together = run(examples)
    for row in (0, 2, 4):
        alone, place = run([examples[row]]), together.seg.row == row
        torch.testing.assert_close(
            together.seg.mask_logits_lowres[place], alone.seg.mask_logits_lowres, rtol=1e-3, atol=1e-4
        )


def test_gamma_forced_to_one_keeps_all_and_is_known_beforehand(slime: tuple[Any, Any]) -> None:
    model, processor = slime
    overrides = {"top_p": 1.0}
    batch = collate(processor, rows(processor, SAMPLES, NUMBERS, overrides=overrides))
    assert "image_counts" not in batch
    patch = processor.token_ids["image_patch_id"]
    assert (batch["input_ids"] == patch).sum(dim=1).tolist() == [33, 0, 33, 29, 33]
    output = model(**batch, overrides=overrides)
    deferred = model(**collate(processor, rows(processor, SAMPLES, NUMBERS)), overrides=overrides)
    torch.testing.assert_close(output.supervised_logits, deferred.supervised_logits, rtol=1e-5, atol=1e-6)


def test_a_smaller_gamma_keeps_a_part_of_the_same(slime: tuple[Any, Any]) -> None:
    model, processor = slime
    batch = collate(processor, rows(processor, SAMPLES, NUMBERS))
    kept = [
        [set(part.tolist()) for part in model(**batch, overrides={"top_p": top_p}).diagnostics["kept"]]
        for top_p in (0.0, 0.4, 0.9)
    ]
    assert [len(part) for part in kept[0]] == [1, 1, 1, 1]
    for few, more in zip(kept, kept[1:], strict=False):
        assert all(a <= b for a, b in zip(few, more, strict=True))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"topp": 0.5}, "no override 'topp'; did you mean 'top_p'"), ({"top_p": 2.0}, "a share lies between 0 and 1")],
)
def test_wrong_overrides_are_refused(slime: tuple[Any, Any], overrides: dict[str, Any], message: str) -> None:
    model, processor = slime
    with pytest.raises(UserError, match=message):
        rows(processor, SAMPLES[:1], [0], overrides=overrides)
    with pytest.raises(UserError, match=message):
        model(**collate(processor, rows(processor, SAMPLES[:1], [0])), overrides=overrides)


def test_the_question_chooses_and_the_answer_does_not(slime: tuple[Any, Any]) -> None:
    model, processor = slime
    one, other = asks("Is it a red circle?"), asks("12 + 7 = 19")
    spoken = replace(one, turns=(replace(one.turns[0], answer="No, it is a large blue star on the left."),))
    batch = collate(processor, rows(processor, [one, spoken, other], [1, 1, 1]))
    kept = [part.tolist() for part in model(**batch).diagnostics["kept"]]
    assert kept[0] == kept[1] != kept[2]


def test_fewer_tiles_by_override_and_by_budget(slime: tuple[Any, Any]) -> None:
    _, processor = slime
    sample = asks("What?")
    (whole,) = rows(processor, [sample], [1])
    (forced,) = rows(processor, [sample], [1], overrides={"max_tiles": 2})
    assert len(whole.images[0].views["tiles"]) == 4 and len(forced.images[0].views["tiles"]) == 2
    longest, text = processor.max_length, len(whole.input_ids) - 1
    try:
        processor.max_length = text + 17 + 4 * 3
        (tight,) = rows(processor, [sample], [1])
        assert tight.images[0].shrunk and len(tight.images[0].views["tiles"]) <= 3
        processor.max_length = text + 17
        with pytest.raises(SampleError, match="nothing is cut"):
            rows(processor, [sample], [1])
    finally:
        processor.max_length = longest


def test_frames_of_a_video_are_tiles_and_their_mean_is_the_whole(slime: tuple[Any, Any]) -> None:
    model, processor = slime
    still = make_image(3, 32, 32)
    clip = np.stack([still] * 8)
    row = processor.encode(film(), [], videos=[clip])
    assert (row.videos[0].count.low, row.videos[0].count.high) == (18, 17 + 4 * 8)
    batch = collate(processor, [row])
    output = model(**batch)
    assert 1 <= len(output.diagnostics["video_kept"][0]) <= 32
    seen = model.core.encode_videos(ModelInputs.from_kwargs(batch))
    alone = model.vision.encode({"base": torch.from_numpy(still).permute(2, 0, 1)[None],
                                 "tiles": [torch.zeros(2, 3, 32, 32, dtype=torch.uint8)],
                                 "grid": [torch.tensor([1, 2])]}, _no_words(model))  # fmt: skip
    torch.testing.assert_close(seen.tokens[:WHOLE], alone.tokens[:WHOLE], rtol=1e-4, atol=1e-5)


def _no_words(model: Any) -> Any:
    from ullava.modeling.vision.strategy import EncodeContext

    return EncodeContext(places=(0,), rows=(0,), overrides={"top_p": 1.0})


def test_words_alone_reach_every_weight_and_bf16_is_finite(slime: tuple[Any, Any]) -> None:
    model, processor = build()
    model.train()
    output = model(**collate(processor, rows(processor, [TEXT_ONLY], [0])))
    (output.supervised_logits.float().mean() + output.idle).backward()
    assert all(parameter.grad is not None for parameter in model.vision.parameters())
    still, _ = slime
    with torch.autocast("cpu", torch.bfloat16):
        made = still(**collate(processor, rows(processor, SAMPLES, NUMBERS)))
    assert torch.isfinite(made.logits).all() and torch.isfinite(made.seg.mask_logits_lowres).all()


def test_noise_belongs_to_training_and_comes_from_the_generator(slime: tuple[Any, Any]) -> None:
    model, processor = build()
    batch = collate(processor, rows(processor, SAMPLES, NUMBERS))
    torch.testing.assert_close(model(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    model.train()

    def run(seed: int) -> Any:
        return model(**batch, generator=torch.Generator().manual_seed(seed))

    first, again = run(1), run(1)
    torch.testing.assert_close(first.supervised_logits, again.supervised_logits, rtol=0, atol=0)
    assert float(first.diagnostics["gate"]) != float(run(2).diagnostics["gate"])
    first.supervised_logits.float().square().mean().backward()
    for name in ("w_gate", "w_noise", "attn.query", "projection.0.weight"):
        assert model.vision.mixture.get_parameter(name).grad.abs().max() > 0, name
    assert model.vision.local.query.grad.abs().max() > 0


STAGES = {
    "view: global, gate: mlp, top_p: 1.0": {"vision projector"},
    "view: global, gate: resampler, top_p: 1.0": {"vision projector", "vision resampler a"},
    "view: local, top_p: 1.0": {"vision projector", "vision resampler b"},
    "top_p: 0.95": {"vision projector", "vision gate", "vision resampler a", "vision resampler b"},
}


@pytest.mark.parametrize("switches", STAGES)
def test_the_stages_switches_train_what_they_see(switches: str) -> None:
    model, processor = build(f"local_side: 2, heads: 4, {switches}")
    plan = apply_stage(model, "align")
    trained = {row.part for row in plan.rows if row.trained and row.part.startswith("vision")}
    assert trained == STAGES[switches]
    model.train()
    output = model(**collate(processor, rows(processor, SAMPLES[3:], NUMBERS[3:])))
    tokens = {"view: global": WHOLE, "view: local": 4 * TILES[2]}
    for view, count in tokens.items():
        if view in switches:
            assert (output.input_ids[0] == processor.token_ids["image_patch_id"]).sum() == count
    output.supervised_logits.float().square().mean().backward()
    missing = [n for n, p in model.named_parameters() if n.startswith("vision") and p.requires_grad and p.grad is None]
    assert not missing


def test_saved_and_loaded_it_gives_the_same_tokens(slime: tuple[Any, Any], tmp_path: Path) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import ullava.modeling.construction.auto  # noqa: F401  registers our classes

    model, processor = slime
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    other, loaded = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    batch = collate(loaded, rows(loaded, SAMPLES, NUMBERS))
    torch.testing.assert_close(other.eval()(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as file:
        prefixes = {name.split(".")[1] for name in file.keys() if name.startswith("vision.")}
    assert prefixes == {"tower", "mixture", "local"}


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="a share is 1 at most"):
        build("top_p: 1.5")
    with pytest.raises(UserError, match=r"separator: 'a b' is \d+ tokens"):
        build("heads: 4, separator: 'a b'")
    with pytest.raises(ConfigError, match="the table slime belongs to strategy slime"):
        build_small(("vision.slime={top_p: 0.5}",))
