"""``ullava bench masks``: the sizes of the published mask heads, and figures for an image and for a mask."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.unit.modeling.small_segmenters import HIERA

from ullava.benchmarks import mask_heads

MEMORY = 7.5
"""Millions that SAM 2's checkpoints have for videos alone."""
PUBLISHED = {"sam2.1-tiny": 38.9, "sam2.1-small": 46.0, "sam2.1-base-plus": 80.8, "sam2.1-large": 224.4}
"""Millions of whole checkpoints, as SAM 2's repository states them."""


def test_sizes_are_those_that_are_published() -> None:
    sizes = mask_heads.head_sizes([*PUBLISHED, "sam-vit-b", "photo"])
    for name, millions in PUBLISHED.items():
        projector = (576 + 1) * 576 + (576 + 1) * 256
        assert (sizes[name]["parameters"] - projector) / 1e6 + MEMORY == pytest.approx(millions, abs=0.1), name
    assert round(sizes["sam-vit-b"]["encoder_parameters"] / 1e6, 1) == 89.7
    assert sizes["photo"]["encoder_parameters"] == 0


def test_the_command_counts_and_measures(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = {"model_type": "sam2_hiera_det_model", **HIERA}
    small = {
        "vision_config": {
            "backbone_config": backbone,
            "backbone_channel_list": HIERA["embed_dim_per_stage"][::-1],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        "prompt_encoder_config": {"image_size": 64},
    }
    photo = mask_heads.HEADS["photo"]
    made = {"small": mask_heads.HeadSize("sam2", small), "photo": photo}
    monkeypatch.setattr(mask_heads, "HEADS", made)
    threads = torch.get_num_threads()
    try:
        code, printed, _ = command("bench", "masks", "--repeats", "1", "--json")
        assert code == 0
        report = json.loads(printed)
        assert report["heads"].keys() == made.keys()
        assert [result["unit"] for result in report["results"]] == ["ms/image", "ms/mask"] * 2
        assert all(result["cpu"] > 0 and result["masks"] == 4 for result in report["results"])
        assert [result["side"] for result in report["results"]] == [64, 64, 256, 256]
        code, printed, _ = command("bench", "masks", "--sizes", "--heads", "photo")
        assert code == 0 and "1,715,858" in printed and "ms/" not in printed
        for words, said in ((("masks", "--heads", "smal"), "did you mean 'small'"), (("data", "--sizes"), "belong to")):
            code, _, err = command("bench", *words)
            assert code == 2 and said in err
    finally:
        torch.set_num_threads(threads)
