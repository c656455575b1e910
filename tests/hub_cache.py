"""A stand-in for the cache of the Hugging Face Hub, in the Hub's own layout: ids are tested without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ullava import hub

COMMIT = "1234567890abcdef1234567890abcdef12345678"
TOKENIZER = Path(__file__).resolve().parent.parent / "models" / "tiny" / "tokenizer"

LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
CLIP_LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "model_type": "clip_vision_model",
}  # fmt: skip
SAM_HUGE = {
    "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120,
    "global_attn_indexes": [7, 15, 23, 31],
}  # fmt: skip
HIERA = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 96, "blocks_per_stage": [1, 2, 7, 2],
    "global_attention_blocks": [5, 7, 9],
}  # fmt: skip
REPVIT = {
    "model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 0, "label_names": [],
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}  # fmt: skip


def _sam2_video(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """A config file of SAM 2 as the Hub has them: of the model for videos, whatever it is used for."""
    return {
        "model_type": "sam2_video",
        "vision_config": {"model_type": "sam2_vision_model", "backbone_config": dict(backbone)},
        "prompt_encoder_config": {"model_type": "sam2_video_prompt_encoder"},
        "mask_decoder_config": {"model_type": "sam2_video_mask_decoder"},
        "memory_attention_num_layers": 4,
    }


PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "lmsys/vicuna-7b-v1.1": LLAMA_7B | {"max_position_embeddings": 2048},
    "lmsys/vicuna-7b-v1.5": LLAMA_7B,
    "meta-llama/Meta-Llama-3-8B-Instruct": LLAMA_7B
    | {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192},
    "openai/clip-vit-large-patch14": {"model_type": "clip", "vision_config": CLIP_LARGE | {"image_size": 224}},
    "openai/clip-vit-large-patch14-336": {"model_type": "clip", "vision_config": CLIP_LARGE | {"image_size": 336}},
    "facebook/sam-vit-huge": {"model_type": "sam", "vision_config": SAM_HUGE},
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "head_dim": 128,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936, "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
    "google/siglip2-base-patch16-224": {"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}},
    "google/siglip2-base-patch16-384": {
        "model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model", "image_size": 384},
    },
    "Qwen/Qwen3.5-0.8B": {
        "model_type": "qwen3_5", "tie_word_embeddings": True,
        "image_token_id": 248056, "video_token_id": 248057,
        "text_config": {
            "model_type": "qwen3_5_text", "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "linear_num_key_heads": 16,
            "linear_num_value_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "vocab_size": 248320, "max_position_embeddings": 262144, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "mrope_section": [11, 11, 10],
                                "mrope_interleaved": True, "partial_rotary_factor": 0.25},
        },
        "vision_config": {
            "model_type": "qwen3_5_vision", "depth": 12, "hidden_size": 768, "intermediate_size": 3072,
            "num_heads": 12, "patch_size": 16, "out_hidden_size": 1024, "num_position_embeddings": 2304,
        },
    },
    "Qwen/Qwen3-VL-4B-Instruct": {
        "model_type": "qwen3_vl", "tie_word_embeddings": True, "image_token_id": 151655, "video_token_id": 151656,
        "text_config": {
            "model_type": "qwen3_vl_text", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000000, "mrope_section": [24, 20, 20],
                                "mrope_interleaved": True},
        },
        "vision_config": {
            "model_type": "qwen3_vl_vision", "depth": 24, "hidden_size": 1024, "intermediate_size": 4096,
            "num_heads": 16, "patch_size": 16, "out_hidden_size": 2560, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    },
    "facebook/sam2.1-hiera-tiny": _sam2_video(HIERA),
    "facebook/sam2.1-hiera-small": _sam2_video(
        HIERA | {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]}
    ),
    "yonigozlan/EdgeTAM-hf": _sam2_video({}) | {
        "model_type": "edgetam_video",
        "vision_config": {"model_type": "edgetam_vision_model", "backbone_config": REPVIT},
    },
}  # fmt: skip
"""What the published config files say of the parts that the models of this repository name."""


def put_in_cache(cache: Path, repository: str, source: Path, *, revision: str = "main", commit: str = COMMIT) -> Path:
    """Lay the files of ``source`` down as the Hub's library keeps what it fetched; return the snapshot."""
    top = cache / f"models--{repository.replace('/', '--')}"
    snapshot = top / "snapshots" / commit
    for file in sorted(source.rglob("*")):
        if file.is_file():
            blob = top / "blobs" / f"{commit}-{file.relative_to(source).as_posix().replace('/', '-')}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(file.read_bytes())
            place = snapshot / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(blob)
    (top / "refs").mkdir(exist_ok=True)
    (top / "refs" / revision).write_text(commit)
    return snapshot


def put_published(cache: Path, work: Path) -> None:
    """Lay down the configs of ``PUBLISHED``, with a tokenizer for the language models, and no weights."""
    for repository, config in PUBLISHED.items():
        folder = work / repository.replace("/", "-")
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        if config["model_type"] in ("llama", "qwen3"):
            for file in TOKENIZER.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
        put_in_cache(cache, repository, folder)


@contextmanager
def offline_cache(cache: Path) -> Iterator[Path]:
    """Make ``cache`` the Hub's cache, and forbid to ask the Hub."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub._fetch.cache_clear()
        yield cache
    hub._fetch.cache_clear()
