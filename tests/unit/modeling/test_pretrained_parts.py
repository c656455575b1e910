"""Pretrained parts are taken up whole or not at all: what a folder lacks never begins at random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.modeling.conftest import SMALL, build_small
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    SamConfig,
    SamModel,
    SiglipConfig,
    SiglipModel,
)

from ullava.config.load import parse_text
from ullava.config.schema import HeadsConfig, ModelConfig, PartConfig
from ullava.config.site import Site
from ullava.errors import UserError, WeightsError
from ullava.modeling.construction.fresh_heads import build_fresh_heads

CONVNEXT = {"hidden_sizes": [8, 8, 12, 12], "depths": [1, 1, 1, 1], "patch_size": 1, "image_size": 64, "num_stages": 4}
YAML = parse_text(ModelConfig, SMALL)


def sizes(part: PartConfig) -> dict[str, Any]:
    return {key: value for key, value in part.config.items() if key != "model_type"}


def language() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**sizes(YAML.language), vocab_size=955))


PARTS: dict[str, tuple[Callable[[], Any], tuple[str, ...], str]] = {
    "language": (language, ("language={path: PART, config: {}}",), "model.layers.1.mlp."),
    "tower": (
        lambda: CLIPVisionModel(CLIPVisionConfig(**sizes(YAML.vision.tower))),
        ("vision.tower={path: PART, config: {}}",),
        "encoder.layers.1.mlp.",
    ),
    "sam": (
        lambda: SamModel(SamConfig(**sizes(YAML.mask.sam))),
        ("mask.sam={path: PART, config: {}}",),
        "mask_decoder.output_hypernetworks_mlps.",
    ),
    "conv tower": (
        lambda: ConvNextModel(ConvNextConfig(**CONVNEXT)),
        ("vision.strategy=conv", "vision.projector=linear", "vision.tower={path: PART, config: {}}"),
        "encoder.stages.2.",
    ),
    "pyramid": (
        lambda: ConvNextModel(ConvNextConfig(**CONVNEXT)),
        ("vision.strategy=mg", "vision.mg={pyramid: {path: PART}}", "vision.tower.config.image_size=64"),
        "encoder.stages.2.",
    ),
}
"""Part -> a network for it, the overrides that name its folder, a group of its tensors."""


def with_part(overrides: tuple[str, ...], folder: Path) -> tuple[Any, Any]:
    return build_small(tuple(override.replace("PART", str(folder)) for override in overrides))


def change(folder: Path, act: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    act(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_lacks_tensors_is_refused(name: str, tmp_path: Path) -> None:
    make, overrides, group = PARTS[name]
    torch.manual_seed(3)
    make().save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    model, _ = with_part(overrides, tmp_path)
    taken = {id(value): value for value in model.state_dict().values()}
    wanted = [value for key, value in stored.items() if key.startswith(group)]
    assert wanted and all(any(torch.equal(value, ours) for ours in taken.values()
                              if ours.shape == value.shape) for value in wanted)  # fmt: skip

    lost = sorted(key for key in stored if key.startswith(group))
    change(tmp_path, lambda weights: [weights.pop(key) for key in lost])
    with pytest.raises(WeightsError) as caught:
        with_part(overrides, tmp_path)
    assert caught.value.problems == tuple(f"{tmp_path}: missing weight {key}" for key in lost)


@pytest.mark.parametrize("name", PARTS)
def test_tensors_that_have_no_place_or_another_shape_are_refused(name: str, tmp_path: Path) -> None:
    make, overrides, group = PARTS[name]
    make().save_pretrained(tmp_path)
    first = sorted(key for key in load_file(tmp_path / "model.safetensors") if key.startswith(group))[0]

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights[first] = torch.cat([weights[first], weights[first]])
        weights["encoder.strange.weight"] = torch.zeros(2)

    change(tmp_path, spoil)
    with pytest.raises(WeightsError) as caught:
        with_part(overrides, tmp_path)
    said = "\n".join(caught.value.problems)
    assert "unexpected weight encoder.strange.weight" in said and f"weight of another shape {first}: [" in said


def test_a_whole_clip_gives_its_tower(tmp_path: Path) -> None:
    tower = sizes(YAML.vision.tower)
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=tower))
    whole.save_pretrained(tmp_path)
    change(tmp_path, lambda weights: weights.update({
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_model.embeddings.position_ids": torch.arange(77)[None],
    }))  # fmt: skip
    model, _ = with_part(PARTS["tower"][1], tmp_path)
    ours = model.vision.tower.state_dict()
    theirs = whole.vision_model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    change(tmp_path, lambda weights: weights.pop("vision_model.post_layernorm.bias"))
    with pytest.raises(WeightsError, match=r"missing weight post_layernorm\.bias"):
        with_part(PARTS["tower"][1], tmp_path)


@pytest.mark.parametrize("name", ["conv tower", "pyramid"])
def test_a_convnext_that_names_classes_gives_its_stages(name: str, tmp_path: Path) -> None:
    ConvNextForImageClassification(ConvNextConfig(**CONVNEXT)).save_pretrained(tmp_path)
    with_part(PARTS[name][1], tmp_path)


def test_a_tied_language_model_needs_no_head_and_an_untied_one_does(tmp_path: Path) -> None:
    language().save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    model, _ = with_part(PARTS["language"][1], tmp_path / "tied")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    config = LlamaConfig(**{**sizes(YAML.language), "tie_word_embeddings": False}, vocab_size=955)
    LlamaModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(WeightsError, match="headless: missing weight lm_head.weight"):
        with_part(PARTS["language"][1], tmp_path / "headless")


def test_old_buffers_may_lie_beside_the_weights(tmp_path: Path) -> None:
    language().save_pretrained(tmp_path)
    change(tmp_path, lambda weights: weights.update(
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    ))  # fmt: skip
    with_part(PARTS["language"][1], tmp_path)


def test_pickled_parts_are_opened_without_running_them(tmp_path: Path) -> None:
    """Vicuna is published so; PyTorch's restricted reader opens tensors and nothing else."""
    network = language()
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    model, _ = with_part(PARTS["language"][1], tmp_path)
    assert torch.equal(model.get_input_embeddings().weight, network.get_input_embeddings().weight)

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.mkdir, (tmp_path / "it_ran",))

    torch.save({**network.state_dict(), "evil": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=str(tmp_path)):
        with_part(PARTS["language"][1], tmp_path)
    assert not (tmp_path / "it_ran").exists()


def test_a_network_of_another_kind_is_named(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    SiglipModel(SiglipConfig(text_config=small, vision_config=small)).save_pretrained(tmp_path)
    for name, kind in (("sam", "sam"), ("pyramid", "convnext")):
        with pytest.raises(UserError, match=f"model_type: a 'siglip', where a '{kind}' is needed"):
            with_part(PARTS[name][1], tmp_path)
    language().save_pretrained(tmp_path / "language")
    for name, kinds in (("tower", "'clip_vision_model' or 'siglip_vision_model' or"), ("conv tower", "'convnext' or")):
        with pytest.raises(UserError, match=f"model_type: a 'llama', where a {kinds} .* is needed"):
            with_part(PARTS[name][1], tmp_path / "language")


def test_sizes_that_the_weights_cannot_have_are_refused_at_once(tmp_path: Path) -> None:
    language().save_pretrained(tmp_path)
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**table, "num_hidden_layers": 10**6}))
    with pytest.raises(UserError, match="num_hidden_layers"):
        with_part(PARTS["language"][1], tmp_path)


def test_values_laid_over_a_folder_have_to_fit_its_weights(tmp_path: Path) -> None:
    language().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"shape: model\.layers\.0\.mlp\.down_proj\.weight"):
        build_small((f"language={{path: {tmp_path}, config: {{intermediate_size: 64}}}}",))


def test_a_second_stage_takes_sam_whole(tmp_path: Path) -> None:
    SamModel(SamConfig(**sizes(YAML.mask.sam))).save_pretrained(tmp_path)
    text = f"{{mask: {{sam: {{path: {tmp_path}}}}}}}"
    heads = parse_text(HeadsConfig, text)
    build_fresh_heads(*build_small(), heads, Path(), site=Site(Path("recipe.yaml"), "reinit_heads"))
    group = "mask_decoder.output_hypernetworks_mlps.0."
    change(tmp_path, lambda weights: [weights.pop(key) for key in sorted(weights) if key.startswith(group)])
    with pytest.raises(WeightsError) as caught:
        build_fresh_heads(*build_small(), heads, Path(), site=Site(Path("recipe.yaml"), "reinit_heads"))
    assert len(caught.value.problems) == 6 and all("missing weight" in line for line in caught.value.problems)
