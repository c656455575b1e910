"""The kinds of synthetic worlds: how large images and objects are, and what is asked about them. Everything else is
one.

``plain`` is what models/tiny learns. ``detail`` needs eyes: more and smaller objects on larger and longer images, and
textures that are there at full size and gone when an image is made small, mean colour included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Grain:
    """A texture in pixels: from stripe to stripe or dot to dot, and the radius of a dot."""

    period_px: float
    radius_px: float


@dataclass(frozen=True, slots=True)
class World:
    """Sizes of one kind of world; lengths in pixels, canvases are (width, height).

    ``counts``: how many objects -> how often. ``small_px``, ``large_px``: diameters, ``salient_px`` that of the one
    that is far larger, in ``salient_share`` of the scenes. ``gap_px``: between boxes. ``textures``: weights of plain,
    striped and dotted. ``even``: a textured object has the mean colour of a plain one. ``core_px``: least radius of a
    core. ``asks``: kind of question -> how often.
    """

    name: str
    canvases: tuple[tuple[int, int], ...]
    counts: Mapping[int, int]
    small_px: Span
    large_px: Span
    salient_px: Span
    salient_share: float
    small_grain: Grain
    large_grain: Grain
    gap_px: float = 4.0
    textures: tuple[int, int, int] = (6, 2, 2)
    even: bool = False
    core_px: float = 3.6
    asks: Mapping[str, float] = field(default_factory=dict)


PLAIN = World(
    name="plain",
    canvases=((128, 128), (128, 96), (96, 128)),
    counts={2: 13, 3: 23, 4: 24, 5: 22, 6: 18},
    small_px=(21.0, 27.0),
    large_px=(36.0, 45.0),
    salient_px=(46.0, 56.0),
    salient_share=0.6,
    small_grain=Grain(6.5, 1.7),
    large_grain=Grain(9.0, 2.4),
    asks={
        "count": 0.22, "colour": 0.2, "shape": 0.18, "exists": 0.2, "compare": 0.1, "size": 0.06, "texture": 0.04,
    },
)  # fmt: skip

DETAIL = World(
    name="detail",
    canvases=((256, 256), (384, 128), (128, 384)),
    counts={5: 20, 6: 20, 7: 20, 8: 20, 9: 20},
    small_px=(12.0, 18.0),
    large_px=(24.0, 34.0),
    salient_px=(44.0, 54.0),
    salient_share=0.2,
    small_grain=Grain(3.4, 1.0),
    large_grain=Grain(3.8, 1.15),
    textures=(4, 3, 3),
    even=True,
    core_px=2.4,
    asks={
        "count": 0.12, "colour": 0.16, "shape": 0.14, "exists": 0.14, "compare": 0.06, "size": 0.1, "texture": 0.28,
    },
)  # fmt: skip

WORLDS: Mapping[str, World] = {world.name: world for world in (PLAIN, DETAIL)}
