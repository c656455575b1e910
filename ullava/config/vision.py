"""The vision encoder's part of ``model.yaml``: what every vision strategy has, and a table of settings for each of its
own.

The table of a strategy is a frozen dataclass with a default for every field; it is ``None`` in the YAML unless the
strategy is chosen and something differs from the defaults. A ``PartConfig`` in it is a network of transformers, whose
config is saved with the model and whose weights are read from its ``path``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ullava.config.fields import above, at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class PartConfig:
    """A transformers part: ``path`` of pretrained weights, or ``config`` (with ``model_type``) to build it afresh.

    ``path`` is a folder or an id of the Hugging Face Hub (ullava.hub), of which ``revision`` chooses a branch, tag or
    commit. With both, ``config`` changes single values of the one that lies at ``path``.
    """

    path: str | None = None
    revision: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a revision of nothing (ValueError)."""
        if self.revision is not None and self.path is None:
            raise ValueError("revision is that of an id of the Hub, and there is no path")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipMlpConfig:
    """Plain vision encoder (strategy ``clip_mlp``; u-LLaVA).

    ``frame_grid`` n: a video's frame gives n x n temporal tokens, the means of its fields. At 1, as published, a
    temporal token is the mean of the whole frame and tells what is in it, but hardly where (models/tiny/README.md).
    """

    frame_grid: int = field(default=1, metadata=at_least(1, 256))


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvConfig:
    """ConvNeXt vision encoder (strategy ``conv``; ConvLLaVA).

    ``area``: with ``image_aspect_ratio: any`` an image may have this many times the pixels of the square of side R. At
    1 no image gives more tokens than the square; far above it the short side is R, as in the paper's any-ratio test.
    ``video_side``: side of the square of each frame. ``video``: ``frames`` gives all tokens of every frame,
    ``pooled`` the mean of each frame and the mean over time of each place.
    """

    area: float = field(default=1.0, metadata=above(0, 10_000))
    video_side: int = field(default=768, metadata=at_least(1, 8192))
    video: Literal["frames", "pooled"] = "frames"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimeConfig:
    """Tiles chosen by the question (strategy ``slime``; SliME).

    ``top_p``: local tokens are kept while the sum of their shares is at most this; 1 keeps all. ``temperature``,
    ``reduce``: the shares are softmax(score / temperature) of the sum or the mean of a token's cosines with the words
    asked; the mean does not depend on how many words there are, and at 0.025 weighs as the released sum at 1 over
    forty. ``gate``: how the global view's experts are mixed; ``view``: which views are seen (stages train one at a
    time). ``noise``: which matrix scales the gate's noise in training (``gate``: what the released code does).
    ``local_side``: a tile gives local_side^2 tokens. ``separator``: the word between global and local tokens.
    ``min_top_p``: the least share for rows that ask for masks or boxes. ``heads``: attention heads of the resampler.
    ``max_tiles``: an image has at most so many.
    """

    top_p: float = field(default=0.95, metadata=at_least(0))
    temperature: float = field(default=0.025, metadata=above(0))
    reduce: Literal["mean", "sum"] = "mean"
    gate: Literal["learned", "mlp", "resampler"] = "learned"
    view: Literal["both", "global", "local"] = "both"
    noise: Literal["noise", "gate"] = "noise"
    heads: int = field(default=8, metadata=at_least(1, 1024))
    local_side: int = field(default=12, metadata=at_least(1, 256))
    max_tiles: int = field(default=7, metadata=at_least(2, 1024))
    separator: str = ","
    min_top_p: float = field(default=0.0, metadata=at_least(0))

    def __post_init__(self) -> None:
        """Refuse a share above 1 (ValueError)."""
        for name in ("top_p", "min_top_p"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} {getattr(self, name)}: a share is 1 at most")


def _convnext_large() -> PartConfig:
    """The first four stages of ConvNeXt-L."""
    sizes = {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3], "num_stages": 4}
    return PartConfig(config={"model_type": "convnext", **sizes})


@dataclass(frozen=True, kw_only=True, slots=True)
class MgConfig:
    """Two resolutions and a token for each object (strategy ``mg``; MG-LLaVA).

    ``pyramid``: a ConvNeXt, which sees the image so large that its last map has the tower's grid. ``fusion``: how
    that map meets the tower's states; ``pooling``: what an object token is the mean of; ``embed_boxes``: it also tells
    where its box lies (not published). ``max_boxes``: how many objects an image may have; ``box_rule``: ``top`` keeps
    the best by score, ``released`` does as published, with its cap by class and its filler box. ``frame_pool`` n joins
    n x n tokens of a video's frame.
    """

    pyramid: PartConfig = field(default_factory=_convnext_large)
    fusion: Literal["gate", "gate_concat", "concat", "raw_concat"] = "gate"
    pooling: Literal["pyramid", "last_only", "multi_level"] = "pyramid"
    embed_boxes: bool = False
    max_boxes: int = field(default=100, metadata=at_least(0, 10_000))
    box_rule: Literal["top", "released"] = "top"
    frame_pool: int = field(default=2, metadata=at_least(1, 256))


@dataclass(frozen=True, kw_only=True, slots=True)
class AvgConfig:
    """As many tokens as the question needs (strategy ``avg``; AVG-LLaVA).

    ``levels``: tokens per crop to choose between (none: all that the tower's grid has); a video has the first
    ``video_levels`` of the grid's, coarsest first. ``granularity``: always this level, as before the router is trained
    (none: the router chooses). ``image_grid_pinpoints``: shapes of tilings, [columns, rows]. ``text_slots``: words of
    the question that the router reads; ``heads``, ``dropout`` are those of its layer; ``min_level``: the coarsest level
    that it may choose for rows that ask for masks or boxes (none: any). ``attention_axis: crops`` and
    ``unpad: cells`` reproduce two defects of the released code, for released weights (docs/vision_encoders.md).
    """

    levels: list[int] = field(default_factory=list)
    video_levels: int = field(default=3, metadata=at_least(1, 64))
    granularity: int | None = None
    image_grid_pinpoints: list[list[int]] = field(default_factory=lambda: [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]])
    text_slots: int = field(default=32, metadata=at_least(1, 65_536))
    heads: int = field(default=8, metadata=at_least(1, 1024))
    dropout: float = field(default=0.1, metadata={"at_least": 0, "below": 1})
    attention_axis: Literal["tokens", "crops"] = "tokens"
    unpad: Literal["pixels", "cells"] = "pixels"
    min_level: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionConfig:
    """Questions may point at regions of an image, ``<region>`` for each (docs/regions.md).

    ``grid`` n: a region becomes n x n tokens, each the mean of its field of the region.
    """

    grid: int = field(default=1, metadata=at_least(1, 8))


SETTINGS: dict[str, type[Any]] = {
    "clip_mlp": ClipMlpConfig,
    "conv": ConvConfig,
    "slime": SlimeConfig,
    "mg": MgConfig,
    "avg": AvgConfig,
}
"""Strategy -> its own table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """The vision encoder: strategy, tower, and how its tokens reach the language width (docs/vision_encoders.md).

    ``spatial_merge_size`` n joins n x n neighboring patches into one visual token (side by side, before the projector).
    ``video_frames``: how many frames of a video are seen. ``image_aspect_ratio``: how an image becomes the tower's
    square; ``any`` (strategy ``conv``) keeps its shape, in multiples of the tower's stride.

    ``strategy``: how an image becomes tokens; ``clip_mlp``, ``conv``, ``slime``, ``mg``, ``avg``: the chosen one's own
    settings. ``tower``: the network that sees. ``vision_feature_layer``: which of its hidden states is read; -1 is the
    last. ``projector``: one linear layer, or two with a GELU between. ``regions``: questions may point at regions; none
    without it.
    """

    strategy: Literal["clip_mlp", "conv", "slime", "mg", "avg"] = "clip_mlp"
    tower: PartConfig
    vision_feature_layer: int = field(default=-2, metadata=at_least(-1024, 1024))
    projector: Literal["linear", "mlp2x"] = "mlp2x"
    image_aspect_ratio: Literal["pad", "stretch", "crop", "any"] = "pad"
    spatial_merge_size: int = field(default=1, metadata=at_least(1, 256))
    video_frames: int = field(default=8, metadata=at_least(1, 4096))
    regions: RegionConfig | None = None
    clip_mlp: ClipMlpConfig | None = None
    conv: ConvConfig | None = None
    slime: SlimeConfig | None = None
    mg: MgConfig | None = None
    avg: AvgConfig | None = None

    def __post_init__(self) -> None:
        """Refuse settings that belong to another strategy (ValueError)."""
        chosen: str = self.strategy
        for name in SETTINGS:
            if getattr(self, name) is not None and name != chosen:
                raise ValueError(f"the table {name} belongs to strategy {name}, not to {chosen}")
        if self.image_aspect_ratio == "any" and chosen != "conv":
            raise ValueError(f"image_aspect_ratio any belongs to strategy conv, not to {chosen}")
        if self.spatial_merge_size != 1 and chosen != "clip_mlp":
            raise ValueError(f"spatial_merge_size belongs to strategy clip_mlp, not to {chosen}")

    def settings(self) -> Any:
        """Return the chosen strategy's own table, its defaults where the YAML has none."""
        return getattr(self, self.strategy) or SETTINGS[self.strategy]()
