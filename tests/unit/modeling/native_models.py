"""Image-text-to-text models of transformers at the smallest sizes, each with its own processor in a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64]]


def _chatml(image: str, video: str) -> str:
    """ChatML with the signs that stand for an image and for a video."""
    return (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '" + image + "' }}{% elif part['type'] == 'video' %}{{ '" + video + "' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


CHATML = _chatml("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>")
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""What stands for an image begins and ends with line breaks, and so do the words beside it."""
UTTERANCES = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% elif part['type'] == 'video' %}{{ '<video>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""In the way of the makers: words are read from parts of a message alone, and nothing marks an answer."""


def _tokenizer(*signs: str, end: str, named: Mapping[str, str]) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(
        str(ROOT / "models" / "tiny" / "tokenizer"), **({"extra_special_tokens": dict(named)} if named else {})
    )
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"eos_token": end})
    tokenizer.add_tokens([sign for sign in signs if sign not in tokenizer.get_vocab()], special_tokens=True)
    return tokenizer


def _qwen(tokenizer: Any) -> Any:
    images = transformers.Qwen2VLImageProcessor(
        min_pixels=16 * 16, max_pixels=48 * 48, patch_size=4, merge_size=2, temporal_patch_size=2
    )
    videos = transformers.Qwen2VLVideoProcessor(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 4 * 32 * 32}
    )
    return transformers.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=CHATML)


def _qwen3(tokenizer: Any, patch_size: int = 4, **pixels: int) -> Any:
    shapes = {"patch_size": patch_size, "merge_size": 2, "temporal_patch_size": 2}
    images = transformers.Qwen2VLImageProcessor(**{"min_pixels": 16 * 16, "max_pixels": 48 * 48, **pixels}, **shapes)
    size = {"shortest_edge": 4 * 16 * 16, "longest_edge": 4 * 32 * 32}
    videos = transformers.Qwen3VLVideoProcessor(**shapes, **({} if pixels else {"size": size}))
    return transformers.Qwen3VLProcessor(images, tokenizer, videos, chat_template=CHATML)


def _idefics3(tokenizer: Any) -> Any:
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=UTTERANCES)


def _smolvlm(tokenizer: Any) -> Any:
    images = transformers.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    videos = transformers.SmolVLMVideoProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return transformers.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=UTTERANCES)


def _internvl(tokenizer: Any) -> Any:
    size = {"height": 32, "width": 32}
    images = transformers.GotOcr2ImageProcessor(size=size, max_patches=3)
    videos = transformers.InternVLVideoProcessor(size=size)
    chat = _chatml("<IMG_CONTEXT>\n", "<video>\n")
    return transformers.InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=chat)


def _llava_onevision(tokenizer: Any) -> Any:
    size = {"height": 32, "width": 32}
    images = transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS)
    videos = transformers.LlavaOnevisionVideoProcessor(size=size)
    return transformers.LlavaOnevisionProcessor(
        images, tokenizer, videos, num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=_chatml("<image>\n", "<video>\n"),
    )  # fmt: skip


def _gemma3(tokenizer: Any) -> Any:
    images = transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    return transformers.Gemma3Processor(images, tokenizer, chat_template=GEMMA, image_seq_length=4)


@dataclass(frozen=True)
class Native:
    """One family: ``config`` of model.yaml, how its processor is made, its signs, and the packages that it needs.

    ``named``: signs that its processor asks the tokenizer for by name; ``videos``: it reads them, too.
    """

    config: dict[str, Any]
    processor: Callable[..., Any]
    signs: tuple[str, ...]
    end: str
    needs: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    videos: bool = False


_VISION_SIGNS = ("<|im_start|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
_TILE_SIGNS = (
    "<image>", "<fake_token_around_image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
)  # fmt: skip
_VIT = {key: value for key, value in SIGLIP.items() if key != "initializer_range"}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
NATIVES: dict[str, Native] = {
    "idefics3": Native(
        {"model_type": "idefics3", "scale_factor": 2, "text_config": {"model_type": "llama", **WORDS},
         "vision_config": _VIT},
        _idefics3, _TILE_SIGNS, "<end_of_utterance>",
    ),
    "smolvlm": Native(
        {"model_type": "smolvlm", "scale_factor": 2, "text_config": {"model_type": "llama", **WORDS},
         "vision_config": _VIT},
        _smolvlm, _TILE_SIGNS, "<end_of_utterance>", ("torchvision", "num2words"), videos=True,
    ),
    "qwen2_5_vl": Native(
        {"model_type": "qwen2_5_vl",
         "text_config": {**WORDS, "rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
         "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
                           "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [1]}},
        _qwen, _VISION_SIGNS, "<|im_end|>", ("torchvision",), videos=True,
    ),
    "qwen3_vl": Native(
        {"model_type": "qwen3_vl",
         "text_config": {**WORDS, "head_dim": 8, "rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}},
         "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
                           "out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}},
        _qwen3, _VISION_SIGNS, "<|im_end|>", ("torchvision",), videos=True,
    ),
    "qwen3_5": Native(
        {"model_type": "qwen3_5",
         "text_config": {**WORDS, "head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
                         "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
                         "linear_value_head_dim": 8,
                         "rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True,
                                             "partial_rotary_factor": 0.5}},
         "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
                           "out_hidden_size": 32, "num_position_embeddings": 64}},
        _qwen3, _VISION_SIGNS, "<|im_end|>", ("torchvision",), videos=True,
    ),
    "internvl": Native(
        {"model_type": "internvl", "text_config": {"model_type": "qwen2", **WORDS},
         "vision_config": {**_VIT, "image_size": [32, 32], "patch_size": [8, 8]}},
        _internvl, ("<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"), "<|im_end|>", ("torchvision",),
        {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
         "video_token": "<video>"}, videos=True,
    ),
    "llava_onevision": Native(
        {"model_type": "llava_onevision", "text_config": {"model_type": "qwen2", **WORDS},
         "image_grid_pinpoints": PINPOINTS,
         "vision_config": {"model_type": "siglip_vision_model", **_VIT, "vision_use_head": False}},
        _llava_onevision, ("<|im_start|>", "<image>", "<video>"), "<|im_end|>", ("torchvision",), videos=True,
    ),
    "gemma3": Native(
        {"model_type": "gemma3", "mm_tokens_per_image": 4,
         "text_config": {**WORDS, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 32,
                         "layer_types": ["sliding_attention", "full_attention"]},
         "vision_config": {"model_type": "siglip_vision_model", **_VIT, "vision_use_head": False}},
        _gemma3, ("<start_of_turn>", "<start_of_image>", "<image_soft_token>", "<end_of_image>"), "<end_of_turn>",
        named={"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"},
    ),
}  # fmt: skip
"""Two of tiles in many signs, three of M-RoPE (one with features of deeper layers, one with linear attention), two that
cut images by their shapes (one of them by how many a row shows), one that looks both ways within an image."""
VIDEOS = tuple(name for name, native in NATIVES.items() if native.videos)

HEADS = SMALL_HEADS + "text: {max_length: 512}\n"


def needed_packages(family: str) -> None:
    """Skip a test where transformers' processor of ``family`` needs packages that are not there."""
    missing = [name for name in NATIVES[family].needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers' processor of {family} needs {' and '.join(missing)}, not installed here")


def write_processor(family: str, folder: Path, **options: int) -> Path:
    """Save the processor of a family as its makers do, and return the folder; ``options``: other sizes of it."""
    native = NATIVES[family]
    tokenizer = _tokenizer(native.end, *native.signs, end=native.end, named=native.named)
    native.processor(tokenizer, **options).save_pretrained(str(folder))
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


def check_answers(model: Any, ours: Any, wanted: Any, new_tokens: int) -> None:
    """Assert that logits and greedy answers of our ``model`` for ``ours`` are its core's own for ``wanted``."""
    own = model.core.modules()["native"]
    with torch.no_grad():
        torch.testing.assert_close(model(**ours).logits, own(**wanted).logits)
        said = model.generate(**ours, max_new_tokens=new_tokens, do_sample=False)
        expected = own.generate(
            **wanted, max_new_tokens=new_tokens, do_sample=False, generation_config=model.generation_config,
            suppress_tokens=list(model.core.placeholder_ids),
        )  # fmt: skip
    assert torch.equal(said, expected)
