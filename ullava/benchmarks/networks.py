"""The networks of the benchmark, built afresh: ``peer`` are the sizes of the CPU baseline of u-LLaVA's stage II,
``tiny`` our own.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ullava import resources
from ullava.config.load import load_config
from ullava.config.schema import LanguageConfig, MaskHeadConfig, ModelConfig, PartConfig, TextConfig, VisionConfig
from ullava.modeling.construction.build import build_model
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.synthetic.tokenizer import train_tokenizer
from ullava.text.tokens import GROUNDING_TOKENS

PRESETS: dict[str, tuple[int, ...]] = {"peer": (256, 1024), "tiny": (64,)}
"""Name -> the sides of SAM's square that are measured."""

PEER_VOCABULARY = 32011
LEARNED_PIECES = 360
PEER_SYSTEM = "A person asks about a picture."


@dataclass(frozen=True, slots=True)
class Network:
    """A model with its processor, and what a reader of the figures must know about their sizes."""

    model: UllavaForConditionalGeneration
    processor: UllavaProcessor
    stated: dict[str, Any]


def build_network(preset: str, sam_side: int, annotations: Path) -> Network:
    """Build the network of ``preset`` with random weights from a fixed seed, in eval mode.

    The tokenizer of ``peer`` is learned from ``annotations``, those of the workload, and so is fixed as they are.
    """
    torch.manual_seed(0)
    if preset == "tiny":
        path = resources.find("models", "tiny")
        model, processor = build_model(load_config(ModelConfig, path), path.parent)
    else:
        model, processor = build_random(peer_config(sam_side), annotations)
    return Network(model.eval(), processor, _stated(model))


def build_random(config: ModelConfig, annotations: Path) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Build a model with the tokenizer of ``peer`` and weights that torch's seed decides."""
    with tempfile.TemporaryDirectory() as folder:
        write_wide_tokenizer(annotations, Path(folder) / "tokenizer")
        return build_model(config, Path(folder))


def peer_config(sam_side: int) -> ModelConfig:
    """Llama 128 x 2, CLIP 64 x 3 at 224/14, SAM ViT 96 x 2 (one windowed block, one global) with the stock decoder."""
    language = {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
    }
    tower = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 224,
        "patch_size": 14,
    }
    encoder = {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": sam_side,
        "patch_size": 16,
        "mlp_dim": 384,
        "window_size": 14,
        "global_attn_indexes": [1],
    }
    sam = {"vision_config": encoder, "prompt_encoder_config": {"image_size": sam_side, "patch_size": 16}}
    return ModelConfig(
        name="peer",
        language=LanguageConfig(config=language),
        tokenizer="tokenizer",
        vision=VisionConfig(tower=PartConfig(config=tower), projector="linear"),
        mask=MaskHeadConfig(sam=PartConfig(config=sam)),
        text=TextConfig(template="vicuna_v1", system=PEER_SYSTEM, max_length=768),
    )


def write_wide_tokenizer(annotations: Path, folder: Path) -> None:
    """Write a tokenizer of a few hundred learned pieces and so many that no text yields that the whole is as wide as
    ``PEER_VOCABULARY``; the grounding tokens, which come on top, are counted in.
    """
    first = train_tokenizer([annotations], LEARNED_PIECES, folder)
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    for number in range(first, PEER_VOCABULARY - len(GROUNDING_TOKENS)):
        table["model"]["vocab"][f"<never {number}>"] = number
    path.write_text(json.dumps(table), encoding="utf-8")


def _stated(model: UllavaForConditionalGeneration) -> dict[str, Any]:
    config = model.config
    text, tower, sam = config.text_config, config.vision_config, config.sam_config.vision_config
    return {
        "language": f"{text.model_type} {text.hidden_size} x {text.num_hidden_layers}, vocabulary {text.vocab_size}",
        "tower": f"CLIP {tower.hidden_size} x {tower.num_hidden_layers}, {tower.image_size}/{tower.patch_size}",
        "sam": f"ViT {sam.hidden_size} x {sam.num_hidden_layers}, side {sam.image_size}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "visual_tokens": (tower.image_size // tower.patch_size) ** 2,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
