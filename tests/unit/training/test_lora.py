"""Adapters: where they go, what is refused, and that merging changes nothing but names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ullava.config.schema import LoraConfig
from ullava.errors import ConfigError
from ullava.training.batches import network_inputs
from ullava.training.lora import attach_adapters, save_and_merge


def test_unknown_layers_are_refused_with_the_near_name(make_model: Any) -> None:
    model, _ = make_model()
    with pytest.raises(ConfigError) as error:
        attach_adapters(model.language_model, LoraConfig(r=4, target=["q_proj", "v_prok"]), "recipe.yaml")
    expected = "recipe.yaml: lora.target: no linear layer is called 'v_prok'; did you mean 'v_proj'?"
    assert error.value.problems == (expected,)


def test_no_layers_are_refused(make_model: Any) -> None:
    model, _ = make_model()
    with pytest.raises(ConfigError, match="names no layer"):
        attach_adapters(model.language_model, LoraConfig(r=1, target=[]), "recipe.yaml")


def test_merged_model_answers_alike_under_the_plain_names(make_model: Any, make_batch: Any, tmp_path: Path) -> None:
    model, processor = make_model()
    plain = set(model.state_dict())
    adapters = attach_adapters(model.language_model, LoraConfig(r=4, dropout=0.0), "recipe.yaml")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    batch = network_inputs(make_batch(processor, "shapes_res"))
    model.eval()
    before = model(**batch)
    save_and_merge(adapters, tmp_path / "adapter")
    after = model(**batch)
    assert set(model.state_dict()) == plain
    torch.testing.assert_close(after.logits, before.logits, atol=1e-4, rtol=1e-4)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
