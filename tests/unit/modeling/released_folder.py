"""Writes small random checkpoints as u-LLaVA publishes them: its names, sharded ``.bin``, its config, its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from test_weights_sam import TO_META
from tests.released_tokens import stage_tokens
from transformers import CLIPVisionConfig, LlamaConfig, SamConfig

from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.model.ullava import UllavaForConditionalGeneration

PIECES = 300
WORDS = (
    "the red cup and a blue plate stand on this table Sure Mask Location USER ASSISTANT where is it find all of them"
)


def write_tokenizer(folder: Path, *, stage: int = 2, without: tuple[str, ...] = ()) -> dict[str, int]:
    """``tokenizer.model`` and ``added_tokens.json``; return the added ids."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tokenizer.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([WORDS] * 4),
            model_writer=stream,
            model_type="bpe",
            vocab_size=PIECES,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    names = [token for token in stage_tokens(stage=stage, base_has_pad=False) if token not in without]
    ids = {name: PIECES + place for place, name in enumerate(names)}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    return ids


def small_model(vocabulary: int) -> UllavaForConditionalGeneration:
    """One of our models at the smallest sizes, random."""
    torch.manual_seed(11)
    grid = {"image_size": 32, "patch_size": 8}
    sam = SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "mlp_dim": 16, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 8, **grid,
        },
        prompt_encoder_config={"hidden_size": 16, **grid},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 8, "iou_head_hidden_dim": 16},
    )  # fmt: skip
    config = UllavaConfig(
        text_config=LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        ),
        sam_config=sam,
        projector="linear",
        box_width=16,
        box_frame="padsq",
        box_sigmoid=False,
    )
    model = UllavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def released_names(model: UllavaForConditionalGeneration, *, old: bool = False) -> dict[str, torch.Tensor]:
    """The state dict by stage II's names; ``old``: before the box head existed."""
    import re

    parts = (
        ("language_model.", "llm."),
        ("vision.tower.", "llm.vision_encoder.vision_model."),
        ("vision.projector.", "llm.vision_projector."),
        ("mask_head.projector.", "text_hidden_fcs." if old else "seg_projector."),
        ("box_head.projector.", "det_projector."),
        ("box_head.decoder.", "det_decoder."),
    )
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("mask_head.sam."):
            inner = name.removeprefix("mask_head.sam.")
            if inner == "prompt_encoder.shared_embedding.positional_embedding":
                continue
            for pattern, replacement in TO_META:
                changed = re.sub(pattern, replacement, inner)
                if changed != inner:
                    inner = changed
                    break
            state[f"visual_model.{inner}"] = tensor
            continue
        ours, theirs = next((pair for pair in parts if name.startswith(pair[0])), ("", ""))
        if not (old and theirs.startswith("det_")):
            state[theirs + name.removeprefix(ours)] = tensor
    state["llm.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    state["llm.vision_encoder.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    return state


def core_config(model: UllavaForConditionalGeneration, ids: dict[str, int]) -> dict[str, Any]:
    """The stage I config, as sparse as released ones are."""
    text, vision = model.config.text_config, model.config.vision_config
    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    names = {"IMG_PATCH": "<image_patch>", "IMG_START": "<img_beg>", "IMG_END": "</img_end>"}
    names |= {"VID_PATCH": "<video_patch>", "VID_START": "<vid_beg>", "VID_END": "</vid_end>"}
    return {
        "model_type": "ullava_core",
        **{field: getattr(text, field) for field in fields},
        "rms_norm_eps": 1e-6,
        "vision_config": {size: getattr(vision, size) for size in sizes},
        "vision_hidden_layer": -2,
        "projector_from_scratch": True,
        "mm_token_ids": {key: ids[name] for key, name in names.items()},
    }


def write_shards(folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Two ``.bin`` shards with their index, and ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in shards.items():
        torch.save({name: state[name].clone() for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
