"""How large the mask heads are at their published sizes, and how long they take for an image and for a mask.

Random weights: neither size nor time depends on them. Sizes: the config files of the checkpoints, which for SAM 2 are
those of its repository (sam2.1_hiera_{t,s,b+,l}.yaml).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ullava.benchmarks.timing import Figure, measure, wait_for
from ullava.errors import UserError, did_you_mean
from ullava.examples import HeadImages
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.build import set_attention
from ullava.modeling.heads.mask_contract import Pyramid
from ullava.modeling.heads.mask_table import build_mask_head, mask_row
from ullava.modeling.towers.table import tower_of

STATE_WIDTH = 576
"""Of the language model's states: SmolLM2-135M's."""
MASKS = 4
"""That are asked for in one image."""
ENCODER = ("sam.vision_encoder.", "sam.no_memory_embedding")
"""Prefixes of the weights of a head's own image encoder."""


def _hiera(
    width: int, blocks: Sequence[int], whole: Sequence[int], heads: int = 1, **changes: Any
) -> dict[str, dict[str, Any]]:
    """A SAM 2 whose Hiera has so many ``blocks`` in its stages, those with the numbers ``whole`` seeing all places."""
    widths = [width * 2**stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": heads,
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [heads * 2**stage for stage in range(4)],
        "blocks_per_stage": list(blocks),
        "global_attention_blocks": list(whole),
        **changes,
    }
    return {"vision_config": {"backbone_config": backbone, "backbone_channel_list": widths[::-1]}}


_REPVIT = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "num_classes": 0,
    "label_names": [],
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}


@dataclass(frozen=True, slots=True)
class HeadSize:
    """One row: ``kind`` and ``encoder`` as in model.yaml, and the sizes; ``vision`` those of the tower it reads."""

    kind: str
    sizes: Mapping[str, Any]
    encoder: str = "own"
    vision: Mapping[str, Any] | None = None

    def config(self) -> UllavaConfig:
        """A model with this head; the rest of it does not matter."""
        sizes: dict[str, Any] = {f"{self.kind}_config": {**self.sizes, "model_type": self.model_type()}}
        made = UllavaConfig(
            mask_kind=self.kind,
            mask_encoder=self.encoder,
            vision_config=None if self.vision is None else dict(self.vision),
            **sizes,
        )
        set_attention(made, "sdpa")
        return made

    def model_type(self) -> str:
        """That of the sizes."""
        return str(mask_row(self.kind, self.encoder).config.model_type)

    def lacks(self) -> str | None:
        """See MaskHeadKind."""
        return mask_row(self.kind, self.encoder).lacks()


HEADS: Mapping[str, HeadSize] = {
    "sam-vit-b": HeadSize("sam", {}),
    "sam2.1-tiny": HeadSize("sam2", _hiera(96, [1, 2, 7, 2], [5, 7, 9])),
    "sam2.1-small": HeadSize("sam2", _hiera(96, [1, 2, 11, 2], [7, 10, 13])),
    "sam2.1-base-plus": HeadSize(
        "sam2",
        _hiera(112, [2, 3, 16, 3], [12, 16, 20], 2, window_positional_embedding_background_size=[14, 14]),
    ),
    "sam2.1-large": HeadSize("sam2", _hiera(144, [2, 6, 36, 4], [23, 33, 43], 2, window_size_per_stage=[8, 4, 16, 8])),
    "edgetam": HeadSize("edgetam", {"vision_config": {"backbone_config": _REPVIT}}),
    "sam3-tracker": HeadSize("sam3_tracker", {}),
    "photo": HeadSize(
        "sam2",
        {"hidden_size": 128, "mlp_dim": 512, "iou_head_hidden_dim": 128, "num_multimask_outputs": 0},
        encoder="vision",
        vision={"model_type": "efficientnet_lite", "image_size": 256},
    ),
}
"""Name -> the head. ``photo`` is that of models/photo, which has no encoder of its own."""


def head_sizes(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Name -> parameters in all, and those of the head's own image encoder; no memory is taken.

    Raises UserError for an unknown name, and for a head whose package is not installed.
    """
    sizes: dict[str, dict[str, int]] = {}
    for name in names:
        with torch.device("meta"):
            head = build_mask_head(_known(name).config(), STATE_WIDTH)
        own = [value for part, value in head.named_parameters() if part.startswith(ENCODER)]
        sizes[name] = {
            "parameters": sum(value.numel() for value in head.parameters()),
            "encoder_parameters": sum(value.numel() for value in own),
        }
    return sizes


def bench_mask_heads(names: Sequence[str], *, repeats: int, device: torch.device) -> list[Figure]:
    """Two figures for each head of ``names``: an image embedded, and a mask decoded, ``MASKS`` to an image at once.

    Raises UserError as ``head_sizes``.
    """
    return [figure for name in names for figure in _figures(name, _known(name), repeats, device)]


def sizes_table(sizes: Mapping[str, Mapping[str, int]]) -> str:
    """What ``head_sizes`` found as text, a line each."""
    lines = [f"{'':<18}{'parameters':>14}{'image encoder':>16}"]
    lines += [f"{name:<18}{row['parameters']:>14,}{row['encoder_parameters']:>16,}" for name, row in sizes.items()]
    return "\n".join(lines)


def _known(name: str) -> HeadSize:
    if name not in HEADS:
        raise UserError(f"unknown mask head '{name}'{did_you_mean(name, HEADS)}")
    return HEADS[name]


@torch.no_grad()
def _figures(name: str, size: HeadSize, repeats: int, device: torch.device) -> list[Figure]:
    config = size.config()
    torch.manual_seed(0)
    with torch.device(device):
        head = build_mask_head(config, STATE_WIDTH).eval()
    facts: dict[str, Any] = {"head": name, "side": config.sam_side, "masks": MASKS}
    shown = _shown(size, config, device)
    states = torch.randn(MASKS, STATE_WIDTH, device=device)
    first = torch.zeros(MASKS, dtype=torch.long, device=device)
    features = head.embed(shown, first[:1])  # the pass that warms up

    def embed() -> float:
        head.embed(shown, first[:1])
        wait_for(device)
        return 1.0

    def decode() -> float:
        head.decode(states, features, first)
        wait_for(device)
        return float(MASKS)

    return [
        measure(f"{name}: image embedded", "image", embed, repeats=repeats, warm_up=False, **facts),
        measure(f"{name}: mask decoded", "mask", decode, repeats=repeats, **facts),
    ]


def _shown(size: HeadSize, config: UllavaConfig, device: torch.device) -> HeadImages | Pyramid:
    """One image of random pixels, or the maps that the tower would have made of it."""
    if size.encoder == "own":
        side = config.sam_side
        pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, device=device)
        whole = torch.full((1, 2), side, device=device)
        return HeadImages(pixels=pixels, sizes=whole, row_of_image=torch.zeros(1, dtype=torch.long, device=device))
    levels = tower_of(config.vision_config).levels()
    return tuple(
        torch.randn(1, level.channels, config.sam_side // level.stride, config.sam_side // level.stride, device=device)
        for level in levels
    )
