"""From an original picture to a view's pixels, and from uint8 pixels to what a tower reads.

Pictures cross worker pipes as uint8 and are normalised on the model's device. Resizing uses torch's uint8 antialiased
kernels: within one grey level of Pillow's bilinear and two of its bicubic, equal in 99 of 100 values
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
"""Channel statistics on the 0-1 scale: CLIP's published ones; SAM's are ImageNet's, given on the 0-255 scale."""


def resize_planes_u8(image_rgb_u8: NDArray[np.uint8], height: int, width: int, mode: str) -> NDArray[np.uint8]:
    """Antialiased resize of uint8 [H, W, 3] to planes [3, height, width]; ``mode`` bilinear or bicubic.

    Planes are what torch's kernel gives and networks read; going back to interleaved pixels costs more than the resize.
    """
    if image_rgb_u8.shape[:2] == (height, width):
        return np.ascontiguousarray(image_rgb_u8.transpose(2, 0, 1))
    source = image_rgb_u8 if image_rgb_u8.flags.writeable else image_rgb_u8.copy()
    planes = torch.from_numpy(source).permute(2, 0, 1)[None]
    resized = functional.interpolate(planes, (height, width), mode=mode, antialias=True, align_corners=False)
    return np.ascontiguousarray(resized[0].numpy())


def resize_u8(image_rgb_u8: NDArray[np.uint8], height: int, width: int, mode: str) -> NDArray[np.uint8]:
    """Antialiased resize of uint8 [H, W, 3] to [height, width, 3]; ``mode`` bilinear or bicubic."""
    return np.ascontiguousarray(resize_planes_u8(image_rgb_u8, height, width, mode).transpose(1, 2, 0))


def resize_pillow_u8(image_rgb_u8: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Pillow's bicubic resize, uint8 [H, W, 3] to [height, width, 3], for front-ends published with its pixels."""
    if image_rgb_u8.shape[:2] == (height, width):
        return image_rgb_u8
    return np.asarray(Image.fromarray(image_rgb_u8).resize((width, height), Image.Resampling.BICUBIC))


def stretch_plain_u8(frames_rgb_u8: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Bicubic resize of frames uint8 [T, H, W, 3] to planes [T, 3, side, side] as u-LLaVA resizes clips.

    Without antialiasing, cut to whole numbers; overshoot is clamped, where the original lets it wrap around.
    """
    planes = torch.from_numpy(np.ascontiguousarray(frames_rgb_u8)).permute(0, 3, 1, 2).float()
    resized = functional.interpolate(planes, (side, side), mode="bicubic", align_corners=False)
    return np.ascontiguousarray(resized.clamp(0, 255).to(torch.uint8).numpy())


def render_view(image_rgb_u8: NDArray[np.uint8], view: View, *, mode: str, fill: int) -> NDArray[np.uint8]:
    """Pixels of ``view`` as uint8 [3, h, w]; what the picture does not cover is ``fill``.

    ``pad_centre`` pads before resizing, as the published preprocessing does, so that the edge blends alike.
    """
    width, height = view.size_wh
    if view.kind == "pad_centre":
        image_rgb_u8 = pad_to_square_u8(image_rgb_u8, fill)
    new_height, new_width = (height, width) if view.kind in ("pad_centre", "stretch") else resized_hw(view)
    resized = resize_planes_u8(image_rgb_u8, new_height, new_width, mode)
    if view.kind == "short_side":
        left, top = (round(-offset) for offset in view.offset_xy)
        resized = resized[:, top : top + height, left : left + width]
    if resized.shape[1:] == (height, width):
        return np.ascontiguousarray(resized)
    canvas = np.full((3, height, width), fill, dtype=np.uint8)
    canvas[:, : resized.shape[1], : resized.shape[2]] = resized
    return canvas


def pad_to_square_u8(image_rgb_u8: NDArray[np.uint8], fill: int | tuple[int, int, int]) -> NDArray[np.uint8]:
    """Paste uint8 [H, W, 3] into the middle of a square [M, M, 3] of colour ``fill``, M = max(H, W)."""
    height, width = image_rgb_u8.shape[:2]
    side = max(height, width)
    if height == width:
        return image_rgb_u8
    square = np.full((side, side, 3), fill, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image_rgb_u8
    return square


def normalise_u8(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """uint8 [I, 3, h, w] -> (x / 255 - mean) / std in ``dtype``; a float tensor is taken as normalised already."""
    if pixels.dtype != torch.uint8:
        return pixels.to(dtype)
    spread = torch.tensor(std, device=pixels.device)
    scale = 1.0 / (255.0 * spread)
    shift = torch.tensor(mean, device=pixels.device) / spread
    return pixels.float().mul_(scale[None, :, None, None]).sub_(shift[None, :, None, None]).to(dtype)
