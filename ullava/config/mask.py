"""The mask head of a ``model.yaml``. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ullava.config.vision import PartConfig

MASK_ENCODERS: dict[str, tuple[str, ...]] = {
    "sam": ("own",),
    "sam2": ("own", "vision"),
    "edgetam": ("own",),
    "sam3_tracker": ("own",),
    "sam2_video": ("own",),
    "edgetam_video": ("own",),
}
"""``mask.kind`` -> what may encode images for it."""


WITH_MEMORY = ("sam2_video", "edgetam_video")
"""Kinds that carry a mask through a video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskHeadConfig:
    """``[SEG]`` -> a mask decoder of ``kind``. ``score``: its quality estimate, or the mean foreground probability.

    ``sam``, ``sam2``, ``edgetam`` and ``sam3_tracker`` (SAM 3 without its detector) are whole segmenters, which encode
    images by themselves (``encoder: own``). With ``encoder: vision``, ``sam2`` are the sizes of SAM 2's mask decoder
    alone, which reads the maps of the vision tower and starts afresh. The score of all but ``sam`` is the quality
    estimate, times how likely the thing is there at all.
    ``sam2_video`` and ``edgetam_video`` are ``sam2`` and ``edgetam`` with their memory of frames: masks in images are
    made as by those, and in a video a mask is carried from frame to frame. ``repeat_prompt``: every frame of a video is
    prompted with the same ``[SEG]``, beside what is remembered; without, the first one alone, as SAM 2 is published.
    """

    sam: PartConfig | None = None
    sam2: PartConfig | None = None
    edgetam: PartConfig | None = None
    sam3_tracker: PartConfig | None = None
    sam2_video: PartConfig | None = None
    edgetam_video: PartConfig | None = None
    kind: Literal["sam", "sam2", "edgetam", "sam3_tracker", "sam2_video", "edgetam_video"] = "sam"
    encoder: Literal["own", "vision"] = "own"
    score: Literal["iou_head", "mean_probability"] = "iou_head"
    repeat_prompt: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other (ValueError)."""
        if getattr(self, self.kind) is None:
            raise ValueError(f"kind {self.kind} needs the table {self.kind}")
        for other in MASK_ENCODERS:
            if other != self.kind and getattr(self, other) is not None:
                raise ValueError(f"kind {self.kind} takes no table {other}")
        if self.encoder not in MASK_ENCODERS[self.kind]:
            raise ValueError(f"kind {self.kind} has an encoder of its own")
        if self.encoder == "vision" and self.part.path:
            raise ValueError(f"{self.kind}.path: a decoder on the vision tower starts afresh; give {self.kind}.config")
        if self.kind != "sam" and self.score != "iou_head":
            raise ValueError(f"kind {self.kind} scores by iou_head, times how likely the thing is there")
        if self.repeat_prompt and self.kind not in WITH_MEMORY:
            raise ValueError(f"kind {self.kind} has no memory of frames beside which a prompt could be repeated")

    @property
    def part(self) -> PartConfig:
        """The table of the chosen kind."""
        chosen: PartConfig = getattr(self, self.kind)
        return chosen
