"""What masks are cut by and which of them are kept; all of it is written into the file that is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ullava.errors import ConfigError

GRAB_CUT = "grabcut"


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoSettings:
    """``source``: ``grabcut``, or the name of a model. Shares are between 0 and 1.

    ``side``: GrabCut sees the objects of a class, with what is around them, on so many pixels a side at most, and goes
    over them ``iterations`` times; ``seed`` is of its random numbers. Boxes below ``min_area`` of the image stay uncut.
    A mask is kept that covers ``min_fill`` to ``max_fill`` of its box, and whose own box has an IoU of ``min_box_iou``
    with it: boxes of COCO are tight.
    ``fill``: a model's mask is widened until it covers this share of its box.
    ``min_iou``: with a file to agree with, the least IoU of the two masks.
    """

    source: str = GRAB_CUT
    side: int = 128
    iterations: int = 2
    seed: int = 0
    min_area: float = 0.002
    min_fill: float = 0.2
    max_fill: float = 0.95
    min_box_iou: float = 0.75
    min_iou: float = 0.7
    fill: float = 0.6

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing (ConfigError with all of them)."""
        shares = ("min_area", "min_fill", "max_fill", "min_box_iou", "min_iou", "fill")
        problems = [
            f"{name} has to be from 0 to 1, not {getattr(self, name)}"
            for name in shares
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.min_fill >= self.max_fill:
            problems.append(f"min_fill {self.min_fill} leaves nothing below max_fill {self.max_fill}")
        if not 32 <= self.side <= 4096:
            problems.append(f"side has to be from 32 to 4096 pixels, not {self.side}")
        if not 1 <= self.iterations <= 100:
            problems.append(f"iterations has to be from 1 to 100, not {self.iterations}")
        if not 0 <= self.seed < 2**31:
            problems.append(f"seed has to be from 0 to 2147483647, not {self.seed}")
        if problems:
            raise ConfigError(problems)

    def told(self, agreeing: bool) -> dict[str, Any]:
        """Return the settings that mean something, for the file's ``info``."""
        told = asdict(self)
        if self.source != GRAB_CUT:
            for name in ("side", "iterations", "seed"):
                del told[name]
        else:
            del told["fill"]
        if not agreeing:
            del told["min_iou"]
        return told
