"""``language.num_layers``: the first layers of a pretrained part, and nothing else of a file is let through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.modeling.conftest import build_small
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from ullava.errors import ConfigError, WeightsError

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 955}
KINDS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "gpt2": GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=955),
}


def saved(folder: Path, kind: str) -> Any:
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(KINDS[kind])
    model.save_pretrained(folder)
    return model


def build(folder: Path, layers: int) -> Any:
    return build_small((f"language={{path: {folder}, num_layers: {layers}}}",))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layers_are_kept(kind: str, tmp_path: Path) -> None:
    whole = saved(tmp_path, kind)
    model = build(tmp_path, 2)
    text = model.config.text_config
    assert text.num_hidden_layers == 2 and len(getattr(text, "layer_types", None) or [0, 0]) == 2
    if kind == "qwen2":
        assert text.layer_types == ["full_attention", "sliding_attention"]
    ours, theirs = model.language_model.state_dict(), whole.state_dict()
    assert ours.keys() < theirs.keys()
    assert all(torch.equal(value[: len(theirs[name])], theirs[name][: len(value)]) for name, value in ours.items())
    model.save_pretrained(tmp_path / "system")
    again = type(model.config).from_pretrained(tmp_path / "system")
    assert again.text_config.num_hidden_layers == 2
    everything = build(tmp_path, 4).language_model.state_dict()
    assert everything.keys() == theirs.keys()


def test_more_layers_than_there_are_name_file_and_key(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    with pytest.raises(ConfigError, match=r"language\.num_layers: 5 layers, but the part has 4") as caught:
        build(tmp_path, 5)
    assert "model.yaml" in caught.value.problems[0]
    with pytest.raises(ConfigError, match=r"num_layers.*0"):
        build(tmp_path, 0)


def test_other_keys_are_still_refused(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    lost = weights.pop("model.layers.1.mlp.up_proj.weight")
    weights["model.layers.3.mlp.down_projection.weight"] = lost
    weights["model.layers.7.mlp.up_proj.weight"] = lost.clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        build(tmp_path, 2)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "missing weight model.layers.1.mlp.up_proj.weight" in told
    assert "unexpected weight model.layers.3.mlp.down_projection.weight" in told
    assert "unexpected weight model.layers.7.mlp.up_proj.weight" in told


def test_a_part_stored_in_half_precision_is_built_in_float32(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float16).save_pretrained(tmp_path)
    model = build(tmp_path, 2)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.config.text_config.dtype in (None, torch.float32)
