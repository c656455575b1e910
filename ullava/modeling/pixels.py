"""From an original image to a view's pixels, and from uint8 pixels to what a tower reads.

Images cross worker pipes as uint8 and are normalized on the model's device. Resizing uses torch's uint8 antialiased
kernels: within one gray level of Pillow's bilinear and two of its bicubic, equal in 99 of 100 values
(tests/unit/modeling/test_processing.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from ullava.geometry import View, resized_hw

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SAM_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
SAM_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
"""Channel statistics on the 0-1 scale: CLIP's published ones; SAM's are ImageNet's, given on the 0-255 scale; ``HALF``,
as mean and deviation, makes -1 to 1 of them.
"""

MAX_PLANE_PIXELS = 100_000_000
"""The largest plane that padding or cropping may make of an image on the way: 10,000 x 10,000, any camera's photo."""


def resize_planes_u8(image_rgb_u8: NDArray[np.uint8], height: int, width: int, mode: str) -> NDArray[np.uint8]:
    """Antialiased resize of uint8 [H, W, 3] to planes [3, height, width]; ``mode`` bilinear or bicubic.

    Planes are what torch's kernel gives and networks read; going back to interleaved pixels costs more than the resize.
    """
    if image_rgb_u8.shape[:2] == (height, width):
        return np.ascontiguousarray(image_rgb_u8.transpose(2, 0, 1))
    rows, columns = image_rgb_u8.shape[:2]
    if height < rows and columns < width and rows * width > MAX_PLANE_PIXELS:
        # torch widens all rows before it joins them, and a strip of a million rows would become a plane
        image_rgb_u8 = resize_u8(image_rgb_u8, height, columns, mode)
    fits = image_rgb_u8.flags.writeable and min(image_rgb_u8.strides) > 0  # torch takes no mirrored or read-only array
    planes = torch.from_numpy(image_rgb_u8 if fits else image_rgb_u8.copy()).permute(2, 0, 1)[None]
    resized = functional.interpolate(planes, (height, width), mode=mode, antialias=True, align_corners=False)
    return np.ascontiguousarray(resized[0].numpy())


def resize_u8(image_rgb_u8: NDArray[np.uint8], height: int, width: int, mode: str) -> NDArray[np.uint8]:
    """Antialiased resize of uint8 [H, W, 3] to [height, width, 3]; ``mode`` bilinear or bicubic."""
    return np.ascontiguousarray(resize_planes_u8(image_rgb_u8, height, width, mode).transpose(1, 2, 0))


def resize_pillow_u8(image_rgb_u8: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Pillow's bicubic resize, uint8 [H, W, 3] to [height, width, 3], for vision encoders published with its pixels."""
    if image_rgb_u8.shape[:2] == (height, width):
        return image_rgb_u8
    return np.asarray(Image.fromarray(image_rgb_u8).resize((width, height), Image.Resampling.BICUBIC))


def render_view(
    image_rgb_u8: NDArray[np.uint8], view: View, *, mode: str, fill: int | tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Pixels of ``view`` as uint8 [3, h, w]; what the image does not cover is ``fill``.

    ``mode``: ``bilinear`` or ``bicubic`` by torch's kernels, or ``pillow`` (its bicubic). ``pad_center`` pads before
    resizing, as the published preprocessing does, so that the edge blends alike, and ``short_side`` crops after
    resizing. Where that would hold more than ``MAX_PLANE_PIXELS``, it is the other way round: the same place within a
    pixel of the view, in memory bounded by the image and the view.
    """
    width, height = view.size_wh
    if view.kind == "pad_center":
        if max(view.orig_wh) ** 2 > MAX_PLANE_PIXELS:
            return _resized_then_padded(image_rgb_u8, view, mode, fill)
        return _resize(pad_to_square_u8(image_rgb_u8, fill), height, width, mode)
    if view.kind == "stretch":
        return _resize(image_rgb_u8, height, width, mode)
    new_height, new_width = resized_hw(view)
    left, top = (round(-offset) for offset in view.offset_xy) if view.kind == "short_side" else (0, 0)
    if view.kind == "short_side" and new_height * new_width > MAX_PLANE_PIXELS:
        image_rgb_u8 = _seen_part(image_rgb_u8, view)
        new_height, new_width, left, top = height, width, 0, 0
    resized = _resize(image_rgb_u8, new_height, new_width, mode)[:, top : top + height, left : left + width]
    if resized.shape[1:] == (height, width):
        return np.ascontiguousarray(resized)
    return _pasted(resized, view, fill, left=0, top=0)


def _resize(image_rgb_u8: NDArray[np.uint8], height: int, width: int, mode: str) -> NDArray[np.uint8]:
    if mode == "pillow":
        return np.ascontiguousarray(resize_pillow_u8(image_rgb_u8, height, width).transpose(2, 0, 1))
    return resize_planes_u8(image_rgb_u8, height, width, mode)


def _resized_then_padded(
    image_rgb_u8: NDArray[np.uint8], view: View, mode: str, fill: int | tuple[int, int, int]
) -> NDArray[np.uint8]:
    """``pad_center`` of an image whose padded square would be too large to hold."""
    planes = _resize(image_rgb_u8, *resized_hw(view), mode)
    left, top = (
        min(round(offset), length - kept)
        for offset, length, kept in zip(view.offset_xy, view.size_wh, planes.shape[:0:-1], strict=True)
    )
    return _pasted(planes, view, fill, left=left, top=top)


def _pasted(
    planes: NDArray[np.uint8], view: View, fill: int | tuple[int, int, int], *, left: int, top: int
) -> NDArray[np.uint8]:
    """Planes [3, h', w'] on the view's canvas [3, h, w] of color ``fill``."""
    canvas = np.empty((3, view.size_wh[1], view.size_wh[0]), dtype=np.uint8)
    canvas[:] = np.reshape(np.asarray(fill, np.uint8), (-1, 1, 1))
    canvas[:, top : top + planes.shape[1], left : left + planes.shape[2]] = planes
    return canvas


def _seen_part(image_rgb_u8: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """The pixels of the image that a view shows, to whole pixels."""
    corners = view.to_orig([0, 0, *view.size_wh])
    x0, y0, x1, y1 = (round(float(corner)) for corner in corners)
    return image_rgb_u8[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]


def pad_to_square_u8(image_rgb_u8: NDArray[np.uint8], fill: int | tuple[int, int, int]) -> NDArray[np.uint8]:
    """Paste uint8 [H, W, 3] into the middle of a square [M, M, 3] of color ``fill``, M = max(H, W)."""
    height, width = image_rgb_u8.shape[:2]
    side = max(height, width)
    if height == width:
        return image_rgb_u8
    square = np.full((side, side, 3), fill, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image_rgb_u8
    return square


def normalize_u8(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """uint8 [I, 3, h, w] -> (x / 255 - mean) / std in ``dtype``; a float tensor is taken as normalized already."""
    if pixels.dtype != torch.uint8:
        return pixels.to(dtype)
    spread = torch.tensor(std, device=pixels.device)
    scale = 1.0 / (255.0 * spread)
    shift = torch.tensor(mean, device=pixels.device) / spread
    return pixels.float().mul_(scale[None, :, None, None]).sub_(shift[None, :, None, None]).to(dtype)
