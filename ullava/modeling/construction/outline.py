"""A system in figures, without its weights: parameters of every part, visual tokens of images and videos.

The network is built on the meta device by the code that trains it, and the counts are the preprocessor's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ullava.config.schema import CoreConfig, ModelConfig, PartConfig
from ullava.config.site import Site
from ullava.errors import UserError
from ullava.examples import TokenCount
from ullava.hub import find_folder
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.build import System, read_system
from ullava.modeling.construction.trial import vision_of
from ullava.modeling.cores.native_processor import NativePreprocessor
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.vision.strategies import build_preprocessor, patch_of
from ullava.modeling.vision.strategy import VisionPreprocessor

LANGUAGE = "language model"
IMAGES = ((336, 336), (640, 480), (1024, 1024), (1920, 1080), (2000, 400))
"""Sizes (width, height) whose visual tokens are told."""


@dataclass(frozen=True, slots=True)
class Outline:
    """``parts``: parameters by part, in order. ``images``: visual tokens by size (W, H).

    ``video``: those of ``frames``; None for a core that reads no videos.
    """

    parts: dict[str, int]
    images: dict[tuple[int, int], TokenCount]
    video: TokenCount | None
    frames: int

    def lines(self) -> list[str]:
        """The figures as a table in words."""
        told = [f"parameters: {sum(self.parts.values()):,}"]
        told += [f"  {part:<22}{size:>16,}" for part, size in self.parts.items()]
        told.append("visual tokens")
        told += [f"  {f'{width} x {height}':<22}{_range(count):>16}" for (width, height), count in self.images.items()]
        if self.video is not None:
            told.append(f"  {f'video, {self.frames} frames':<22}{_range(self.video):>16}")
        return told


def outline(
    config: ModelConfig, folder: Path, images: Sequence[tuple[int, int]] = IMAGES, site: Site | None = None
) -> Outline:
    """Tell the figures of a ``model.yaml`` (below ``folder``) from what describes its parts; weights are not needed.

    A part that is not at hand is told from its own ``config``, where that says what it is (``model_type``). ``site``:
    see ``build_model``.

    Raises ConfigError for a part that is not at hand and not described, HubUnreachableError where it could be fetched.
    """
    written = site or Site(folder / "model.yaml")
    system = describe(config, folder, site)
    settings, native = system.settings, system.native
    with vision_of(written):
        with torch.device("meta"):
            model = UllavaForConditionalGeneration(settings)
        preprocessor = _preprocessor(settings, native)
    counts = {size: preprocessor.preprocess(np.zeros((size[1], size[0], 3), np.uint8)).count for size in images}
    if isinstance(preprocessor, NativePreprocessor) and not preprocessor.reads_videos:
        return Outline(_sizes(model), counts, None, 0)
    frames = np.zeros((settings.video_frames, 360, 640, 3), np.uint8)
    return Outline(_sizes(model), counts, preprocessor.preprocess_video(frames).count, len(frames))


def describe(config: ModelConfig, folder: Path, site: Site | None = None) -> System:
    """Read what describes the parts of a ``model.yaml`` (below ``folder``). Arguments and errors: see ``outline``.

    In the system's ``config`` parts that are not at hand are spelt out in sizes; there is a row for every word.
    """
    problems: list[UserError] = []
    described = _described(config, folder, site or Site(folder / "model.yaml"), problems)
    if problems:
        raise type(problems[0])([line for problem in problems for line in problem.problems])
    system = read_system(described, folder, site)
    words = system.settings.text_config
    words.vocab_size = max(words.vocab_size, len(system.tokenizer))
    return system


def _preprocessor(settings: UllavaConfig, native: Any) -> VisionPreprocessor:
    """What makes visual tokens of images: the vision strategy's part, or ``native``, the processor of a native core."""
    if native is not None:
        own = NativePreprocessor()
        own.take(native, native.tokenizer)
        return own
    return build_preprocessor(
        settings.strategy,
        side=settings.vision_config.image_size,
        patch=patch_of(settings),
        image_aspect_ratio=settings.image_aspect_ratio,
        spatial_merge_size=settings.spatial_merge_size,
        settings=settings.vision_settings,
    )


def _sizes(model: UllavaForConditionalGeneration) -> dict[str, int]:
    """Parameters of the language model, of the vision encoder's own parts, and of the heads."""
    language = {"language", "head"}
    parts = [(LANGUAGE if part.kind in language else part.name, part.prefixes) for part in model.core.parts()]
    known: list[tuple[str, tuple[str, ...]]] = [(LANGUAGE, ()), *parts]
    known += [("mask head (SAM)", ("mask_head.",)), ("box head", ("box_head.",))]
    sizes: Counter[str] = Counter({part: 0 for part, _ in known})
    for name, parameter in model.named_parameters():
        sizes[next(part for part, prefixes in known if name.startswith(prefixes))] += parameter.numel()
    return {part: size for part, size in sizes.items() if size}


def _range(count: TokenCount) -> str:
    return f"{count.low:,}" if count.exact else f"{count.low:,} to {count.high:,}"


def _described(value: Any, folder: Path, site: Site, problems: list[UserError]) -> Any:
    """Return a config whose parts that are not at hand are spelt out in sizes, where their ``config`` does that."""
    if isinstance(value, PartConfig) and value.path is not None:
        try:
            find_folder(value.path, folder, str(site.of("path")), revision=value.revision, weights=False)
        except UserError as error:
            if "model_type" in value.config and not isinstance(value, CoreConfig):
                return replace(value, path=None, revision=None)
            problems.append(error)
        return value
    if is_dataclass(value) and not isinstance(value, type):
        parts = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        return replace(value, **{key: _described(part, folder, site.of(key), problems) for key, part in parts.items()})
    return value
