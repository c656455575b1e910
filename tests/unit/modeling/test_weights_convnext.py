"""ConvNeXt from the names of open_clip and timm, and from those of transformers; four stages and five."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import ConvNextConfig, ConvNextModel

from ullava.errors import WeightsError
from ullava.modeling.vision.mg_pyramid import ConvNextPyramid
from ullava.modeling.weights.convnext import convert_convnext

TO_TIMM = (
    (r"^embeddings\.patch_embeddings", "stem.0"),
    (r"^embeddings\.layernorm", "stem.1"),
    (r"^encoder\.stages\.(\d+)\.downsampling_layer", r"stages.\1.downsample"),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv", r"stages.\1.blocks.\2.conv_dw"),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm", r"stages.\1.blocks.\2.norm"),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.pwconv(\d)", r"stages.\1.blocks.\2.mlp.fc\3"),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter", r"stages.\1.blocks.\2.gamma"),
    (r"^layernorm", "head.norm"),
)


def network(stages: int = 4) -> ConvNextModel:
    torch.manual_seed(2)
    sizes, depths = [4, 6, 8, 10, 12][:stages], [1, 2, 1, 1, 1][:stages]
    config = ConvNextConfig(num_stages=stages, hidden_sizes=sizes, depths=depths, layer_scale_init_value=0.5)
    return ConvNextModel(config).eval()


def timm_names(model: ConvNextModel, prefix: str) -> dict[str, torch.Tensor]:
    named = {}
    for key, value in model.state_dict().items():
        for pattern, name in TO_TIMM:
            key, changed = re.subn(pattern, name, key)
            if changed:
                break
        named[prefix + key] = value
    return named


@pytest.mark.parametrize("prefix", ["visual.trunk.", ""])
def test_names_of_open_clip_and_timm(prefix: str) -> None:
    model = network()
    given = timm_names(model, prefix) | {f"{prefix}head.fc.weight": torch.zeros(3, 10)}
    text = {"text.transformer.resblocks.0.ln_1.weight": torch.ones(4), "logit_scale": torch.zeros(())}
    made = convert_convnext(given | (text if prefix else {}))
    assert set(made.left_out) == {f"{prefix}head.fc.weight", *(text if prefix else ())}
    assert (made.model.config.hidden_sizes, made.model.config.depths) == ([4, 6, 8, 10], [1, 2, 1, 1])
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made.model(pixels).pooler_output, model(pixels).pooler_output)


def test_five_stages_with_the_norm_of_the_fourth() -> None:
    """As ConvLLaVA saves its encoders: transformers' names, and a norm that belongs nowhere."""
    model = network(5)
    given = dict(model.state_dict()) | {"layernorm.weight": torch.ones(10), "layernorm.bias": torch.ones(10)}
    made = convert_convnext(given, image_size=768)
    assert set(made.left_out) == {"layernorm.weight", "layernorm.bias"}
    assert made.model.config.num_stages == 5 and made.model.config.image_size == 768
    pixels = torch.randn(1, 3, 128, 64)
    with torch.no_grad():
        assert torch.equal(made.model(pixels).last_hidden_state, model(pixels).last_hidden_state)


def test_what_is_missing_or_unknown_is_named() -> None:
    given = timm_names(network(), "visual.trunk.")
    del given["visual.trunk.stages.1.blocks.0.norm.bias"]
    given["visual.trunk.stages.1.blocks.0.attn.weight"] = torch.zeros(2)
    with pytest.raises(WeightsError) as caught:
        convert_convnext(given)
    said = "\n".join(caught.value.problems)
    assert "unexpected: visual.trunk.stages.1.blocks.0.attn.weight" in said
    assert "encoder.stages.1.layers.0.layernorm.bias" in said
    with pytest.raises(WeightsError, match="is this a ConvNeXt checkpoint"):
        convert_convnext({"some.weight": torch.zeros(2)})


def test_the_command_makes_a_folder_that_a_model_reads(tmp_path: Path, command: Any) -> None:
    model = network()
    save_file(timm_names(model, "visual.trunk."), tmp_path / "open_clip.safetensors")
    out = tmp_path / "convnext"
    line = ["convert", "convnext", "--from", str(tmp_path / "open_clip.safetensors"), "--out", str(out)]
    code, said, error = command(*line, "--image-size", "320")
    assert code == 0, error
    assert "kind: convnext" in said and "image_size: 320" in said
    pyramid = ConvNextPyramid(ConvNextConfig.from_pretrained(out))
    weights = ConvNextModel.from_pretrained(out).state_dict()
    pyramid.model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("layernorm.")}, strict=True)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(pyramid.eval()(pixels)[-1], model(pixels).last_hidden_state)
