"""``ullava convert llava`` on small checkpoints of LLaVA's own layout and of transformers'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from released_folder import PIECES, core_config, released_names, small_model, write_shards, write_tokenizer
from safetensors.torch import save_file
from transformers import ConvNextConfig

from ullava.modeling.construction.auto import load_folder
from ullava.modeling.loading.weight_files import read_state_dict
from ullava.modeling.vision.conv import ConvStrategy
from ullava.text.released_tokenizer import UNKNOWN, llama_tokenizer

LANGUAGE, TOWER, PROJECTOR = "llm.model.", "llm.vision_encoder.vision_model.", "llm.vision_projector."


@pytest.fixture
def parts(tmp_path: Path, command) -> tuple[dict[str, torch.Tensor], dict, Path]:
    """Released names of a small model, the sparse language config, and a converted SAM."""
    ids = write_tokenizer(tmp_path / "pieces")
    model = small_model(PIECES)
    state = released_names(model)
    sam = {k.removeprefix("visual_model."): v for k, v in state.items() if k.startswith("visual_model.")}
    torch.save(sam, tmp_path / "sam.pth")
    assert command("convert", "sam", "--from", str(tmp_path / "sam.pth"), "--out", str(tmp_path / "sam"))[0] == 0
    return state, core_config(model, ids), tmp_path / "sam"


def write_words(folder: Path, pieces: Path) -> None:
    llama_tokenizer(pieces / "tokenizer.model", (), pad=UNKNOWN).save_pretrained(str(folder))


def own_layout(state: dict[str, torch.Tensor], tower: str | None) -> dict[str, torch.Tensor]:
    made = {}
    for name, tensor in state.items():
        if name.startswith(TOWER) and tower is not None:
            made[tower + name.removeprefix(TOWER)] = tensor
        elif name.startswith(PROJECTOR):
            made["model.mm_projector." + name.removeprefix(PROJECTOR)] = tensor
        elif name.startswith(LANGUAGE) or name == "llm.lm_head.weight":
            made[name.removeprefix("llm.")] = tensor
    return made


def run(command, source: Path, out: Path, sam: Path, *more: str) -> tuple[int, str, str]:
    return command("convert", "llava", "--from", str(source), "--out", str(out), "--sam", str(sam), *more)


def check(out: Path, state: dict[str, torch.Tensor]) -> None:
    written = read_state_dict(out)
    assert torch.equal(written["vision.projector.weight"], state["llm.vision_projector.weight"])
    assert torch.equal(written["vision.tower.post_layernorm.bias"], state[TOWER + "post_layernorm.bias"])
    table = written["language_model.model.embed_tokens.weight"]
    assert torch.equal(table[:PIECES], state["llm.model.embed_tokens.weight"])
    torch.testing.assert_close(table[-1], table[:PIECES].mean(dim=0))
    config = json.loads((out / "config.json").read_text())
    assert sorted(config[key] for key in ("image_start_id", "seg_id", "loc_id")) > [PIECES - 1] * 3
    assert config["image_aspect_ratio"] == "pad" and config["vision_feature_layer"] == -2


def test_own_layout_with_its_tower(tmp_path, command, parts):
    state, config, sam = parts
    source = tmp_path / "llava"
    config = {"mm_projector_type": "linear", "image_aspect_ratio": "pad", "vision_config": config["vision_config"]} | {
        key: value for key, value in config.items() if key not in ("vision_config", "mm_token_ids")
    }
    write_shards(
        source,
        own_layout(state, "model.vision_tower.vision_tower.vision_model."),
        config | {"model_type": "llava_llama", "mm_vision_select_layer": -2},
    )
    write_words(source, tmp_path / "pieces")
    code, printed, errors = run(command, source, tmp_path / "made", sam)
    assert code == 0, errors
    assert "started at random: mask_head.projector, box_head" in printed and "[SEG]" in printed
    check(tmp_path / "made", state)


def test_own_layout_without_a_tower_needs_one(tmp_path, command, parts):
    state, config, sam = parts
    source = tmp_path / "llava"
    config |= {"model_type": "llava", "mm_projector_type": "linear", "image_aspect_ratio": "pad"}
    del config["vision_config"]
    write_shards(source, own_layout(state, None), config)
    write_words(source, tmp_path / "pieces")
    code, _, errors = run(command, source, tmp_path / "made", sam)
    assert code == 2 and "--tower" in errors

    tower = {f"vision_model.{k.removeprefix(TOWER)}": v for k, v in state.items() if k.startswith(TOWER)}
    torch.save(tower, tmp_path / "clip.bin")
    arguments = ["--from", str(tmp_path / "clip.bin"), "--out", str(tmp_path / "tower"), "--heads", "2"]
    assert command("convert", "clip", *arguments)[0] == 0
    code, _, errors = run(command, source, tmp_path / "made", sam, "--tower", str(tmp_path / "tower"))
    assert code == 0, errors
    check(tmp_path / "made", state)


def test_layout_of_transformers(tmp_path, command, parts):
    state, config, sam = parts
    text = {key: value for key, value in config.items() if key not in ("vision_config", "mm_token_ids")}
    made = {}
    for name, tensor in state.items():
        if name.startswith(TOWER):
            made["vision_tower.vision_model." + name.removeprefix(TOWER)] = tensor
        elif name.startswith(LANGUAGE) or name == "llm.lm_head.weight":
            made["language_model." + name.removeprefix("llm.")] = tensor
    for number in (1, 2):
        made[f"multi_modal_projector.linear_{number}.weight"] = torch.randn(16, 16)
        made[f"multi_modal_projector.linear_{number}.bias"] = torch.randn(16)
    table = {"model_type": "llava", "text_config": text | {"model_type": "llama"}}
    table |= {"vision_config": config["vision_config"], "projector_hidden_act": "gelu", "vision_feature_layer": -2}
    source = tmp_path / "llava"
    write_shards(source, made, table | {"vision_feature_select_strategy": "default"})
    write_words(source, tmp_path / "pieces")
    code, _, errors = run(command, source, tmp_path / "made", sam)
    assert code == 0, errors
    written = read_state_dict(tmp_path / "made")
    assert torch.equal(written["vision.projector.2.bias"], made["multi_modal_projector.linear_2.bias"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"mm_projector_type": "resampler"}, "mm_projector_type 'resampler'"),
        ({"mm_vision_select_feature": "cls_patch"}, "'cls_patch'"),
    ],
)
def test_what_ours_cannot_be_is_refused(tmp_path, command, parts, change, words):
    state, config, sam = parts
    source = tmp_path / "llava"
    table = config | {"model_type": "llava", "mm_projector_type": "linear"} | change
    write_shards(source, own_layout(state, "vision_tower.vision_model."), table)
    write_words(source, tmp_path / "pieces")
    code, _, errors = run(command, source, tmp_path / "made", sam)
    assert code == 2 and words in errors


def slime_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """SliME's names: a gated projector with a resampler in it, a second resampler, tables of positions beside them."""
    from ullava.modeling.vision.slime_mixture import GatedMixture
    from ullava.modeling.vision.slime_resampler import Resampler

    made = own_layout(state, "model.vision_tower.vision_tower.vision_model.")
    made = {name: tensor for name, tensor in made.items() if not name.startswith("model.mm_projector.")}
    torch.manual_seed(5)
    mixture, local = GatedMixture(2, 16, 1, 16), Resampler(2, 16, 1)
    made |= {f"model.mm_projector.{name}": tensor for name, tensor in mixture.state_dict().items()}
    made |= {f"model.sampler.post_qformer.{name}": tensor for name, tensor in local.state_dict().items()}
    unused = ("mm_projector.mean", "mm_projector.std", "mm_projector.attn.pos_embed", "sampler.post_qformer.pos_embed")
    return made | {f"model.{name}": torch.zeros(4, 16) for name in unused}


def slime_table(config: dict) -> dict:
    kept = {key: value for key, value in config.items() if key not in ("vision_config", "mm_token_ids")}
    return kept | {
        "model_type": "llava_llama", "mm_projector_type": "gated", "mm_vision_select_layer": -2,
        "vision_config": config["vision_config"], "mm_resampler_type": "cosine", "mm_resampler_topp": 0.9,
        "mm_resampler_temp": 2.0, "mm_resampler_dim": 4,
    }  # fmt: skip


def test_slime_becomes_the_strategy_of_its_name(tmp_path, command, parts):
    state, config, sam = parts
    made = slime_layout(state)
    write_shards(tmp_path / "slime", made, slime_table(config))
    write_words(tmp_path / "slime", tmp_path / "pieces")
    code, printed, errors = run(command, tmp_path / "slime", tmp_path / "made", sam)
    assert code == 0, errors
    assert "left out" in printed and "mm_projector.mean" in printed
    written = read_state_dict(tmp_path / "made")
    for ours, theirs in (("mixture.w_gate", "mm_projector.w_gate"), ("local.query", "sampler.post_qformer.query"),
                         ("mixture.attn.attn.in_proj_weight", "mm_projector.attn.attn.in_proj_weight")):  # fmt: skip
        assert torch.equal(written[f"vision.{ours}"], made[f"model.{theirs}"])
    table = json.loads((tmp_path / "made" / "config.json").read_text())
    settings = table["vision_settings"]
    assert table["strategy"] == "slime" and isinstance(settings["separator_id"], int)
    assert (settings["top_p"], settings["temperature"], settings["reduce"], settings["noise"]) == (
        0.9,
        2.0,
        "sum",
        "gate",
    )
    assert (settings["gate"], settings["local_side"], settings["heads"]) == ("learned", 2, 1)


def test_a_slime_that_ours_cannot_be_is_refused(tmp_path, command, parts):
    state, config, sam = parts
    write_shards(tmp_path / "slime", slime_layout(state), slime_table(config) | {"mm_resampler_type": "qformer"})
    write_words(tmp_path / "slime", tmp_path / "pieces")
    code, _, errors = run(command, tmp_path / "slime", tmp_path / "made", sam)
    assert code == 2 and "mm_resampler_type 'qformer'" in errors and "'cosine'" in errors


def conv_layout(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], ConvStrategy]:
    """ConvLLaVA's names, without its tower, and the network that they belong to."""
    torch.manual_seed(6)
    sizes = {"hidden_sizes": [4, 4, 6, 6, 8], "depths": [1, 1, 2, 1, 1], "patch_size": 1}
    network = ConvStrategy(ConvNextConfig(num_stages=5, **sizes), projector="mlp2x", width_out=16, video="frames")
    made = {name: value for name, value in own_layout(state, None).items() if "mm_projector" not in name}
    projector = {f"model.mm_projector.{name}": value for name, value in network.projector.state_dict().items()}
    return made | projector, network


CONV_TABLE = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -1, "image_aspect_ratio": "pad"}


@pytest.mark.parametrize("inside", [True, False])
def test_convllava_becomes_the_strategy_conv(tmp_path, command, parts, inside):
    state, config, sam = parts
    made, network = conv_layout(state)
    tower = {name: value for name, value in network.tower.state_dict().items() if not name.startswith("layernorm.")}
    more: tuple[str, ...] = ()
    if inside:  # with the norm that nothing reads, in the width of the fourth stage
        made |= {f"model.vision_tower.vision_tower.{name}": value for name, value in tower.items()}
        made["model.vision_tower.vision_tower.layernorm.weight"] = torch.ones(6)
    else:
        (tmp_path / "tower").mkdir()
        save_file(tower, tmp_path / "tower" / "model.safetensors")
        (tmp_path / "tower" / "config.json").write_text(json.dumps({"model_type": "convnext", "num_stages": 4}))
        more = ("--tower", str(tmp_path / "tower"))
    table = {key: value for key, value in config.items() if key not in ("vision_config", "mm_token_ids")}
    table |= CONV_TABLE | {"model_type": "llava", "mm_vision_resolution": 64}
    write_shards(tmp_path / "conv", made, table)
    write_words(tmp_path / "conv", tmp_path / "pieces")
    code, _, errors = run(command, tmp_path / "conv", tmp_path / "made", sam, *more)
    assert code == 0, errors
    written = read_state_dict(tmp_path / "made")
    for name, value in tower.items():
        assert torch.equal(written[f"vision.tower.{name}"], value)
    assert torch.equal(written["vision.projector.2.weight"], made["model.mm_projector.2.weight"])
    assert written["vision.tower.layernorm.weight"].shape == (8,)
    model, processor = load_folder(tmp_path / "made", torch.float32)
    assert (model.config.strategy, model.config.image_aspect_ratio, model.config.vision_settings["video_side"]) == (
        "conv",
        "pad",
        64,
    )
    seen = processor.vision.preprocess(np.zeros((30, 50, 3), dtype=np.uint8))
    assert seen.count.low == 16 and seen.views["base"].shape == (3, 64, 64)
    tokens = model.vision.encode({"base": torch.from_numpy(seen.views["base"])[None]}).tokens
    assert torch.equal(tokens, network.eval().encode({"base": torch.from_numpy(seen.views["base"])[None]}).tokens)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mm_vision_resolution": None}, "no mm_vision_resolution"),
        ({"mm_vision_select_layer": -2}, "the last map is read"),
    ],
)
def test_what_a_convnext_needs_is_said(tmp_path, command, parts, change, words):
    state, config, sam = parts
    made, network = conv_layout(state)
    made |= {f"model.vision_tower.vision_tower.{name}": value for name, value in network.tower.state_dict().items()}
    table = {key: value for key, value in config.items() if key not in ("vision_config", "mm_token_ids")}
    table |= CONV_TABLE | {"model_type": "llava", "mm_vision_resolution": 64} | change
    write_shards(tmp_path / "conv", made, {key: value for key, value in table.items() if value is not None})
    write_words(tmp_path / "conv", tmp_path / "pieces")
    code, _, errors = run(command, tmp_path / "conv", tmp_path / "made", sam)
    assert code == 2 and words in errors


def avg_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """AVG-LLaVA's names: a router, a newline, and a tower of 4 x 4 patches."""
    from ullava.modeling.vision.avg_router import GranularityRouter

    made = own_layout(state, "model.vision_tower.vision_tower.vision_model.")
    places = "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight"
    width = len(made["model.mm_projector.weight"])
    torch.manual_seed(6)
    made[places] = torch.randn(17, made[places].shape[1])
    router = GranularityRouter(width, (1, 2, 4, 8, 16), text_slots=3, axis="crops")
    made |= {f"model.router.{name}": value for name, value in router.state_dict().items()}
    return made | {"model.image_newline": torch.randn(width)}


def avg_table(config: dict) -> dict:
    tower = dict(config["vision_config"])
    side = 4 * int(tower["patch_size"])
    kept = {key: value for key, value in config.items() if key != "mm_token_ids"}
    return kept | {
        "model_type": "llava_llama", "mm_projector_type": "linear", "mm_vision_select_layer": -2,
        "vision_config": tower | {"image_size": side}, "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[side, 2 * side], [2 * side, side]],
    }  # fmt: skip


def test_avg_becomes_the_strategy_of_its_name(tmp_path, command, parts):
    state, config, sam = parts
    made = avg_layout(state)
    write_shards(tmp_path / "avg", made, avg_table(config))
    write_words(tmp_path / "avg", tmp_path / "pieces")
    code, _, errors = run(command, tmp_path / "avg", tmp_path / "made", sam)
    assert code == 0, errors
    written = read_state_dict(tmp_path / "made")
    renamed = {"newline.weight": "image_newline", "router.voter": "router.voter"}
    renamed |= {name: name for name in ("router.merger.self_attn.in_proj_weight", "router.router.2.bias")}
    for ours, theirs in renamed.items():
        assert torch.equal(written[f"vision.{ours}"], made[f"model.{theirs}"])
    table = json.loads((tmp_path / "made" / "config.json").read_text())
    settings = table["vision_settings"]
    assert table["strategy"] == "avg" and settings["image_grid_pinpoints"] == [[1, 2], [2, 1]]
    assert (settings["text_slots"], settings["attention_axis"], settings["unpad"]) == (3, "crops", "cells")


def test_a_router_of_another_size_is_refused(tmp_path, command, parts):
    state, config, sam = parts
    made = avg_layout(state)
    made["model.router.voter"] = torch.zeros(30, 1)
    write_shards(tmp_path / "avg", made, avg_table(config))
    write_words(tmp_path / "avg", tmp_path / "pieces")
    code, _, errors = run(command, tmp_path / "avg", tmp_path / "made", sam)
    assert code == 2 and "the router weighs 30 places and 5 levels" in errors
