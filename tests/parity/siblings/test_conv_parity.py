"""ConvLLaVA's encoder, projector and preprocessing against tensors of the original modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sibling_cases import agree, folders, read, same_normalized_pixels, tensors
from transformers import ConvNextConfig

from ullava.modeling.pixels import CLIP_MEAN, CLIP_STD, normalize_u8
from ullava.modeling.towers.convnext import load_stages
from ullava.modeling.towers.table import tower_of
from ullava.modeling.vision.conv import ConvPreprocessor, ConvStrategy


def strategy_of(folder: Path) -> ConvStrategy:
    """The network of a case with its weights."""
    case = read(folder)
    sizes = case["sizes"]
    config = ConvNextConfig(
        num_stages=len(sizes["depths"]),
        hidden_sizes=sizes["hidden_sizes"],
        depths=sizes["depths"],
        patch_size=sizes["patch_stem"],
        layer_norm_eps=case["constructor"]["layer_norm_eps"],
    )
    made = ConvStrategy(config, projector="mlp2x", width_out=sizes["d"], video="frames").eval()
    weights = tensors(folder, "weights")
    tower = "vision_tower.vision_tower."
    named = {name.removeprefix(tower): value for name, value in weights.items() if name.startswith(tower)}
    assert not load_stages(made.tower, named)
    start = "mm_projector."
    made.projector.load_state_dict(
        {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    )
    return made


@pytest.mark.parametrize("folder", folders("convllava", "encoder"))
def test_maps_features_and_tokens(folder: Path) -> None:
    made, wanted = strategy_of(folder), tensors(folder, "outputs")
    given = {name.removeprefix("images_"): value for name, value in tensors(folder, "inputs").items()}
    with torch.no_grad():
        for size, pixels in given.items():
            agree(made.encode_states(pixels), wanted[f"features.{size}"], folder)
            maps = made.kind.maps(made.tower, pixels)[1:]
            for number, state in enumerate(maps, start=1):
                if f"stage{number}.{size}" in wanted:
                    agree(state, wanted[f"stage{number}.{size}"], folder)
        every = [image for pixels in given.values() for image in pixels]
        output = made.encode({"base": every})
    counts = [wanted[f"features.{size}"].shape[1] for size, pixels in given.items() for _ in pixels]
    assert list(output.counts) == counts
    agree(output.tokens, torch.cat([wanted[f"tokens.{size}"].flatten(0, 1) for size in given]), folder)


@pytest.mark.parametrize("folder", folders("convllava", "token_counts"))
def test_token_counts_at_real_sizes(folder: Path) -> None:
    """A tower of one channel a stage, at the strides of the real one."""
    config = ConvNextConfig(num_stages=5, hidden_sizes=[1] * 5, depths=[1] * 5)
    made = ConvStrategy(config, projector="linear", width_out=1, video="frames").eval()
    assert tower_of(config).stride(-1) == 64
    for row in read(folder, "data.json"):
        size, wanted = row["input"], row["output"]
        with torch.no_grad():
            maps = made.kind.maps(made.tower, torch.zeros(1, 3, size["height"], size["width"]))[1:]
        assert [list(state.shape[-2:]) for state in maps] == wanted["maps_hw"]
        assert maps[-1].shape[-2:].numel() == wanted["tokens"]


@pytest.mark.parametrize("folder", folders("convllava", "pad_preprocess"))
def test_padded_images_are_the_published_ones(folder: Path) -> None:
    side = read(folder)["sizes"]["R"]
    made = ConvPreprocessor(side, side, "pad", area=1.0, video_side=side, video="frames")
    image = np.ascontiguousarray(tensors(folder, "inputs")["image"].numpy())
    pixels = torch.from_numpy(made.preprocess(image).views["base"])[None]
    found = normalize_u8(pixels, CLIP_MEAN, CLIP_STD, torch.float32)[0]
    same_normalized_pixels(found, tensors(folder, "outputs")["pixel_values"])
