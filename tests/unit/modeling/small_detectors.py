"""GroundingDINO and its MM sibling at the smallest sizes that keep every part alive, random, with words to prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizerFast

DETECTOR: dict[str, Any] = {
    "model_type": "grounding-dino",
    "backbone_config": {
        "model_type": "swin", "image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
        "window_size": 2, "out_indices": [1, 2],
    },
    "text_config": {
        "model_type": "bert", "vocab_size": 1040, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    },
    "num_feature_levels": 3, "num_queries": 12, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "max_text_len": 16,
}  # fmt: skip


def box_override(kind: str, **settings: Any) -> str:
    """A command-line style override of model.yaml's ``box``, as YAML in one line."""
    import json

    sides = {"short_side": 32, "long_side": 48}
    return f"box={json.dumps({'kind': kind, **sides, 'detector': {'config': DETECTOR}, **settings})}"


def write_words(folder: Path) -> Path:
    """A BERT tokenizer of a few words; separators at the ids that transformers expects of every GroundingDINO."""
    words = [f"[unused{place}]" for place in range(1040)]
    places = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    places |= {200: "thing", 201: "red", 202: "circle", 203: "square"}
    for place, word in places.items():
        words[place] = word
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab={word: place for place, word in enumerate(words)}).save_pretrained(str(folder))
    return folder


@torch.no_grad()
def wake(detector: Any) -> None:
    """Give random boxes to a fresh detector: transformers starts the last layer of its box heads at zero."""
    draw = torch.Generator().manual_seed(7)
    for name, parameter in sorted(detector.named_parameters()):
        if "bbox_embed" in name or "_param" in name:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
