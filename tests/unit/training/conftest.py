"""What the training tests share: a very small model of the real classes, and a very small synthetic world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ullava.batching.collate import Collator
from ullava.config.load import parse_text
from ullava.config.schema import DatasetEntry, ModelConfig
from ullava.data.loading.build import build_mixture
from ullava.data.loading.encode import EncodedMixture
from ullava.synthetic.write import draw_world

ROOT = Path(__file__).resolve().parents[3]

MODEL = """
name: small
language:
  config: {model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 2, max_position_embeddings: 384, initializer_range: 0.1, tie_word_embeddings: true}
tokenizer: TOKENIZER
vision:
  vision_feature_layer: -2
  tower: {config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 3, num_attention_heads: 2,
                   image_size: 32, patch_size: 8, initializer_range: 0.05}}
mask:
  sam:
    config:
      vision_config: {hidden_size: 32, output_channels: 32, num_hidden_layers: 1, num_attention_heads: 2,
                      image_size: 32, patch_size: 8, mlp_dim: 48, window_size: 2, global_attn_indexes: [0],
                      num_pos_feats: 16, initializer_range: 0.1}
      prompt_encoder_config: {hidden_size: 32, image_size: 32, patch_size: 8}
      mask_decoder_config: {hidden_size: 32, mlp_dim: 48, num_attention_heads: 2, iou_head_hidden_dim: 32}
box: {width: 32}
text: {max_length: 384}
""".replace("TOKENIZER", str(ROOT / "models" / "tiny" / "tokenizer"))

RECIPE = """
model: MODEL
init: scratch
stage: scratch
data_root: WORLD
loss: {iou_score: 0.1}
dataset:
  shapes_res: {weight: 2, turns: 2}
  shapes_vqa: {weight: 1, turns: 2}
  shapes_text: {weight: 1}
training:
  per_device_train_batch_size: 4
  max_steps: 6
  learning_rate: 2e-3
  logging_steps: 1
  save_strategy: steps
  save_steps: 3
  save_total_limit: 5
  disable_tqdm: true
  use_cpu: true
  seed: 3
"""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic world of 12 images."""
    folder = tmp_path_factory.mktemp("world") / "shapes"
    draw_world(folder, 12, 5, "train")
    return folder


@pytest.fixture(scope="session")
def model_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model.yaml of the smallest sizes."""
    path = tmp_path_factory.mktemp("small") / "model.yaml"
    path.write_text(MODEL, encoding="utf-8")
    return path


@pytest.fixture
def recipe_file(write: Callable[[str, str], Path], world: Path, model_yaml: Path) -> Path:
    """A recipe of six steps."""
    return write("recipe.yaml", RECIPE.replace("WORLD", str(world)).replace("MODEL", str(model_yaml)))


@pytest.fixture
def make_model(model_yaml: Path) -> Callable[..., tuple[Any, Any]]:
    """A function that builds model and processor; the weights are the same every time."""
    from ullava.modeling.construction.build import build_model

    def make(*overrides: str) -> tuple[Any, Any]:
        torch.manual_seed(0)
        return build_model(parse_text(ModelConfig, MODEL, "small", overrides), model_yaml.parent)

    return make


@pytest.fixture
def make_batch(world: Path) -> Callable[..., dict[str, Any]]:
    """A function that collates the first samples of one dataset of the world."""

    def make(processor: Any, dataset: str, count: int = 3, first: int = 0, turns: int = 2) -> dict[str, Any]:
        mixture = build_mixture({dataset: DatasetEntry(turns=turns)}, world, 0)
        encoded = EncodedMixture(mixture, processor)
        rows = [encoded[position] for position in range(first, first + count)]
        return Collator(processor.tokenizer.pad_token_id)(rows)

    return make
