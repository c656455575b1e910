"""``ullava convert llava`` on small checkpoints of MG-LLaVA: names of XTuner, both towers from beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from released_folder import PIECES, core_config, released_names, small_model, write_tokenizer
from safetensors.torch import save_file
from test_weights_llava import write_words
from transformers import ConvNextConfig, ConvNextModel

from ullava.modeling.construction.auto import load_folder
from ullava.modeling.loading.weight_files import read_state_dict
from ullava.modeling.vision.mg_fusion import ConvGateFusion
from ullava.modeling.vision.mg_pooling import ObjectTokens

TOWER = "llm.vision_encoder.vision_model."
CHANNELS = (4, 6)
NEW = {"projector": "bbox_projector.model", "levels": "multi_level_linear"}


@pytest.fixture
def parts(tmp_path: Path, command: Any) -> dict[str, Any]:
    """Tensors of a small checkpoint by MG-LLaVA's names, and the converted parts that go beside it."""
    ids = write_tokenizer(tmp_path / "pieces")
    model = small_model(PIECES)
    state = released_names(model)
    sam = {
        name.removeprefix("visual_model."): value for name, value in state.items() if name.startswith("visual_model.")
    }
    torch.save(sam, tmp_path / "sam.pth")
    clip = {f"vision_model.{name.removeprefix(TOWER)}": v for name, v in state.items() if name.startswith(TOWER)}
    torch.save(clip, tmp_path / "clip.bin")
    sam_line = ["convert", "sam", "--from", str(tmp_path / "sam.pth"), "--out", str(tmp_path / "sam")]
    clip_line = ["convert", "clip", "--from", str(tmp_path / "clip.bin"), "--out", str(tmp_path / "tower")]
    assert command(*sam_line)[0] == 0 and command(*clip_line, "--heads", "2")[0] == 0
    torch.manual_seed(3)
    patch = model.config.vision_config.patch_size // 2
    sizes = {"hidden_sizes": list(CHANNELS), "depths": [1, 1], "patch_size": patch, "num_stages": 2}
    convnext = ConvNextModel(ConvNextConfig(**sizes))
    (tmp_path / "convnext").mkdir()
    save_file(dict(convnext.state_dict()), tmp_path / "convnext" / "model.safetensors")
    table = {
        key: value for key, value in core_config(model, ids).items() if key not in ("vision_config", "mm_token_ids")
    }
    (tmp_path / "mg").mkdir()
    (tmp_path / "mg" / "config.json").write_text(json.dumps(table | {"model_type": "llama"}))
    write_words(tmp_path / "mg", tmp_path / "pieces")
    return {"state": state, "convnext": convnext, "low": model.config.vision_config.hidden_size, "folder": tmp_path}


def own_names(parts: dict[str, Any], fusion: str = "gate", pooling: str = "pyramid") -> dict[str, torch.Tensor]:
    """A whole checkpoint: language model, fusion and both projectors."""
    state, low, channels, wide = parts["state"], parts["low"], CHANNELS, 16
    made = {
        name: value for name, value in state.items() if name.startswith("llm.model.") or name == "llm.lm_head.weight"
    }
    torch.manual_seed(4)
    fuse = ConvGateFusion(fusion, low, channels[-1])
    made |= {f"fuse_module.{name}": torch.randn_like(value) for name, value in fuse.state_dict().items()}
    for place, width in (("0", fuse.width_out), ("2", wide)):
        made[f"projector.model.{place}.weight"] = torch.randn(wide, width)
        made[f"projector.model.{place}.bias"] = torch.randn(wide)
    objects = ObjectTokens(pooling, channels, wide, embed_boxes=False)
    for name, value in objects.state_dict().items():
        part, rest = name.split(".", 1)
        made[f"{NEW[part]}.{rest}"] = torch.randn_like(value)
    return made


def run(command: Any, parts: dict[str, Any], made: Any, *more: str) -> tuple[int, str, str]:
    folder = parts["folder"]
    torch.save(made, folder / "mg" / "iter_100.pth")
    line = ["convert", "llava", "--from", str(folder / "mg" / "iter_100.pth"), "--out", str(folder / "made")]
    line += ["--sam", str(folder / "sam")]
    for name, part in (("--tower", "tower"), ("--pyramid", "convnext")):
        line += [] if name in more else [name, str(folder / part)]
    return command(*line)


@pytest.mark.parametrize(
    ("fusion", "pooling"), (("gate", "pyramid"), ("concat", "multi_level"), ("raw_concat", "last_only"))
)
def test_it_becomes_the_strategy_mg(command: Any, parts: dict[str, Any], fusion: str, pooling: str) -> None:
    made = own_names(parts, fusion, pooling)
    code, printed, errors = run(command, parts, {"state_dict": made})
    assert code == 0, errors
    assert "started at random: mask_head.projector, box_head" in printed and "[SEG]" in printed
    written = read_state_dict(parts["folder"] / "made")
    renamed = {
        "llm.": "language_model.",
        "projector.model.": "vision.projector.",
        "fuse_module.": "vision.fusion.",
        "bbox_projector.model.": "vision.objects.projector.",
        "multi_level_linear.": "vision.objects.levels.",
    }
    for name, value in made.items():
        if name.endswith("rotary_emb.inv_freq"):
            continue
        start = max((key for key in renamed if name.startswith(key)), key=len)
        ours = written[renamed[start] + name.removeprefix(start)]
        assert torch.equal(ours[: len(value)], value), name
    for name, value in parts["convnext"].state_dict().items():
        if not name.startswith("layernorm."):
            assert torch.equal(written[f"vision.pyramid.model.{name}"], value)
    bias = parts["state"][TOWER + "post_layernorm.bias"]
    assert torch.equal(written["vision.tower.post_layernorm.bias"], bias)
    model, processor = load_folder(parts["folder"] / "made", torch.float32)
    settings = model.config.vision_settings
    assert (settings["fusion"], settings["pooling"], settings["box_rule"], settings["frame_pool"]) == (
        fusion, pooling, "released", 1,
    )  # fmt: skip
    assert (model.config.strategy, model.config.image_aspect_ratio, processor.max_length) == ("mg", "pad", 2148)
    assert processor.system == "" and "'USER: '" in processor.chat_template
    seen = processor.vision.preprocess(np.zeros((30, 50, 3), dtype=np.uint8))
    views = {name: torch.from_numpy(view)[None] for name, view in seen.views.items()}
    tokens = model.vision.encode(views).tokens
    assert tokens.shape == (seen.count.low, 16) and bool(torch.isfinite(tokens).all())


def test_a_tower_that_was_trained_wins(command: Any, parts: dict[str, Any]) -> None:
    made = own_names(parts)
    bias = torch.randn(parts["low"])
    made["visual_encoder.vision_model.post_layernorm.bias"] = bias
    code, _, errors = run(command, parts, made)
    assert code == 0, errors
    assert torch.equal(read_state_dict(parts["folder"] / "made")["vision.tower.post_layernorm.bias"], bias)


@pytest.mark.parametrize(
    ("left_out", "words"),
    (("--tower", "hold no CLIP; name a converted one"), ("--pyramid", "hold no ConvNeXt; name the one")),
)
def test_towers_have_to_be_named(command: Any, parts: dict[str, Any], left_out: str, words: str) -> None:
    code, _, errors = run(command, parts, own_names(parts), left_out)
    assert code == 2 and words in errors


def test_what_cannot_be_is_refused(command: Any, parts: dict[str, Any]) -> None:
    folder = parts["folder"]

    def refused(made: Any, words: str) -> None:
        code, _, errors = run(command, parts, made)
        assert code == 2 and words in errors, errors
        assert not (folder / "made").exists()

    whole = own_names(parts)
    refused({name: value for name, value in whole.items() if not name.startswith("llm.")}, "only whole checkpoints")
    refused(whole | {"llm.base_model.model.lora_A.weight": torch.zeros(1)}, "unexpected: llm.base_model")
    refused(whole | {"bbox_projector.model.0.weight": torch.zeros(16, 7)}, "reads 7 channels; the ConvNeXt has 10")
    refused(whole | {"projector.model.0.weight": torch.zeros(16, 5)}, "projector.model.0.weight reads 5 channels")
    lost = {name: value for name, value in whole.items() if name != "fuse_module.gate.2.bias"}
    refused(lost, "vision.fusion.gate.2.bias")
    table = json.loads((folder / "mg" / "config.json").read_text())
    (folder / "mg" / "config.json").write_text(json.dumps(table | {"model_type": "phi3"}))
    refused(whole, "only Llamas are converted")
