"""A model of the real classes at the smallest sizes that keep every part alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ullava.batching.collate import Collator
from ullava.config.load import parse_text
from ullava.config.schema import ModelConfig
from ullava.structures import Region, Sample, Turn
from ullava.text.answers import grounded_answer

ROOT = Path(__file__).resolve().parents[3]

SMALL_HEADS = """
mask:
  sam:
    config:
      vision_config: {hidden_size: 32, output_channels: 32, num_hidden_layers: 2, num_attention_heads: 2,
                      image_size: 32, patch_size: 8, mlp_dim: 48, window_size: 2, global_attn_indexes: [1],
                      num_pos_feats: 16, initializer_range: 0.1}
      prompt_encoder_config: {hidden_size: 32, image_size: 32, patch_size: 8}
      mask_decoder_config: {hidden_size: 32, mlp_dim: 48, num_attention_heads: 4, iou_head_hidden_dim: 32}
box: {width: 32}
"""

SMALL = (
    """
name: small
language:
  config: {model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4,
           num_key_value_heads: 2, max_position_embeddings: 512, initializer_range: 0.1, tie_word_embeddings: true}
tokenizer: models/tiny/tokenizer
vision:
  tower: {config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4,
                   image_size: 32, patch_size: 8}}
"""
    + SMALL_HEADS
    + "text: {max_length: 256}\n"
)


def build_small(overrides: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """Build model and processor from ``SMALL`` with command-line style overrides; weights are the same every time."""
    from ullava.modeling.construction.build import build_model

    torch.manual_seed(0)
    config = parse_text(ModelConfig, SMALL, "small", overrides)
    model, processor = build_model(config, ROOT)
    return model.eval(), processor


@pytest.fixture(scope="session")
def small() -> tuple[Any, Any]:
    """Model and processor; tests must not change them."""
    return build_small()


def make_image(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A random image, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grounded_sample(name: str, count: int = 1, height: int = 40, width: int = 56) -> Sample:
    """One turn that grounds ``count`` regions on one image."""
    regions = []
    for number in range(count):
        mask = np.zeros((height, width), dtype=bool)
        mask[4 + number : 20 + number, 6 : 30 + 2 * number] = True
        regions.append(Region(f"thing {number}", mask, (6.0, 4.0 + number, 30.0 + 2 * number, 20.0 + number)))
    turn = Turn("<image>Segment the things.", grounded_answer(regions), tuple(regions))
    return Sample(name, "test", "res", (Path(f"{name}.png"),), (turn,))


def batch_of(processor: Any, samples: list[Sample]) -> Any:
    """A batch of samples whose names are the numbers of their images."""
    rows = [
        processor.encode(sample, [make_image(int(sample.name), 40, 56)] if sample.images else []) for sample in samples
    ]
    return Collator(processor.tokenizer.pad_token_id)(rows)
