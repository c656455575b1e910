"""Heads that read a layer in the middle: the layers above change words alone, and need not run for masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image

from ullava.batching.collate import Collator
from ullava.config.schema import LoraConfig
from ullava.errors import UserError
from ullava.examples import ModelInputs
from ullava.training.optim import stages
from ullava.training.optim.lora import attach_adapters
from ullava.training.optim.stages import apply_stage

LAYERS = "language.config.num_hidden_layers=3"


@pytest.fixture(scope="module")
def middle() -> tuple[Any, Any]:
    return build_small((LAYERS, "grounding_layer=2"))


def inputs_of(processor: Any, prompt_only: bool = False) -> ModelInputs:
    samples = [grounded_sample("a", 2), grounded_sample("b", 1)]
    rows = [processor.encode(s, [make_image(n)], prompt_only=prompt_only) for n, s in enumerate(samples)]
    inputs, _ = Collator(processor.tokenizer.pad_token_id, "left" if prompt_only else "right")(rows).usable()
    return inputs


def test_without_words_the_same_masks_come_from_fewer_layers(middle: tuple[Any, Any]) -> None:
    model, processor = middle
    inputs = inputs_of(processor)
    ran: list[int] = []
    layers = model.language_model.get_decoder().layers
    hooks = [layer.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, layer in enumerate(layers)]
    with torch.no_grad():
        whole = model(**inputs.as_kwargs())
        assert ran == [0, 1, 2]
        ran.clear()
        heads = model(**replace(inputs, heads_only=True, supervised_only=True).as_kwargs())
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1]
    assert len(whole.seg.row) == 3
    torch.testing.assert_close(heads.seg.mask_logits_lowres, whole.seg.mask_logits_lowres)
    torch.testing.assert_close(heads.loc.boxes_xyxy_head, whole.loc.boxes_xyxy_head)
    assert float(whole.loss) > 0 and len(heads.targets) == 0
    assert model.config.text_config.num_hidden_layers == 3


def test_layers_above_change_words_and_no_mask() -> None:
    model, processor = build_small((LAYERS, "grounding_layer=2"))
    inputs = inputs_of(processor)
    with torch.no_grad():
        before = model(**inputs.as_kwargs())
        for parameter in model.language_model.get_decoder().layers[2].parameters():
            parameter.mul_(3.0)
        after = model(**inputs.as_kwargs())
        for parameter in model.language_model.get_decoder().layers[1].parameters():
            parameter.mul_(3.0)
        below = model(**inputs.as_kwargs())
    assert torch.equal(before.seg.mask_logits_lowres, after.seg.mask_logits_lowres)
    assert not torch.allclose(before.loss, after.loss)
    assert not torch.allclose(before.seg.mask_logits_lowres, below.seg.mask_logits_lowres)


def test_masks_alone_train_nothing_above() -> None:
    model, processor = build_small((LAYERS, "grounding_layer=2"))
    output = model.train()(**replace(inputs_of(processor), heads_only=True, supervised_only=True).as_kwargs())
    (output.seg.mask_logits_lowres.square().mean() + output.loss).backward()
    layers = model.language_model.get_decoder().layers
    assert layers[1].mlp.up_proj.weight.grad.abs().sum() > 0
    assert layers[2].mlp.up_proj.weight.grad is None


def test_adapters_above_are_a_part_of_their_own() -> None:
    model, processor = build_small((LAYERS, "grounding_layer=2"))
    attach_adapters(model.language_model, LoraConfig(r=2), "recipe.yaml")
    both = apply_stage(model, "ground", lora=True)
    assert {stages.ADAPTERS, stages.ADAPTERS_ABOVE} <= {row.part for row in both.rows if row.trained}
    others = {row.part: False for row in both.rows if row.part not in (stages.ADAPTERS_ABOVE, stages.UNREAD)}
    plan = apply_stage(model, "ground", lora=True, parts=others)
    assert plan.trainable and all(".layers.2." in name and ".lora_" in name for name in plan.trainable)
    inputs = inputs_of(processor)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.1)
    before = model(**inputs.as_kwargs())
    for _ in range(2):  # the second matrix of an adapter starts at 0
        model(**inputs.as_kwargs()).loss.backward()
        optimizer.step()
    after = model(**inputs.as_kwargs())
    assert torch.equal(before.seg.mask_logits_lowres, after.seg.mask_logits_lowres)
    assert torch.equal(before.loc.boxes_xyxy_head, after.loc.boxes_xyxy_head)
    assert float(after.loss) < float(before.loss) - 0.01


def test_generation_reads_the_states_of_a_whole_pass(middle: tuple[Any, Any]) -> None:
    model, processor = middle
    inputs = inputs_of(processor, prompt_only=True)
    seg = model.config.seg_id

    def always_seg(_row: Any, ids: torch.Tensor) -> list[int]:
        return [seg]

    made = model.generate_grounded(inputs, max_new_tokens=2, prefix_allowed_tokens_fn=always_seg)
    ids = torch.cat([inputs.input_ids, made.new_ids], dim=1)
    mask = torch.cat([inputs.attention_mask, torch.ones_like(made.new_ids)], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        read = model(
            **replace(inputs, input_ids=ids, attention_mask=mask, labels=labels).as_kwargs(), position_ids=positions
        )
    assert len(made.seg.row) == 4
    torch.testing.assert_close(made.seg.mask_logits_lowres, read.seg.mask_logits_lowres, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.seg.token_probability, read.seg.token_probability, atol=1e-5, rtol=1e-3)


def test_a_saved_model_reads_the_same_layer(middle: tuple[Any, Any], tmp_path: Path) -> None:
    from ullava.modeling.construction.auto import load_folder

    model, processor = middle
    model.save_pretrained(str(tmp_path))
    processor.save_pretrained(str(tmp_path))
    again, _ = load_folder(tmp_path, torch.float32)
    inputs = inputs_of(processor)
    with torch.no_grad():
        torch.testing.assert_close(
            again(**inputs.as_kwargs()).seg.mask_logits_lowres, model(**inputs.as_kwargs()).seg.mask_logits_lowres
        )
    assert again.config.grounding_layer == 2


@pytest.mark.parametrize("number", [3, 99])
def test_a_layer_that_is_not_there_is_refused(number: int) -> None:
    with pytest.raises(UserError, match=f"grounding_layer {number}: the language model has layers 1 to 2"):
        build_small((f"grounding_layer={number}",))
