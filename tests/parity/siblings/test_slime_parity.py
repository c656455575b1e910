"""SliME's parts against tensors of the original modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sibling_cases import agree, folders, read, same_pixels, tensors
from transformers import CLIPVisionConfig

from ullava.config.vision import SlimeConfig
from ullava.modeling.vision.slime import Slime
from ullava.modeling.vision.slime_mixture import GatedMixture, GateMode
from ullava.modeling.vision.slime_resampler import Resampler, key_positions, query_positions
from ullava.modeling.vision.slime_selection import merge_tiles, select_top_p, word_cosines
from ullava.modeling.vision.slime_tiles import plan_tiles
from ullava.modeling.vision.strategy import EncodeContext
from ullava.modeling.vision.tiles import render_tiles, render_whole

MODES: dict[str, GateMode] = {"mode0": "mlp", "mode1": "resampler", "mode-1": "learned"}


def of(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The learned weights below ``prefix``; tables of positions and unused buffers are none."""
    names = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return {
        name: value.float()
        for name, value in names.items()
        if not name.endswith("pos_embed") and name not in ("mean", "std")
    }


@pytest.mark.parametrize("folder", folders("slime", "grid_choice"))
def test_grids(folder: Path) -> None:
    tile = read(folder)["sizes"]["tile"]
    rows = read(folder, "data.json")
    assert rows
    for row in rows:
        plan = plan_tiles(tuple(row["input"]["size"]), tile)
        wanted = row["output"]
        found = [list(plan.grid_cr), plan.num_tiles, list(plan.resized_wh), list(plan.offset_xy)]
        assert found == [wanted[key] for key in ("grid", "tiles", "resized", "offset")], row["input"]
        assert 577 + 144 * plan.num_tiles == wanted["max_tokens"]


@pytest.mark.parametrize("folder", folders("slime", "tile_pixels"))
def test_pixels_of_the_crops(folder: Path) -> None:
    side = read(folder)["sizes"]["tile"]
    image = tensors(folder, "inputs")["image"].numpy()
    plan = plan_tiles((image.shape[1], image.shape[0]), side)
    crops = np.concatenate([render_whole(image, side)[None], render_tiles(image, plan)])
    same_pixels(crops.transpose(0, 2, 3, 1), tensors(folder, "outputs")["crops"].numpy())


@pytest.mark.parametrize("folder", folders("slime", "resampler_a", "resampler_b", "resampler_b_real_grid"))
def test_resampler(folder: Path) -> None:
    sizes, weights, wanted = read(folder)["sizes"], tensors(folder, "weights"), tensors(folder, "outputs")
    module = Resampler(sizes["query_grid"], sizes["width"], sizes["heads"])
    module.load_state_dict(of("", weights))
    if "pos_embed" in weights:
        table = torch.from_numpy(query_positions(sizes["query_grid"], sizes["width"]))
        assert torch.equal(table, weights["pos_embed"])
    for name, states in tensors(folder, "inputs").items():
        batch = states if states.ndim == 3 else states[None]
        output = module(batch)
        agree(output if states.ndim == 3 else output[0], wanted[name.replace("x", "y")], folder)
    side = round(len(wanted["key_positions0"]) ** 0.5)
    keys = torch.from_numpy(key_positions(sizes["query_grid"], side, sizes["width"]))
    assert torch.equal(keys, wanted["key_positions0"])


@pytest.mark.parametrize("folder", folders("slime", "gate"))
def test_mixture(folder: Path) -> None:
    sizes, inputs, wanted = read(folder)["sizes"], tensors(folder, "inputs"), tensors(folder, "outputs")
    module = GatedMixture(round(sizes["tokens"] ** 0.5), sizes["width"], sizes["heads"], sizes["d"])
    module.load_state_dict(of("", tensors(folder, "weights")))
    for key, mode in MODES.items():
        tokens, shares = module(inputs["x2d"][None], mode)
        agree(tokens[0], wanted[f"{key}.x2d"], folder)
        agree(module(inputs["x3d"], mode)[0], wanted[f"{key}.x3d"], folder)
        agree(module.projection(inputs["local"]), wanted[f"{key}.local"], folder)
    agree(shares[0], wanted["gates.x2d"], folder)


@pytest.mark.parametrize("folder", folders("slime", "gate_noise"))
def test_noise_of_the_gate(folder: Path) -> None:
    width, inputs, weights = read(folder)["sizes"]["width"], tensors(folder, "inputs"), tensors(folder, "weights")
    module = GatedMixture(2, width, 1, width)
    module.load_state_dict(weights, strict=False)
    agree(module.gates(inputs["x"], inputs["noise"], "gate"), tensors(folder, "outputs")["gates"], folder)
    with torch.no_grad():
        module.w_noise += 1.0
    assert not torch.allclose(module.gates(inputs["x"], inputs["noise"]), tensors(folder, "outputs")["gates"])


@pytest.mark.parametrize("folder", folders("slime", "selection", "selection_temperature"))
def test_selection(folder: Path) -> None:
    case, inputs, wanted = read(folder), tensors(folder, "inputs"), tensors(folder, "outputs")
    for name in case["sizes"]:
        tokens, words, valid = (inputs[f"{kind}_{name}"] for kind in "ztm")
        cosines = word_cosines(tokens, words[valid])
        atol = case["tolerance"]["scores_atol"]
        torch.testing.assert_close(cosines.sum(dim=1), wanted[f"scores.{name}"], atol=atol, rtol=0)
        for top_p in case["gammas"]:
            kept = select_top_p(cosines, top_p, case["temperature"], "sum")
            right = wanted[f"kept.{name}.gamma{top_p}"] if top_p < 1 else torch.arange(len(tokens))
            assert torch.equal(kept, right), (name, top_p)


@pytest.mark.parametrize("folder", folders("slime", "tile_order"))
def test_order_of_the_tiles(folder: Path) -> None:
    for row in read(folder, "data.json"):
        side, grid = row["input"]["query_side"], tuple(row["output"]["grid"])
        assert plan_tiles(tuple(row["input"]["size"]), 336).grid_cr == grid
        tiles = grid[0] * grid[1]
        places = torch.stack(torch.meshgrid(torch.arange(tiles), torch.arange(side**2), indexing="ij"), dim=-1)
        assert merge_tiles(places, grid).tolist() == row["output"]["order_spatial"]
        assert places.flatten(0, 1).tolist() == row["output"]["order_flat"]


SWITCHES: dict[str, dict[str, Any]] = {
    "gamma0.95": {"top_p": 0.95},
    "gamma0.75": {"top_p": 0.75},
    "global_only": {"view": "global"},
    "local_only": {"view": "local", "top_p": 0.95},
}


@pytest.mark.parametrize("folder", folders("slime", "visual_path"))
@pytest.mark.parametrize("images", [None, 1])
def test_tokens_of_images_behind_the_tower(folder: Path, images: int | None) -> None:
    """All images of the case in one batch, and the first one alone: a case may have any number of them."""
    sizes, weights = read(folder)["sizes"], tensors(folder, "weights")
    inputs, wanted = tensors(folder, "inputs"), tensors(folder, "outputs")
    side, table = round(sizes["tokens"] ** 0.5), inputs["embed_tokens.weight"]
    tower = CLIPVisionConfig(hidden_size=sizes["width"], num_attention_heads=2, intermediate_size=8,
                             num_hidden_layers=1, image_size=side, patch_size=1)  # fmt: skip
    image_wh = sizes["image_wh"][:images]
    states = [inputs[f"clip{number}"] for number in range(len(image_wh))]
    grids = [plan_tiles((width, height), 336).grid_cr for width, height in image_wh]
    asked = (inputs["attention_mask"] & (inputs["input_ids"] >= 0))[:images]
    words = table[inputs["input_ids"].clamp(min=0)][:images]
    every = tuple(range(len(image_wh)))
    context = EncodeContext(places=every, rows=every, words=words, word_mask=asked)
    for name, switches in SWITCHES.items():
        local = round(sizes["local_queries"] ** 0.5)
        chosen = SlimeConfig(heads=sizes["heads"], local_side=local, temperature=1.0, reduce="sum", **switches)
        module = Slime(tower, vision_feature_layer=-2, settings=chosen, separator_id=sizes["separator_id"],
                       width_out=sizes["d"]).eval()  # fmt: skip
        module.mixture.load_state_dict(of("mm_projector.", weights))
        module.local.load_state_dict(of("sampler.post_qformer.", weights))
        whole = torch.stack([part[0] for part in states])
        tiles = [part[1:] for part in states] if chosen.view != "global" else []
        output = module.tokens_of(whole if chosen.view != "local" else whole[:0], tiles, grids, context)
        assert output.literal_ids is not None
        tokens = torch.where((output.literal_ids >= 0)[:, None], table[output.literal_ids], output.tokens)
        for number, found in enumerate(tokens.split(list(output.counts))):
            agree(found, wanted[f"tokens{number}.{name}"], folder)
