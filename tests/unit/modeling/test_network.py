"""The network as a whole: any mixture in a batch, batch = single, generation = training, save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList

from ullava.batching.collate import Collator
from ullava.errors import ConfigError, UserError, WeightsError
from ullava.examples import Batch, ModelInputs
from ullava.structures import Sample, Turn

TEXT_ONLY = Sample("words", "test", "text", (), (Turn("How are you?", "Fine."),))


def collate(processor: Any, samples: list[Sample], prompt_only: bool = False, side: str = "right") -> Batch:
    examples = [
        processor.encode(sample, [make_image(number) for _ in sample.images], prompt_only=prompt_only)
        for number, sample in enumerate(samples)
    ]
    return Collator(processor.tokenizer.pad_token_id, side)(examples)  # type: ignore[arg-type]


def inputs(batch: Batch) -> dict[str, Any]:
    return batch.inputs.as_kwargs()


def prompts(processor: Any, samples: list[Sample]) -> dict[str, Any]:
    batch = inputs(collate(processor, samples, prompt_only=True, side="left"))
    return {key: value for key, value in batch.items() if key != "labels"}


class Script(LogitsProcessor):
    """Makes the model say given tokens, so that grounding is tested without training."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.start: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.start = input_ids.shape[1] if self.start is None else self.start
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[input_ids.shape[1] - self.start]] = 0.0
        return forced


def test_any_mixture_in_one_batch(small: tuple[Any, Any]) -> None:
    model, processor = small
    samples = [grounded_sample("a", 2), TEXT_ONLY, grounded_sample("b", 1)]
    batch = collate(processor, samples)
    output = model(**inputs(batch))
    assert output.seg.row.tolist() == [0, 0, 2] and output.seg.image.tolist() == [0, 0, 1]
    assert output.loc.boxes_xyxy_head.shape == (3, 4)
    assert len(output.targets) == int((batch.inputs.labels != -100).sum())
    assert output.supervised_logits.shape == (len(output.targets), len(processor.tokenizer))
    assert bool((output.loc.boxes_xyxy_head[:, 2:] >= output.loc.boxes_xyxy_head[:, :2]).all())


def test_batch_equals_single(small: tuple[Any, Any]) -> None:
    model, processor = small
    samples = [grounded_sample("a", 3), TEXT_ONLY, grounded_sample("b", 1)]
    examples = [
        processor.encode(sample, [make_image(number) for _ in sample.images]) for number, sample in enumerate(samples)
    ]
    collator = Collator(processor.tokenizer.pad_token_id)
    together = model(**inputs(collator(examples)))
    at_token = at_mask = 0
    for row, example in enumerate(examples):
        alone = model(**inputs(collator([example])))
        size = len(alone.targets)
        torch.testing.assert_close(
            together.supervised_logits[at_token : at_token + size], alone.supervised_logits, rtol=1e-4, atol=1e-5
        )
        at_token += size
        count = len(alone.seg.row)
        masks = together.seg.mask_logits_lowres[at_mask : at_mask + count]
        torch.testing.assert_close(masks, alone.seg.mask_logits_lowres, rtol=1e-4, atol=1e-5)
        assert (together.seg.row[at_mask : at_mask + count] == row).all()
        at_mask += count


def test_generation_reads_the_states_that_training_reads(small: tuple[Any, Any]) -> None:
    model, processor = small
    ids = processor.token_ids
    sample = grounded_sample("a", 1)
    trained = collate(processor, [sample])
    spoken = trained.inputs.labels[0][trained.inputs.labels[0] != -100].tolist()
    prompt = prompts(processor, [sample])
    result = model.generate_grounded(
        ModelInputs.from_kwargs(prompt),
        max_new_tokens=len(spoken),
        logits_processor=LogitsProcessorList([Script(spoken)]),
    )
    output = model(**inputs(trained))
    assert result.new_ids[0].tolist() == spoken and ids["seg_id"] in spoken
    torch.testing.assert_close(
        result.seg.mask_logits_lowres, output.seg.mask_logits_lowres.detach(), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(result.loc.boxes_xyxy_head, output.loc.boxes_xyxy_head.detach(), rtol=1e-3, atol=1e-4)
    assert 0.0 <= float(result.loc.token_probability[0]) <= 1.0


class Bigrams(LogitsProcessor):
    """Lets the model choose among few tokens, each of which makes others likely: many sentences are about as likely."""

    def __init__(self, tokens: list[int], vocabulary: int) -> None:
        self.follows = torch.full((vocabulary, vocabulary), -torch.inf)
        liking = torch.randn(vocabulary, len(tokens), generator=torch.Generator().manual_seed(6))
        liking[:, 0] += 1.5  # the first one is to be among what is said
        self.follows[:, tokens] = 2.0 * liking

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + self.follows[input_ids[:, -1]]


def test_beams_that_cross_ground_what_they_say(small: tuple[Any, Any]) -> None:
    """Of two prompts in a batch; masks are those of a pass over the words that were found."""
    model, processor = small
    samples = [grounded_sample("a", 1), grounded_sample("b", 2)]
    prompt = prompts(processor, samples)
    tokens = [processor.token_ids["seg_id"], *range(40, 46)]
    chooser = LogitsProcessorList([Bigrams(tokens, len(processor.tokenizer))])
    found = model.generate_grounded(
        ModelInputs.from_kwargs(prompt), max_new_tokens=10, num_beams=4, logits_processor=chooser
    )
    said = model.generate(
        **prompt, max_new_tokens=10, num_beams=4, logits_processor=chooser, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    greedy = model.generate_grounded(ModelInputs.from_kwargs(prompt), max_new_tokens=10, logits_processor=chooser)
    assert not torch.equal(found.new_ids, greedy.new_ids)
    assert torch.equal(said.sequences[:, -found.new_ids.shape[1] :], found.new_ids)
    assert any(len(set(row)) > 1 for row in (said.beam_indices % 4).tolist()), "no sequence went from beam to beam"
    assert set(found.seg.row.tolist()) == {0, 1}
    whole = torch.cat([prompt["input_ids"], found.new_ids], dim=1)
    mask = torch.cat([prompt["attention_mask"], torch.ones_like(found.new_ids)], dim=1)
    labels = torch.cat([torch.full_like(prompt["input_ids"], -100), found.new_ids], dim=1)
    read = model(**{**prompt, "input_ids": whole, "attention_mask": mask, "labels": labels}).seg
    assert read.row.tolist() == found.seg.row.tolist()
    torch.testing.assert_close(found.seg.mask_logits_lowres, read.mask_logits_lowres.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("head_state", ["predicting", "token"])
def test_batched_generation_equals_single(head_state: str) -> None:
    model, processor = build_small((f"head_state={head_state}",))
    ids = processor.token_ids
    samples = [grounded_sample("a", 1), TEXT_ONLY, grounded_sample("a-much-longer-name", 1)]
    samples[2] = Sample("c", "test", "res", samples[2].images, (Turn("<image>Please point out the thing.", ""),))
    script = [5, ids["seg_id"], ids["loc_id"], 7, ids["seg_id"], 11]

    def run(rows: list[Sample], numbers: list[int]) -> Any:
        examples = [
            processor.encode(row, [make_image(number) for _ in row.images], prompt_only=True)
            for row, number in zip(rows, numbers, strict=True)
        ]
        batch = inputs(Collator(processor.tokenizer.pad_token_id, "left")(examples))
        return model.generate_grounded(
            ModelInputs.from_kwargs(batch),
            max_new_tokens=len(script),
            logits_processor=LogitsProcessorList([Script(script)]),
        )

    together = run(samples, [0, 1, 2])
    assert together.seg.row.tolist() == [0, 0, 2, 2], "a row without an image grounds nothing"
    for row in (0, 2):
        alone = run([samples[row]], [row])
        place = together.seg.row == row
        torch.testing.assert_close(
            together.seg.mask_logits_lowres[place], alone.seg.mask_logits_lowres, rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            together.loc.boxes_xyxy_head[together.loc.row == row], alone.loc.boxes_xyxy_head, rtol=1e-3, atol=1e-4
        )


def test_free_generation_is_the_same_in_a_batch(small: tuple[Any, Any]) -> None:
    model, processor = small
    samples = [grounded_sample("a"), TEXT_ONLY]
    together = model.generate(**prompts(processor, samples), max_new_tokens=8, do_sample=False)[:, -8:]
    for number, sample in enumerate(samples):
        image = [make_image(number) for _ in sample.images]
        example = processor.encode(sample, image, prompt_only=True)
        batch = inputs(Collator(processor.tokenizer.pad_token_id, "left")([example]))
        batch.pop("labels")
        alone = model.generate(**batch, max_new_tokens=8, do_sample=False)
        assert alone[0, -8:].tolist() == together[number].tolist()


def test_images_are_encoded_once_however_many_questions(
    small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = small
    seen = {"tower": 0, "sam": 0}
    real_encode, real_sam = model.vision.encode, model.mask_head.embed

    def count_tower(views: Any, overrides: Any = None) -> Any:
        seen["tower"] += len(views["base"])
        return real_encode(views, overrides)

    def count_sam(images: Any, rows: Any) -> Any:
        seen["sam"] += len(rows)
        return real_sam(images, rows)

    monkeypatch.setattr(model.vision, "encode", count_tower)
    monkeypatch.setattr(model.mask_head, "embed", count_sam)
    one = grounded_sample("a")
    rows = [processor.encode(one, [make_image(0)], prompt_only=True) for _ in range(5)]
    batch = inputs(Collator(processor.tokenizer.pad_token_id, "left")(rows))
    seg = processor.token_ids["seg_id"]
    model.generate_grounded(
        ModelInputs.from_kwargs(batch), max_new_tokens=6, logits_processor=LogitsProcessorList([Script([seg] * 6)])
    )
    assert seen == {"tower": 1, "sam": 1}


def test_idle_parts_stay_in_the_graph() -> None:
    model, processor = build_small()
    model.train()
    output = model(**inputs(collate(processor, [TEXT_ONLY])))
    (output.supervised_logits.float().mean() + output.idle).backward()
    assert float(output.idle) == 0.0
    for part in (model.vision, model.box_head, model.mask_head.projector, model.mask_head.sam.mask_decoder):
        assert all(parameter.grad is not None for parameter in part.parameters())


def test_bf16_is_finite(small: tuple[Any, Any]) -> None:
    model, processor = small
    batch = inputs(collate(processor, [grounded_sample("a", 2), TEXT_ONLY]))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    assert torch.isfinite(output.supervised_logits).all() and torch.isfinite(output.seg.mask_logits_lowres).all()
    assert output.loc.boxes_xyxy_head.dtype == torch.float32


def test_save_and_load_give_the_same_model(small: tuple[Any, Any], tmp_path: Path) -> None:
    from ullava.modeling.construction.auto import load_folder

    model, processor = small
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_folder(tmp_path, torch.float32)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path), type(model))
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), type(processor))
    assert processor_again.chat_template == processor.chat_template
    assert (tmp_path / "chat_template.jinja").is_file()
    batch = inputs(collate(processor_again, [grounded_sample("a", 2)]))
    torch.testing.assert_close(again(**batch).seg.mask_logits_lowres, model(**batch).seg.mask_logits_lowres)


def test_missing_and_unexpected_weights_are_all_named(small: tuple[Any, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from ullava.modeling.construction.auto import load_folder

    small[0].save_pretrained(tmp_path)
    small[1].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("box_head.decoder.0.bias")
    weights["box_head.decoder.9.bias"] = torch.zeros(3)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        load_folder(tmp_path, torch.float32)
    assert any("missing weight box_head.decoder.0.bias" in line for line in caught.value.problems)
    assert any("unexpected weight box_head.decoder.9.bias" in line for line in caught.value.problems)


def test_pickled_weights_are_refused(small: tuple[Any, Any], tmp_path: Path) -> None:
    from ullava.modeling.construction.auto import load_folder

    small[0].config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(WeightsError, match="ullava convert checkpoint"):
        load_folder(tmp_path, torch.float32)


def test_several_sequences_are_refused(small: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match="num_return_sequences"):
        small[0].generate_grounded(ModelInputs.from_kwargs({}), num_return_sequences=4)


def test_misspelt_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_hiden_layers: unknown key; did you mean 'num_hidden_layers'"):
        build_small(("language.config={model_type: llama, num_hiden_layers: 2}",))
    with pytest.raises(ConfigError, match="model_type: unknown 'lama'"):
        build_small(("language.config={model_type: lama}",))
    with pytest.raises(UserError, match="vision_feature_layer 7"):
        build_small(("vision.vision_feature_layer=7",))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "mistral", "phi3"])
def test_any_causal_language_model_is_a_core(model_type: str) -> None:
    model, processor = build_small((f"language.config.model_type={model_type}",))
    output = model(**inputs(collate(processor, [grounded_sample("a", 1)])))
    assert output.seg.mask_logits_lowres.shape[0] == 1 and torch.isfinite(output.supervised_logits).all()


def test_weights_that_lie_elsewhere_are_left_out_of_the_zero() -> None:
    from ullava.modeling.vision.strategy import zero_loss_of

    here, frozen, elsewhere = torch.nn.Linear(2, 3), torch.nn.Linear(2, 2).requires_grad_(False), torch.nn.Linear(0, 0)
    zero = zero_loss_of(here, frozen, elsewhere)
    zero.backward()
    assert zero == 0
    assert here.weight.grad is not None and (here.weight.grad == 0).all()
    assert frozen.weight.grad is None and elsewhere.weight.grad is None
