"""What each stage trains, checked on the gradients of a real step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ullava.config.schema import LoraConfig, LossConfig
from ullava.training.optim import stages
from ullava.training.optim.lora import attach_adapters
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage, assert_plan, assign_parts, special_token_ids, unread_names


def step(model: nn.Module, processor: Any, batch: dict[str, Any]) -> set[str]:
    """Run one backward pass; return the parameters that received a gradient.

    In bfloat16, where SAM's stock decoder runs; its folded form for float32 on a CPU gives none to weights whose
    gradient is zero whatever the data (the unread masks' networks, key biases under a softmax).
    """
    weights = LossConfig(iou_score=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        output = model.train()(**batch.inputs.as_kwargs())
    GroundingObjective(weights, processor.masks)(output, batch.targets).total.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("dataset", ["shapes_res", "shapes_text", "shapes_vqa"])
def test_scratch_reaches_exactly_what_it_names(make_model: Any, make_batch: Any, dataset: str) -> None:
    model, processor = make_model()
    plan = apply_stage(model, "scratch")
    assert step(model, processor, make_batch(processor, dataset)) == plan.trainable
    assert {name for name, _ in model.named_parameters()} - plan.trainable == unread_names(model)


def test_unread_are_the_layers_above_and_the_other_prompts(make_model: Any) -> None:
    model, _ = make_model()
    unread = unread_names(model)
    assert "vision.tower.encoder.layers.2.mlp.fc1.weight" in unread
    assert not any(name.startswith("vision.tower.encoder.layers.1.") for name in unread)
    assert "mask_head.sam.prompt_encoder.mask_embed.conv1.weight" in unread
    assert "mask_head.sam.prompt_encoder.no_mask_embed.weight" not in unread


def test_align_moves_the_projector_and_our_token_rows_alone(make_model: Any, make_batch: Any) -> None:
    model, processor = make_model()
    apply_stage(model, "align")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    step(model, processor, make_batch(processor, "shapes_res"))
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    table = "language_model.model.embed_tokens.weight"
    assert changed == {table, *(name for name in before if name.startswith("vision.projector."))}
    rows = (model.get_parameter(table) != before[table]).any(dim=1).nonzero().flatten().tolist()
    assert set(rows) <= set(special_token_ids(model))
    assert model.config.seg_id in rows and model.config.loc_id in rows


def test_align_trains_the_rows_of_an_untied_head_too(make_model: Any) -> None:
    model, _ = make_model("language.config.tie_word_embeddings=false")
    plan = apply_stage(model, "align")
    assert "language_model.lm_head.weight" in plan.trainable
    width = model.config.text_config.hidden_size
    rows = {row.part: row for row in plan.rows}[stages.TOKEN_ROWS]
    assert rows.trained == 2 * len(special_token_ids(model)) * width


def test_ground_freezes_the_encoders_and_holds_them_in_eval_mode(make_model: Any, make_batch: Any) -> None:
    model, processor = make_model()
    plan = apply_stage(model, "ground", quality_trains=False)
    model.train()
    plan.set_frozen_to_eval()
    assert not model.vision.tower.training
    assert not model.mask_head.sam.vision_encoder.training
    assert not model.mask_head.sam.mask_decoder.iou_prediction_head.training
    assert model.mask_head.sam.mask_decoder.transformer.training
    assert model.language_model.training
    assert step(model, processor, make_batch(processor, "shapes_res")) == plan.trainable
    frozen = {"vision.tower.", "mask_head.sam.vision_encoder.", "mask_head.sam.prompt_encoder."}
    assert not any(name.startswith(tuple(frozen)) or "iou_prediction_head" in name for name in plan.trainable)


def test_frozen_encoders_keep_no_graph(make_model: Any, make_batch: Any) -> None:
    model, processor = make_model()
    apply_stage(model, "ground")
    batch = make_batch(processor, "shapes_res")
    assert not model.mask_head.embed(batch.inputs.mask_images, torch.tensor([0])).requires_grad


def test_lora_trains_adapters_rows_and_heads(make_model: Any, make_batch: Any) -> None:
    model, processor = make_model()
    attach_adapters(model.language_model, LoraConfig(r=2), "recipe.yaml")
    plan = apply_stage(model, "ground", lora=True)
    assert step(model, processor, make_batch(processor, "shapes_res")) == plan.trainable
    language = {name for name in plan.trainable if name.startswith("language_model.")}
    assert all(".lora_" in name or "embed_tokens" in name for name in language)
    assert sum("lora_A" in name for name in language) == 2
    assert {row.part for row in plan.rows if row.trained} >= {stages.ADAPTERS, stages.TOKEN_ROWS, stages.PROJECTOR}


def test_table_counts_every_parameter_once(make_model: Any) -> None:
    model, _ = make_model()
    plan = apply_stage(model, "ground")
    assert sum(row.size for row in plan.rows) == sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(row.trained for row in plan.rows) == trained
    assert f"{trained:,}" in plan.table()
    assert "frozen" in plan.table()


def test_a_parameter_that_belongs_nowhere_is_refused(make_model: Any) -> None:
    model, _ = make_model()
    model.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="extra.weight belongs to no part"):
        assign_parts(model)


def test_a_part_without_parameters_is_refused(make_model: Any) -> None:
    model, _ = make_model()
    model.box_head = nn.Identity()
    with pytest.raises(ValueError, match="box head"):
        apply_stage(model, "ground")


def test_a_changed_flag_is_noticed(make_model: Any) -> None:
    model, _ = make_model()
    plan = apply_stage(model, "ground")
    model.vision.tower.embeddings.class_embedding.requires_grad_(True)
    with pytest.raises(ValueError, match="should not train.*class_embedding"):
        assert_plan(model, plan)


def test_frozen_layers_recompute_though_their_parts_sleep(make_model: Any) -> None:
    model, _ = make_model()
    plan = apply_stage(model, "align")
    model.gradient_checkpointing_enable()
    model.train()
    plan.set_frozen_to_eval()
    layer = model.language_model.model.layers[0]
    assert layer.training and not layer.mlp.training and not layer.self_attn.training
