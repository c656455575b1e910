"""From a scene to its image and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ullava.structures import ImageArray, MaskArray
from ullava.synthetic.outlines import RING_HOLE
from ullava.synthetic.scene import CORE_RADIUS, Scene, Thing, numpy_rng_of

FloatImage = NDArray[np.float32]

_OVERSAMPLE = 4
_SHIFT_BITS = 4
_CIRCLE = np.stack([np.cos(np.arange(32) * math.pi / 16), np.sin(np.arange(32) * math.pi / 16)], axis=1)
_SECOND_TONE = {"yellow": 0.64, "cyan": 0.62, "white": 0.7}
"""Colours too light for a lighter second tone get a darker one: this times the colour."""


@dataclass(frozen=True, slots=True, eq=False)
class RenderedScene:
    """A drawn scene: ``image_rgb_u8`` [H, W, 3], ``masks`` bool [n, H, W] in the order of the things.

    Masks are where an object covers more than half of a pixel; they are disjoint. ``cores``, bool [n, H, W], are the
    inner dots, each inside its object's mask, empty where an object has none.
    """

    image_rgb_u8: ImageArray
    masks: MaskArray
    cores: MaskArray


def _muted(rng: np.random.Generator, value: float) -> FloatImage:
    """An RGB colour of low saturation and brightness ``value`` (0 to 255)."""
    tint = rng.uniform(-1, 1, 3)
    tint -= tint.mean()
    return (value + tint * rng.uniform(0, 0.12) * value).astype(np.float32)


def _pattern(rng: np.random.Generator, width: int, height: int) -> FloatImage:
    """A grey pattern [H, W] in [0, 1]: gradient, cloud, stripes, checks or blobs."""
    angle = rng.uniform(0, 2 * math.pi)
    x = np.arange(width, dtype=np.float32)[None, :] - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    kind = int(rng.integers(5))
    if kind == 0:
        along = x * math.cos(angle) + y * math.sin(angle)
        return np.asarray((along - along.min()) / np.ptp(along), dtype=np.float32)
    if kind == 1:
        grid = rng.random((int(rng.integers(3, 9)), int(rng.integers(3, 9))), dtype=np.float32)
        return np.clip(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    period = rng.uniform(14, 34)
    if kind == 2:
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period))
        return np.asarray(np.clip(0.5 + 2 * wave, 0, 1), dtype=np.float32)
    if kind == 3:
        wave = np.sin(x * (2 * math.pi / period)) * np.sin(y * (2 * math.pi / period))
        return np.asarray(np.clip(0.5 + 3 * wave, 0, 1), dtype=np.float32)
    blobs = np.zeros((height // 4, width // 4), dtype=np.uint8)
    for _ in range(int(rng.integers(3, 8))):
        centre = (int(rng.integers(width // 4)), int(rng.integers(height // 4)))
        axes = (int(rng.integers(3, 10)), int(rng.integers(3, 10)))
        cv2.ellipse(blobs, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    soft = cv2.resize(cv2.GaussianBlur(blobs, (5, 5), 0), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft, dtype=np.float32) / np.float32(255)


def background(rng: np.random.Generator, width: int, height: int) -> FloatImage:
    """A muted background [H, W, 3], 0 to 255: never so bright or colourful that it could pass for an object."""
    value = rng.uniform(62, 138)
    low, high = _muted(rng, value), _muted(rng, value + rng.uniform(10, 38))
    image: FloatImage = low + _pattern(rng, width, height)[..., None] * (high - low)
    if rng.random() < 0.5:
        grain = rng.standard_normal((height, width), dtype=np.float32) * rng.uniform(1.5, 4)
        image += grain[..., None]
    return image


def _coverage(outlines: list[NDArray[np.float64]], width: int, height: int) -> FloatImage:
    """How much of each pixel [height, width] lies inside ``outlines`` (even-odd), 0 to 1."""
    fine = np.zeros((height * _OVERSAMPLE, width * _OVERSAMPLE), dtype=np.uint8)
    scale = _OVERSAMPLE * (1 << _SHIFT_BITS)
    half = 1 << (_SHIFT_BITS - 1)
    points = [np.rint(outline * scale - half).astype(np.int32) for outline in outlines]
    cv2.fillPoly(fine, points, 255, lineType=cv2.LINE_8, shift=_SHIFT_BITS)
    return np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32) / np.float32(
        255
    )


def _paint(rng: np.random.Generator, thing: Thing, width: int, height: int) -> FloatImage:
    """The object's colour field [height, width, 3]: plain, or with stripes or dots of a lighter or darker tone."""
    base = np.array(thing.rgb, dtype=np.float32)
    if thing.texture == "plain":
        return np.broadcast_to(base, (height, width, 3))
    darker = _SECOND_TONE.get(thing.colour)
    other = base * 0.45 + 255 * 0.55 if darker is None else base * darker
    angle = rng.uniform(0, math.pi)
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    u = x * math.cos(angle) + y * math.sin(angle)
    grain = thing.world.small_grain if thing.size == "small" else thing.world.large_grain
    period = grain.period_px
    if thing.texture == "striped":
        share = np.clip(0.5 + 1.6 * np.sin(u * (2 * math.pi / period)), 0, 1)
    else:
        v = y * math.cos(angle) - x * math.sin(angle)
        du, dv = u % period - period / 2, v % period - period / 2
        share = np.clip(grain.radius_px + 0.5 - np.sqrt(du * du + dv * dv), 0, 1)
    if thing.world.even:
        share = share - share.mean()
    return np.asarray(base + share[..., None].astype(np.float32) * (other - base), dtype=np.float32)


def core_radius_px(thing: Thing) -> float:
    """Radius of the object's core in pixels."""
    return max(thing.world.core_px, CORE_RADIUS * thing.diameter_px)


def render(scene: Scene) -> RenderedScene:
    """Draw ``scene``; the same scene gives the same bytes."""
    rng = numpy_rng_of(scene.split, scene.seed, scene.index)
    image = background(rng, scene.width, scene.height)
    masks = np.zeros((len(scene.things), scene.height, scene.width), dtype=np.bool_)
    cores = np.zeros_like(masks)
    for number, thing in enumerate(scene.things):
        draw_thing(rng, thing, image, masks[number], cores[number])
    return RenderedScene(to_pixels(image), masks, cores)


def to_pixels(image: FloatImage) -> ImageArray:
    """Round a drawn image [H, W, 3] to uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def draw_thing(rng: np.random.Generator, thing: Thing, image: FloatImage, mask: MaskArray, core: MaskArray) -> None:
    """Draw one object onto ``image`` [H, W, 3]; set ``mask`` and ``core`` [H, W] where it and its inner dot are."""
    height, width = image.shape[:2]
    points = thing.outline_px + np.array(thing.centre_px)
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + 1
    right, bottom = min(right, width), min(bottom, height)
    corner = np.array([left, top], dtype=np.float64)
    outlines = [points - corner]
    if thing.shape == "ring":
        outlines.append(thing.outline_px * RING_HOLE + np.array(thing.centre_px) - corner)
    size = (int(right - left), int(bottom - top))
    cover = _coverage(outlines, *size)
    window = image[top:bottom, left:right]
    window += cover[..., None] * (_paint(rng, thing, *size) - window)
    mask[top:bottom, left:right] = cover > 0.5
    if thing.core is not None:
        middle = np.array(thing.centre_px) + np.array(thing.core_px) - corner
        inner = _coverage([_CIRCLE * core_radius_px(thing) + middle], *size)
        window += inner[..., None] * (np.array(thing.core_rgb, dtype=np.float32) - window)
        core[top:bottom, left:right] = (inner > 0.5) & (cover > 0.5)
