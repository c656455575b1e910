"""Every row of the table of vision towers through the same checks, against transformers' own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.modeling.conftest import build_small
from tests.unit.modeling.small_towers import SMALL_TOWERS, VITS, small_kind
from transformers import (
    CLIPConfig,
    CLIPModel,
    ConvNextForImageClassification,
    Dinov2ForImageClassification,
    Dinov2WithRegistersForImageClassification,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
)
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from ullava.errors import ConfigError, UserError, WeightsError
from ullava.modeling.positions import SAM_SCALE, sincos_grid
from ullava.modeling.towers.table import TOWERS, tower_class
from ullava.modeling.towers.tower_contract import VitTower

STATISTICS = {
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "siglip": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
    "siglip without head": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
    "dinov2": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "dinov2 with registers": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "convnext": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "efficientnet": ((127 / 255,) * 3, (128 / 255,) * 3),
}
TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip


def tower(name: str) -> dict[str, Any]:
    return {key: value for key, value in SMALL_TOWERS[name].items() if key != "model_type"}


WHOLE: dict[str, tuple[Callable[[], Any], str]] = {
    "clip": (lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=tower("clip"))), "vision_model."),
    "siglip": (lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=tower("siglip"))), "vision_model."),
    "siglip without head": (
        lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=tower("siglip without head"))),
        "vision_model.",
    ),
    "dinov2": (lambda: Dinov2ForImageClassification(small_kind("dinov2").config), "dinov2."),
    "dinov2 with registers": (
        lambda: Dinov2WithRegistersForImageClassification(small_kind("dinov2 with registers").config),
        "dinov2_with_registers.",
    ),
    "convnext": (lambda: ConvNextForImageClassification(small_kind("convnext").config), "convnext."),
    "efficientnet": (lambda: small_kind("efficientnet").build(), ""),
}
"""Tower -> the published model that has it as a part, and the prefix of its weights there."""


def network_of(name: str) -> tuple[Any, Any]:
    torch.manual_seed(5)
    kind = small_kind(name)
    network = kind.build().eval()
    for parameter in network.parameters():  # tokens and tables that start at zero would prove nothing
        torch.nn.init.normal_(parameter.data, std=0.3)
    return kind, network


def build_with(described: str, *overrides: str) -> tuple[Any, Any]:
    return build_small((f"vision.tower={described}", "vision.vision_feature_layer=-1", *overrides))


def test_every_row_of_the_table_is_tried() -> None:
    assert {table["model_type"] for table in SMALL_TOWERS.values()} == set(TOWERS)
    assert set(STATISTICS) == set(WHOLE) == set(SMALL_TOWERS)
    for row in TOWERS.values():
        assert row.network_class.config_class is row.config_class


@pytest.mark.parametrize("name", SMALL_TOWERS)
def test_states_are_transformers_own_hidden_states(name: str) -> None:
    kind, network = network_of(name)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = network(pixels, output_hidden_states=True).hidden_states
        found = [kind.patch_states(network, pixels, layer) for layer in range(kind.num_layers + 1)]
        last = kind.patch_states(network, pixels, -1)
    assert torch.equal(last, found[-1])
    assert len(theirs) == len(found)
    for layer, (ours, hidden) in enumerate(zip(found, theirs, strict=True)):
        assert ours.shape == (2, kind.grid_side(layer) ** 2, kind.width(layer))
        if hidden.dim() == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        torch.testing.assert_close(ours, hidden[:, hidden.shape[1] - ours.shape[1] :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SMALL_TOWERS)
def test_what_no_pass_reads_is_named(name: str) -> None:
    for layer in (-1, -2):
        kind, network = network_of(name)
        kind.patch_states(network, torch.randn(1, 3, 32, 32), layer).square().mean().backward()
        reached = {name for name, value in network.named_parameters() if value.grad is not None}
        assert reached == {name for name, _ in network.named_parameters() if not name.startswith(kind.unread(layer))}
    assert ("head.probe" in dict(network.named_parameters())) == (name == "siglip")


@pytest.mark.parametrize("name", SMALL_TOWERS)
def test_a_frozen_tower_keeps_no_gradient(name: str) -> None:
    kind, network = network_of(name)
    network.requires_grad_(False)
    assert not kind.patch_states(network, torch.randn(1, 3, 32, 32), -1).requires_grad


@pytest.mark.parametrize("name", SMALL_TOWERS)
def test_pixels_are_normalized_as_published(name: str) -> None:
    kind, network = network_of(name)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in STATISTICS[name])
    torch.testing.assert_close(kind.normalize(network, pixels), (pixels / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    network.to(torch.bfloat16)
    assert kind.normalize(network, pixels).dtype == torch.bfloat16
    done = torch.randn(1, 3, 32, 32)
    assert torch.equal(kind.normalize(network, done), done.to(torch.bfloat16)), "normalized already"


@pytest.mark.parametrize("name", SMALL_TOWERS)
def test_layers_that_are_not_there_are_refused(name: str) -> None:
    kind = small_kind(name)
    for layer in (kind.num_layers + 1, -kind.num_layers - 2):
        with pytest.raises(
            UserError, match=f"vision.vision_feature_layer {layer}: the tower has {kind.num_layers} layers"
        ):
            kind.depth(layer)
    assert kind.depth(-1) == kind.num_layers and kind.depth(0) == 0 and kind.grid_side(-1) == 4
    assert kind.grid_side(-1, 64) == 8


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("side", [48, 24])
def test_positions_of_another_image_size_are_resized_as_transformers_does(name: str, side: int, tmp_path: Path) -> None:
    kind, network = network_of(name)
    network.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        states = network.embeddings.patch_embeddings(pixels) if "dinov2" in name else None
        if states is None:
            states = network.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        with_class = torch.cat([states[:, :1], states], dim=1) if kind.ahead else states
        wanted = network.embeddings.interpolate_pos_encoding(with_class, side, side)[0]
    model, processor = build_with(f"{{path: {tmp_path}, config: {{image_size: {side}}}}}")
    table = model.vision.tower.get_parameter(kind.table_name).view(-1, 16)
    torch.testing.assert_close(table, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table[: kind.ahead], network.get_parameter(kind.table_name).view(-1, 16)[: kind.ahead])
    assert processor.vision.num_tokens == (side // 8) ** 2
    if "dinov2" not in name:
        with torch.no_grad():
            theirs = network(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-1]
            ours = model.vision.patch_states(pixels)
        torch.testing.assert_close(ours, theirs[:, kind.ahead :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL_TOWERS)
def test_a_published_model_gives_its_tower_and_nothing_beside_it(name: str, tmp_path: Path) -> None:
    make, prefix = WHOLE[name]
    torch.manual_seed(9)
    whole = make()
    whole.save_pretrained(tmp_path)
    strategy = ("vision.strategy=conv", "vision.conv={video_side: 32}") if name == "convnext" else ()
    model, _ = build_with(f"{{path: {tmp_path}}}", *strategy)
    theirs = {key.removeprefix(prefix): value for key, value in whole.state_dict().items() if key.startswith(prefix)}
    ours = {key: value for key, value in model.vision.tower.state_dict().items() if key in theirs}
    assert ours.keys() == theirs.keys() and model.vision.tower.state_dict().keys() == theirs.keys()
    read = [key for key in ours if name != "convnext" or not key.startswith("layernorm.")]
    assert all(torch.equal(ours[key], theirs[key]) for key in read)

    weights = load_file(tmp_path / "model.safetensors")
    mlps = ("fc1.weight", "pwconv1.weight", "0.1.project.weight", "2.1.project.weight")
    lost = next(key for key in sorted(weights) if key.startswith(prefix) and key.endswith(mlps))
    kept = {key: value for key, value in weights.items() if key != lost}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="missing weight .*(1|project).weight"):
        build_with(f"{{path: {tmp_path}}}", *strategy)
    save_file(weights | {"strange.weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="unexpected weight strange.weight"):
        build_with(f"{{path: {tmp_path}}}", *strategy)


def test_the_pooling_head_of_siglip_is_left_out_by_name_or_has_to_be_whole(tmp_path: Path) -> None:
    kind, network = network_of("siglip")
    network.save_pretrained(tmp_path)
    model, _ = build_with(f"{{path: {tmp_path}, config: {{vision_use_head: false}}}}")
    assert not any(name.startswith("head.") for name in model.vision.tower.state_dict())
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if name.endswith("head.probe"))
    save_file({name: value for name, value in weights.items() if name != lost}, tmp_path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(WeightsError, match="missing weight head.probe"):
        build_with(f"{{path: {tmp_path}}}")


@pytest.mark.parametrize("name", VITS)
def test_a_fresh_tower_starts_with_places_to_tell_apart(name: str) -> None:
    kind = small_kind(name)
    assert isinstance(kind, VitTower)
    network = kind.build()
    first = network.get_parameter(kind.table_name).detach().clone().view(-1, 16)[: kind.ahead]
    kind.start(network)
    table = network.get_parameter(kind.table_name).view(-1, 16)
    scale = 1.0 if name == "clip" else SAM_SCALE
    torch.testing.assert_close(table[kind.ahead :], scale * sincos_grid(4, 16))
    assert torch.equal(table[: kind.ahead], first)


def test_kinds_that_the_table_lacks_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vision\.tower\.config\.model_type: unknown 'siglip_vision'; did you mean"):
        build_with("{config: {model_type: siglip_vision}}")
    with pytest.raises(ConfigError, match="unknown 'siglip3_vision_model'; did you mean 'siglip_vision_model'"):
        build_with("{config: {model_type: siglip3_vision_model}}")
    with pytest.raises(UserError, match="unknown vision tower 'vit'; known: clip_vision_model, convnext"):
        tower_class("vit")
    _, network = network_of("siglip")
    network.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="config.model_type: 'clip_vision_model', but .* holds a 'siglip_vision_mod"):
        build_with(f"{{path: {tmp_path}, config: {{model_type: clip_vision_model}}}}")


def test_siglip_2_naflex_is_refused_by_name(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    Siglip2VisionModel(Siglip2VisionConfig(**sizes, patch_size=8, num_patches=16)).save_pretrained(str(tmp_path))
    for tower in ("{config: {model_type: siglip2_vision_model}}", f"{{path: {tmp_path}}}"):
        with pytest.raises(ConfigError, match="siglip2_vision_model: SigLIP 2 NaFlex is not supported.*fixed"):
            build_small((f"vision.tower={tower}",))
