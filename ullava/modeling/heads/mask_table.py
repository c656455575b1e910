"""The closed table of mask heads: ``mask.kind`` and ``mask.encoder`` of model.yaml -> the part with weights and the
part without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    PreTrainedConfig,
    Sam2Config,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    SamConfig,
    SamModel,
)

from ullava.errors import UserError, did_you_mean
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.mask_contract import MaskHead, MaskRules
from ullava.modeling.heads.mask_memory import EdgeTamVideoMaskHead, VideoSegmenterMaskHead
from ullava.modeling.heads.mask_sam import MaskScore, SamMaskHead, SamMaskRules
from ullava.modeling.heads.mask_sam2 import Sam2MaskHead
from ullava.modeling.heads.mask_segmenter import SAM3_UNREAD, VIDEO_ONLY, Sam3TrackerMaskHead, SegmenterMaskHead
from ullava.modeling.heads.vision_view import StretchedViewRules, VisionViewRules
from ullava.modeling.loading.pretrained import read_config
from ullava.modeling.loading.strict_loading import load_part, read_part
from ullava.modeling.towers.table import tower_of


@dataclass(frozen=True, slots=True)
class MaskHeadKind:
    """One row of the table.

    ``plane_frame``: ``image_aspect_ratio`` -> the frame of boxes (``box.frame``) that are shares of the mask's plane;
    None where it is none of those. ``network``: a model's config and the width of its states -> the part with weights;
    ``rules``: the processor's settings (``build_mask_rules``) -> the part without. ``part``: the field of the model's
    config with its sizes, and ``config``: what they are. ``weights``: the network whose weights a ``path`` names, None
    where the head starts afresh; ``beside``: patterns of weights that lie with them and nobody here reads, ``unread``:
    of weights of that very network. ``package`` and ``extra``: what the network needs beside our own requirements.
    """

    plane_frame: Callable[[str], str | None]
    network: Callable[[UllavaConfig, int], MaskHead]
    rules: Callable[[Mapping[str, Any]], MaskRules]
    part: str
    config: type[PreTrainedConfig]
    weights: Any = None
    beside: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    package: str | None = None
    extra: str | None = None

    def lacks(self) -> str | None:
        """What to install before this head can be built, in words; None where all is there."""
        if self.package is None or find_spec(self.package) is not None:
            return None
        return f"needs the package {self.package}: pip install 'ullava[{self.extra}]'"


def _sam(config: UllavaConfig, width_in: int) -> MaskHead:
    return SamMaskHead(cast(SamConfig, config.sam_config), width_in)


def _sam2_on_tower(config: UllavaConfig, width_in: int) -> MaskHead:
    levels = tower_of(config.vision_config).levels()
    return Sam2MaskHead(cast(Sam2MaskDecoderConfig, config.sam2_config), levels, config.sam_side, width_in)


def _segmenter(
    head: type[SegmenterMaskHead], part: str, config: type[PreTrainedConfig], network: Any, **more: Any
) -> MaskHeadKind:
    """The row of a whole segmenter, which sees the stretched image by an encoder of its own."""
    return MaskHeadKind(
        plane_frame=lambda _: "norm",
        network=lambda model, width_in: head(model.mask_part, width_in, network),
        rules=lambda settings: StretchedViewRules(int(settings["side"])),
        part=part,
        config=config,
        weights=network,
        **more,
    )


def _of_videos(
    head: type[VideoSegmenterMaskHead], part: str, config: type[PreTrainedConfig], network: Any, **more: Any
) -> MaskHeadKind:
    """The row of a segmenter with a memory of frames."""

    def build(model: UllavaConfig, width_in: int) -> MaskHead:
        return head(model.mask_part, width_in, network, model.mask_repeat_prompt)

    return replace(_segmenter(head, part, config, network, **more), network=build)


TIMM = {"package": "timm", "extra": "edgetam"}
"""What EdgeTAM's encoder needs."""

MASK_HEADS: Mapping[tuple[str, str], MaskHeadKind] = {
    ("sam", "own"): MaskHeadKind(
        plane_frame=lambda _: None,
        network=_sam,
        rules=lambda settings: SamMaskRules(int(settings["side"]), cast(MaskScore, settings["score"])),
        part="sam_config",
        config=SamConfig,
        weights=SamModel,
    ),
    ("sam2", "own"): _segmenter(SegmenterMaskHead, "sam2_config", Sam2Config, Sam2Model, beside=VIDEO_ONLY),
    ("sam2", "vision"): MaskHeadKind(
        plane_frame={"stretch": "norm", "pad": "padsq"}.get,
        network=_sam2_on_tower,
        rules=lambda settings: VisionViewRules(int(settings["side"]), str(settings["image_aspect_ratio"])),
        part="sam2_config",
        config=Sam2MaskDecoderConfig,
    ),
    ("edgetam", "own"): _segmenter(
        SegmenterMaskHead, "edgetam_config", EdgeTamConfig, EdgeTamModel, beside=VIDEO_ONLY, **TIMM
    ),
    ("sam3_tracker", "own"): _segmenter(
        Sam3TrackerMaskHead, "sam3_tracker_config", Sam3TrackerConfig, Sam3TrackerModel, unread=SAM3_UNREAD
    ),
    ("sam2_video", "own"): _of_videos(VideoSegmenterMaskHead, "sam2_video_config", Sam2VideoConfig, Sam2VideoModel),
    ("edgetam_video", "own"): _of_videos(
        EdgeTamVideoMaskHead, "edgetam_video_config", EdgeTamVideoConfig, EdgeTamVideoModel, **TIMM
    ),
}
"""Kind and encoder -> the head. A kind keeps its sizes in one field of the model's config, whatever its encoder."""


def mask_row(kind: str, encoder: str) -> MaskHeadKind:
    """The row of a kind with an encoder. Raises UserError where there is none."""
    encoders = {known: [name for found, name in MASK_HEADS if found == known] for known, _ in MASK_HEADS}
    if kind not in encoders:
        raise UserError(f"unknown mask head '{kind}'{did_you_mean(kind, encoders)}")
    if encoder not in encoders[kind]:
        raise UserError(f"a mask head {kind} has the encoder {' or '.join(encoders[kind])}, not {encoder}")
    return MASK_HEADS[kind, encoder]


def build_mask_head(config: UllavaConfig, width_in: int) -> MaskHead:
    """Build the part with weights for states of ``width_in``.

    Raises UserError for a kind that is not in the table, and for one whose package is not installed.
    """
    row = mask_row(config.mask_kind, config.mask_encoder)
    if missing := row.lacks():
        raise UserError(f"mask.kind {config.mask_kind} {missing}")
    return row.network(config, width_in)


def build_mask_rules(settings: Mapping[str, Any]) -> MaskRules:
    """Build the part without weights from the processor's settings: ``kind``, ``encoder``, ``side``, ``score`` and
    ``image_aspect_ratio``.
    """
    return mask_row(settings["kind"], settings["encoder"]).rules(settings)


def load_mask_head(model: Any, folder: Path) -> None:
    """Move the pretrained weights in ``folder`` into the mask head of ``model``.

    Raises WeightsError for weights that are not whole, or of another size than the head.
    """
    row = mask_row(model.config.mask_kind, model.config.mask_encoder)
    config = read_config(folder, (row.config,))
    weights = read_part(row.weights, folder, beside=row.beside, unread=row.unread, config=config)
    load_part(model.mask_head.sam, weights, folder)
