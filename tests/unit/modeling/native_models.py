"""Image-text-to-text models of transformers at the smallest sizes, each with its own processor in a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from tests.unit.modeling.conftest import SMALL_HEADS
from transformers import AutoTokenizer

from ullava.config.load import parse_text
from ullava.config.schema import ModelConfig

ROOT = Path(__file__).resolve().parents[3]
WORDS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.1}  # fmt: skip
SIGLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 32, "patch_size": 8, "initializer_range": 0.1}  # fmt: skip
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
UTTERANCES = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""In the way of the makers: words are read from parts of a message alone, and nothing marks an answer."""


def _tokenizer(*signs: str, end: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(str(ROOT / "models" / "tiny" / "tokenizer"))
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"eos_token": end})
    tokenizer.add_tokens([sign for sign in signs if sign not in tokenizer.get_vocab()], special_tokens=True)
    return tokenizer


def _qwen(tokenizer: Any) -> Any:
    images = transformers.Qwen2VLImageProcessor(
        min_pixels=16 * 16, max_pixels=48 * 48, patch_size=4, merge_size=2, temporal_patch_size=2
    )
    videos = transformers.Qwen2VLVideoProcessor(patch_size=4, merge_size=2, temporal_patch_size=2)
    return transformers.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=CHATML)


def _qwen3(tokenizer: Any) -> Any:
    images = transformers.Qwen2VLImageProcessor(
        min_pixels=16 * 16, max_pixels=48 * 48, patch_size=4, merge_size=2, temporal_patch_size=2
    )
    videos = transformers.Qwen3VLVideoProcessor(patch_size=4, merge_size=2, temporal_patch_size=2)
    return transformers.Qwen3VLProcessor(images, tokenizer, videos, chat_template=CHATML)


def _idefics3(tokenizer: Any) -> Any:
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=UTTERANCES)


def _smolvlm(tokenizer: Any) -> Any:
    images = transformers.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    videos = transformers.SmolVLMVideoProcessor()
    return transformers.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=UTTERANCES)


@dataclass(frozen=True)
class Native:
    """One family: ``config`` of model.yaml, how its processor is made, its signs, and the packages that it needs."""

    config: dict[str, Any]
    processor: Callable[[Any], Any]
    signs: tuple[str, ...]
    end: str
    needs: tuple[str, ...] = ()


_VISION_SIGNS = ("<|im_start|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
_TILE_SIGNS = (
    "<image>", "<fake_token_around_image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
)  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
NATIVES: dict[str, Native] = {
    "idefics3": Native(
        {"model_type": "idefics3", "scale_factor": 2, "text_config": {"model_type": "llama", **WORDS},
         "vision_config": {key: value for key, value in SIGLIP.items() if key != "initializer_range"}},
        _idefics3, _TILE_SIGNS, "<end_of_utterance>",
    ),
    "smolvlm": Native(
        {"model_type": "smolvlm", "scale_factor": 2, "text_config": {"model_type": "llama", **WORDS},
         "vision_config": {key: value for key, value in SIGLIP.items() if key != "initializer_range"}},
        _smolvlm, _TILE_SIGNS, "<end_of_utterance>", ("torchvision", "num2words"),
    ),
    "qwen2_5_vl": Native(
        {"model_type": "qwen2_5_vl",
         "text_config": {**WORDS, "rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
         "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
                           "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [1]}},
        _qwen, _VISION_SIGNS, "<|im_end|>", ("torchvision",),
    ),
    "qwen3_vl": Native(
        {"model_type": "qwen3_vl",
         "text_config": {**WORDS, "head_dim": 8, "rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}},
         "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
                           "out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}},
        _qwen3, _VISION_SIGNS, "<|im_end|>", ("torchvision",),
    ),
}  # fmt: skip
"""Two of tiles in many signs, two of M-RoPE (the second with features of deeper layers)."""

HEADS = SMALL_HEADS + "text: {max_length: 512}\n"


def needed_packages(family: str) -> None:
    """Skip a test where transformers' processor of ``family`` needs packages that are not there."""
    missing = [name for name in NATIVES[family].needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers' processor of {family} needs {' and '.join(missing)}, not installed here")


def write_processor(family: str, folder: Path) -> Path:
    """Save the processor of a family as its makers do, and return the folder."""
    native = NATIVES[family]
    native.processor(_tokenizer(native.end, *native.signs, end=native.end)).save_pretrained(str(folder))
    return folder


def native_yaml(family: str, processor: Path, overrides: tuple[str, ...] = ()) -> ModelConfig:
    """The model.yaml of a native core at random weights, with heads of ours."""
    core = {"kind": "native", "config": NATIVES[family].config, "processor": str(processor)}
    return parse_text(ModelConfig, yaml.safe_dump({"name": family, "core": core}) + HEADS, "native", overrides)


def build_native(family: str, folder: Path, overrides: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """Build model and processor; weights are the same every time."""
    from ullava.modeling.construction.build import build_model

    config = native_yaml(family, write_processor(family, folder / "processor"), overrides)
    torch.manual_seed(0)
    model, processor = build_model(config, folder)
    return model.eval(), processor
