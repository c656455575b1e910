"""``core`` of model.yaml: how language and vision meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ullava.config.fields import at_least
from ullava.config.vision import PartConfig

VIDEO_FRAMES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreConfig(PartConfig):
    """``kind``: ``spliced``, where ``language`` and ``vision`` of model.yaml meet, or ``native``, one
    image-text-to-text model.

    ``path`` names its weights, or ``config`` (with ``model_type``) describes one to build afresh. Its own processor
    brings tokenizer, chat template and the preparation of images; it lies in the folder ``processor`` (or id of the
    Hub), where that is not ``path`` (docs/cores.md). ``video_frames``: how many frames of a video a native core sees;
    ``vision`` says it for a spliced one.
    """

    kind: Literal["spliced", "native"] = "spliced"
    processor: str | None = None
    video_frames: int = field(default=VIDEO_FRAMES, metadata=at_least(1, 4096))

    def __post_init__(self) -> None:
        """Refuse keys of the other kind, and a native core of nothing (ValueError)."""
        PartConfig.__post_init__(self)
        if self.kind == "spliced" and (self.path or self.config or self.processor):
            raise ValueError("kind spliced takes no path, config or processor: name the parts in language and vision")
        if self.kind == "spliced" and self.video_frames != VIDEO_FRAMES:
            raise ValueError("kind spliced takes no video_frames: say it in vision.video_frames")
        if self.kind == "native" and not self.path and "model_type" not in self.config:
            raise ValueError("kind native needs the path of an image-text-to-text model, or its config with model_type")
        if self.kind == "native" and not self.path and not self.processor:
            raise ValueError("kind native without a path needs a processor: a folder or an id of the Hub")
