"""CLIP's vision tower from OpenAI's names and from those of transformers."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from ullava.errors import WeightsError
from ullava.modeling.weights.clip import convert_clip

TO_OPENAI = (
    (r"^embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"^embeddings\.class_embedding", "visual.class_embedding"),
    (r"^embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^pre_layrnorm", "visual.ln_pre"),
    (r"^post_layernorm", "visual.ln_post"),
    (r"^encoder\.layers\.(\d+)\.layer_norm(\d)", r"visual.transformer.resblocks.\1.ln_\2"),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc1", r"visual.transformer.resblocks.\1.mlp.c_fc"),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc2", r"visual.transformer.resblocks.\1.mlp.c_proj"),
    (r"^encoder\.layers\.(\d+)\.self_attn", r"visual.transformer.resblocks.\1.attn"),
)
TEXT = {
    "transformer.resblocks.0.ln_1.weight": torch.ones(4),
    "token_embedding.weight": torch.zeros(5, 4),
    "positional_embedding": torch.zeros(7, 4),
    "ln_final.bias": torch.zeros(4),
    "text_projection": torch.zeros(4, 4),
    "logit_scale": torch.zeros(()),
    "visual.proj": torch.zeros(32, 4),
}


@pytest.fixture(scope="module")
def tower() -> CLIPVisionModel:
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=8
    )
    model = CLIPVisionModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def to_openai(model: CLIPVisionModel) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in TO_OPENAI:
            changed = re.sub(pattern, replacement, name)
            if changed != name:
                name = changed
                break
        state[name] = tensor
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return state | TEXT


def same(found: CLIPVisionModel, expected: CLIPVisionModel) -> None:
    pixels = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        one, other = found(pixels).last_hidden_state, expected(pixels).last_hidden_state
    torch.testing.assert_close(one, other)


def test_openai_layout(tower, tmp_path, command):
    torch.save(to_openai(tower), tmp_path / "clip.bin")
    arguments = ["--from", str(tmp_path / "clip.bin"), "--out", str(tmp_path / "tower"), "--heads", "4"]
    code, printed, errors = command("convert", "clip", *arguments)
    assert code == 0, errors
    assert "token_embedding.weight" in printed, "what was left out is named"
    same(CLIPVisionModel.from_pretrained(str(tmp_path / "tower")).eval(), tower)


def test_activation_changes_the_answer(tower):
    gelu = convert_clip(to_openai(tower), heads=4, activation="gelu").model
    pixels = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        assert not torch.allclose(gelu(pixels).last_hidden_state, tower(pixels).last_hidden_state, atol=1e-3)


def test_old_folder_of_transformers(tower, tmp_path, command):
    folder = tmp_path / "old"
    folder.mkdir()
    state = {f"vision_model.{name}": tensor for name, tensor in tower.state_dict().items()}
    state |= {"vision_model.embeddings.position_ids": torch.arange(10)[None], "logit_scale": torch.zeros(())}
    state |= {
        "text_model.embeddings.token_embedding.weight": torch.zeros(3, 2),
        "visual_projection.weight": torch.ones(2),
    }
    torch.save(state, folder / "pytorch_model.bin")
    stored = {"model_type": "clip", "vision_config": {"num_attention_heads": 4, "hidden_act": "quick_gelu"}}
    (folder / "config.json").write_text(json.dumps(stored))
    code, _, errors = command("convert", "clip", "--from", str(folder), "--out", str(tmp_path / "tower"))
    assert code == 0, errors
    same(CLIPVisionModel.from_pretrained(str(tmp_path / "tower")).eval(), tower)


def test_every_misfit_is_named(tower):
    state = to_openai(tower)
    state.pop("visual.ln_pre.bias")
    state["visual.attnpool.positional_embedding"] = torch.zeros(2, 2)
    with pytest.raises(WeightsError) as caught:
        convert_clip(state, heads=4)
    assert any("missing: pre_layrnorm.bias" in line for line in caught.value.problems)
    assert any("unexpected: visual.attnpool.positional_embedding" in line for line in caught.value.problems)


def test_another_architecture_is_refused():
    with pytest.raises(WeightsError, match="is this a CLIP checkpoint"):
        convert_clip({"lm_head.weight": torch.zeros(2, 2)})
