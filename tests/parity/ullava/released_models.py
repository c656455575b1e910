"""Converts the checkpoints of golden cases with ``ullava convert ullava`` and loads them; batches of their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from golden_cases import read
from safetensors.torch import load_file
from torch import Tensor
from transformers import SamConfig, SamModel

from ullava.cli.main import main
from ullava.modeling.model.ullava import UllavaForConditionalGeneration


def convert(checkpoint: Path, out: Path, *more: str) -> UllavaForConditionalGeneration:
    """The model that ``ullava convert ullava`` makes of a released folder, in evaluation mode."""
    assert main(["convert", "ullava", "--from", str(checkpoint), "--out", str(out), *more]) == 0
    return UllavaForConditionalGeneration.from_pretrained(str(out), dtype=torch.float32).eval()


def stage_two(folder: Path, out: Path) -> UllavaForConditionalGeneration:
    """The stage II model of a case; the number of heads of SAM's decoder is in no file of the checkpoint."""
    return convert(folder / "checkpoint", out, "--decoder-heads", str(read(folder)["sam"]["decoder_heads"]))


def tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """A safetensors file of a case."""
    return load_file(folder / name)


def image_batch(images: Tensor, images_sam: Tensor, resized: list[list[int]]) -> dict[str, Any]:
    """Batch keys of normalized images, one for each row of text."""
    count = len(images)
    return {
        "pixel_values": images,
        "image_index": torch.arange(count),
        "sam_pixel_values": images_sam,
        "sam_index": torch.arange(count),
        "sam_sizes": torch.tensor(resized),
    }


def small_sam(folder: Path) -> Path:
    """A folder with a random SAM, as ``ullava convert sam`` writes it; stage I checkpoints have none of their own."""
    side = {"image_size": 32, "patch_size": 8}
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "window_size": 2,
            "global_attn_indexes": [0],
            "mlp_dim": 16,
            "output_channels": 16,
            "num_pos_feats": 8,
            **side,
        },
        prompt_encoder_config={"hidden_size": 16, **side},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    SamModel(config).save_pretrained(str(folder))
    return folder
