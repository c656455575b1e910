"""A system in figures, without its weights: parameters of every part, visual tokens of pictures and videos.

The network is built on the meta device by the code that trains it, and the counts are the preprocessor's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ullava.config.known_parts import with_known_sizes
from ullava.config.schema import ModelConfig
from ullava.config.site import Site
from ullava.examples import TokenCount
from ullava.modeling.build import load_tokenizer, to_model_config
from ullava.modeling.strategies import build_preprocessor, patch_of
from ullava.modeling.trial import vision_of
from ullava.modeling.ullava import UllavaForConditionalGeneration
from ullava.text.tokens import GROUNDING_TOKENS, PAD

PICTURES = ((336, 336), (640, 480), (1024, 1024), (1920, 1080), (2000, 400))
"""Sizes (width, height) whose visual tokens are told."""


@dataclass(frozen=True, slots=True)
class Outline:
    """``parts``: parameters by part, in order. ``pictures``: visual tokens by size (W, H). ``video``: of ``frames``."""

    parts: dict[str, int]
    pictures: dict[tuple[int, int], TokenCount]
    video: TokenCount
    frames: int

    def lines(self) -> list[str]:
        """The figures as a table in words."""
        told = [f"parameters: {sum(self.parts.values()):,}"]
        told += [f"  {part:<22}{size:>16,}" for part, size in self.parts.items()]
        told.append("visual tokens")
        told += [
            f"  {f'{width} x {height}':<22}{_range(count):>16}" for (width, height), count in self.pictures.items()
        ]
        return [*told, f"  {f'video, {self.frames} frames':<22}{_range(self.video):>16}"]


def outline(
    config: ModelConfig, folder: Path, pictures: Sequence[tuple[int, int]] = PICTURES, site: Site | None = None
) -> Outline:
    """Tell the figures of a ``model.yaml`` (below ``folder``), whether the files of its parts are there or not.

    ``site``: see ``build_model``.

    Raises ConfigError for a part that is neither there nor known by name (ullava.config.known_parts).
    """
    spelt = with_known_sizes(config, folder)
    known = (folder / config.tokenizer).exists()
    tokenizer = load_tokenizer(config, folder, site) if known else _StandIn(int(spelt.language.config["vocab_size"]))
    settings = to_model_config(spelt, folder, tokenizer, site)
    with vision_of(site or Site(folder / "model.yaml")):
        with torch.device("meta"):
            model = UllavaForConditionalGeneration(settings)
        preprocessor = build_preprocessor(
            settings.strategy,
            side=settings.vision_config.image_size,
            patch=patch_of(settings),
            aspect=settings.aspect,
            merge=settings.merge,
            settings=settings.vision_settings,
        )
    counts = {size: preprocessor.preprocess(np.zeros((size[1], size[0], 3), np.uint8)).count for size in pictures}
    frames = np.zeros((settings.video_frames, 360, 640, 3), np.uint8)
    return Outline(_sizes(model), counts, preprocessor.preprocess_video(frames).count, len(frames))


def _sizes(model: UllavaForConditionalGeneration) -> dict[str, int]:
    """Parameters of the language model, of the front-end's own parts, and of the heads."""
    known: list[tuple[str, tuple[str, ...]]] = [("language model", ("language_model.",))]
    known += [(part.name, tuple(f"vision.{prefix}" for prefix in part.prefixes)) for part in model.vision.parts()]
    known += [("mask head (SAM)", ("mask_head.",)), ("box head", ("box_head.",))]
    sizes: Counter[str] = Counter({part: 0 for part, _ in known})
    for name, parameter in model.named_parameters():
        sizes[next(part for part, prefixes in known if name.startswith(prefixes))] += parameter.numel()
    return {part: size for part, size in sizes.items() if size}


def _range(count: TokenCount) -> str:
    return f"{count.low:,}" if count.exact else f"{count.low:,} to {count.high:,}"


class _StandIn:
    """In the place of a tokenizer that is not there: how many tokens it has, and where ours come."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.own = (PAD, *GROUNDING_TOKENS)

    def __len__(self) -> int:
        return self.vocabulary + len(self.own)

    def get_vocab(self) -> dict[str, int]:
        """Our own tokens behind the vocabulary; any other word is one token of it."""
        return _AnyWord({token: self.vocabulary + number for number, token in enumerate(self.own)})


class _AnyWord(dict[str, int]):
    def get(self, key: str, default: Any = None) -> Any:
        """Every word is in the vocabulary."""
        return super().get(key, 3)
