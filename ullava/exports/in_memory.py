"""An answer as the objects of other libraries: supervision, FiftyOne, Pillow. Reached by the methods of ``Answer``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ullava.errors import UserError
from ullava.exports.fiftyone_files import crop, relative_box
from ullava.geometry import mask_to_box_xyxy_px
from ullava.inference.export import box_of
from ullava.inference.overlay import draw_overlay
from ullava.media.images import ImageLike, read_image_rgb_u8
from ullava.structures import Answer, GroundedObject


def to_supervision(answer: Answer, image: int | None = None) -> Any:
    """Return ``supervision.Detections``; see ``Answer.to_supervision``."""
    sv = _library("supervision")
    placed = [(item, box) for item in _on_image(answer, image) if (box := box_of(item)) is not None]
    if not placed:
        return sv.Detections.empty()
    items = [item for item, _ in placed]
    phrases = np.asarray([item.phrase for item in items])
    masks = [item.mask for item in items if item.mask is not None]
    blank = np.zeros_like(masks[0]) if masks else None
    return sv.Detections(
        xyxy=np.asarray([box for _, box in placed], np.float32),
        mask=None if blank is None else np.stack([blank if item.mask is None else item.mask for item in items]),
        confidence=np.asarray([item.score for item in items], np.float32),
        class_id=np.unique(phrases, return_inverse=True)[1].astype(int),
        data={
            "class_name": phrases,
            "phrase": phrases,
            "span": np.asarray([item.span for item in items]),
            "group": np.asarray([-1 if item.group is None else item.group for item in items]),
        },
    )


def to_fiftyone(answer: Answer, image: int | None = None, size_wh: tuple[int, int] | None = None) -> Any:
    """Return ``fiftyone.Detections``; see ``Answer.to_fiftyone``."""
    fo = _library("fiftyone")
    detections = []
    for item in _on_image(answer, image):
        tight = None if item.mask is None else mask_to_box_xyxy_px(item.mask)
        box = tight or item.box_xyxy_px
        if box is None:
            continue
        size = _size_wh(answer, item, size_wh)
        more: dict[str, Any] = {"span": list(item.span), "group": item.group}
        if item.mask is not None and tight is not None:
            more["mask"] = crop(item.mask, tight)
            if item.box_xyxy_px is not None:
                more["model_box"] = relative_box(item.box_xyxy_px, *size)
        detections.append(
            fo.Detection(
                label=item.phrase or "object", bounding_box=relative_box(box, *size), confidence=item.score, **more
            )
        )
    return fo.Detections(detections=detections)


def to_pil(answer: Answer, image: ImageLike | int | None = None, *, show_scores: bool = True) -> Image.Image:
    """Return the image with masks, boxes and labels drawn; see ``Answer.to_pil``."""
    place = image if isinstance(image, int) else None
    items = _on_image(answer, place)
    if image is None or isinstance(image, int):
        image = _shown_image(answer, items[0].image if items and place is None else place)
    return Image.fromarray(draw_overlay(read_image_rgb_u8(image), items, show_scores=show_scores))


def _on_image(answer: Answer, image: int | None) -> Sequence[GroundedObject]:
    """Return the objects of one image: of ``image``, or where all of them are on the same."""
    if image is not None:
        return [item for item in answer.objects if item.image == image]
    places = sorted({item.image for item in answer.objects})
    if len(places) > 1:
        raise UserError(f"the objects are on the images {places}: say which of them is meant (image={places[0]})")
    return answer.objects


def _shown_image(answer: Answer, place: int | None) -> ImageLike:
    """Return the image of the question that the objects are on; without objects, the last."""
    if not answer.images:
        raise UserError("the answer does not know its image: give it (a path, a Pillow image or an array)")
    if place is not None and not 0 <= place < len(answer.images):
        raise UserError(f"image: the question had {len(answer.images)} images, from 0; there is no {place}")
    given: ImageLike = answer.images[-1 if place is None else place]
    return given


def _size_wh(answer: Answer, item: GroundedObject, size_wh: tuple[int, int] | None) -> tuple[int, int]:
    """Return the (W, H) of an object's image."""
    if item.mask is not None:
        return item.mask.shape[1], item.mask.shape[0]
    if size_wh is not None:
        return size_wh
    if not answer.images:
        raise UserError("a box without a mask does not tell the image's size: give size_wh=(width, height)")
    height, width = read_image_rgb_u8(_shown_image(answer, item.image)).shape[:2]
    return width, height


def _library(name: str) -> ModuleType:
    """Import a library that only these methods need. Raises UserError naming the extra where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"to_{name}() needs {name}; install the extra: pip install 'ullava[{name}]'") from error
