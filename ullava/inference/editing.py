"""What a mask is good for besides showing it: cut a thing out, blur it or what is around it, exchange the background,
take the thing away.

Images are uint8 [H, W, 3] RGB, masks bool [H, W] of the same size; nothing is changed in place.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ullava.errors import UserError
from ullava.geometry import mask_to_box_xyxy_px
from ullava.structures import ImageArray, MaskArray

_GROUND = (255, 255, 255)


def cut_out(image: ImageArray, mask: MaskArray, soft_px: float = 0.0, crop: bool = True) -> ImageArray:
    """Return the thing alone, uint8 [h, w, 4]: RGB and how much of each pixel belongs to it (0 to 255).

    ``soft_px``: width of the soft edge, inwards and outwards (0: every pixel is in or out); ``crop``: only the part of
    the image that holds it, else the whole.

    Raises:
        ValueError: sizes that do not fit, a negative ``soft_px``. UserError: the mask is empty.
    """
    share = _share(image, mask, soft_px)
    alpha = np.rint(255 * share).astype(np.uint8)
    result: ImageArray = np.dstack([image, alpha])
    if not crop:
        return result
    x0, y0, x1, y1 = (int(value) for value in mask_to_box_xyxy_px(alpha > 0) or (0, 0, *image.shape[1::-1]))
    return result[y0:y1, x0:x1].copy()


def blur(image: ImageArray, mask: MaskArray, strength_px: float, *, around: bool = False) -> ImageArray:
    """Return the image [H, W, 3] with the thing blurred, or with ``around`` everything but the thing.

    ``strength_px``: standard deviation of the blur. Only pixels that are blurred are mixed with each other, so that no
    color of the sharp part runs into them.

    Raises:
        ValueError: sizes that do not fit, ``strength_px`` not above 0. UserError: the mask is empty.
    """
    if not strength_px > 0:
        raise ValueError(f"strength_px must be above 0, not {strength_px}")
    _check(image, mask)
    where = ~mask if around else mask
    weight = where.astype(np.float32)
    # OpenCV's kernel has 8-bit precision for 8-bit images, so the sums are taken in float.
    total = cv2.GaussianBlur(image.astype(np.float32) * weight[..., None], (0, 0), strength_px)
    share = cv2.GaussianBlur(weight, (0, 0), strength_px)
    mixed = total / np.maximum(share, 1e-6)[..., None]
    result = image.copy()
    result[where] = np.clip(np.rint(mixed[where]), 0, 255).astype(np.uint8)
    return result


def replace_background(
    image: ImageArray, mask: MaskArray, background: ImageArray | tuple[int, int, int] = _GROUND, soft_px: float = 0.0
) -> ImageArray:
    """Return the thing [H, W, 3] before another background: a color (RGB), or an image that is cut to fill the frame.

    ``soft_px``: see ``cut_out``.

    Raises:
        ValueError: sizes that do not fit, a background that is neither. UserError: the mask is empty.
    """
    share = _share(image, mask, soft_px)[..., None]
    height, width = image.shape[:2]
    if isinstance(background, tuple):
        if len(background) != 3 or not all(0 <= value <= 255 for value in background):
            raise ValueError(f"a color is three numbers from 0 to 255, not {background}")
        ground = np.broadcast_to(np.asarray(background, np.float32), image.shape)
    else:
        _check_image(background)
        ground = _filling(background, height, width).astype(np.float32)
    mixed = share * image.astype(np.float32) + (1 - share) * ground
    return np.rint(mixed).astype(np.uint8)


def erase(image: ImageArray, mask: MaskArray, grow_px: int = 3, radius_px: float = 5.0) -> ImageArray:
    """Return the image [H, W, 3] without the thing: its place is painted from what is around it (Telea, 2004).

    The mask is made ``grow_px`` wider first, since masks are seldom wide enough for soft edges; ``radius_px``: how far
    from a pixel its new color is taken. The whole image cannot be painted: there is nothing left to paint it from.

    Raises:
        ValueError: sizes that do not fit, a negative ``grow_px``. UserError: the mask is empty, or is the whole image.
    """
    _check(image, mask)
    if grow_px < 0:
        raise ValueError(f"grow_px must be 0 or more, not {grow_px}")
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow_px + 1, 2 * grow_px + 1))
    wide = cv2.dilate(mask.astype(np.uint8), disk)
    if wide.all():
        raise UserError("the mask covers the whole image: nothing is left to paint it from")
    painted = np.asarray(cv2.inpaint(image, wide, radius_px, cv2.INPAINT_TELEA), np.uint8)
    return np.where(wide[..., None] > 0, painted, image)


def _share(image: ImageArray, mask: MaskArray, soft_px: float) -> NDArray[np.float32]:
    """Return how much of each pixel belongs to the thing, [H, W] from 0 to 1."""
    _check(image, mask)
    if soft_px < 0:
        raise ValueError(f"soft_px must be 0 or more, not {soft_px}")
    hard = mask.astype(np.float32)
    if soft_px == 0:
        return hard
    soft: NDArray[np.float32] = np.clip(cv2.GaussianBlur(hard, (0, 0), soft_px), 0, 1)
    return soft


def _filling(picture: ImageArray, height: int, width: int) -> ImageArray:
    """Scale an image until it covers [height, width], and cut what stands out, the same on both sides."""
    factor = max(height / picture.shape[0], width / picture.shape[1])
    size_wh = (max(width, round(picture.shape[1] * factor)), max(height, round(picture.shape[0] * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    large = np.asarray(cv2.resize(picture, size_wh, interpolation=how), np.uint8)
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[top : top + height, left : left + width]


def _check(image: ImageArray, mask: MaskArray) -> None:
    _check_image(image)
    if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
        raise ValueError(f"the mask must be bool {list(image.shape[:2])}, not {mask.dtype} {list(mask.shape)}")
    if not mask.any():
        raise UserError("the mask is empty: nothing is there to edit")


def _check_image(image: ImageArray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
