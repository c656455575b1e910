"""Regions of the next question: a visitor clicks two corners of a box on the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from ullava.inference.overlay import PALETTE
from ullava.serving.page.dialog import VIDEO_SUFFIXES, Dialog
from ullava.serving.refusals import RefusedError
from ullava.serving.service import Service
from ullava.serving.sources import read_image
from ullava.structures import BoxXYXY, ImageArray, RegionPrompt
from ullava.text.tokens import REGION_MARKER

ASKING = "Click two opposite corners of a box."


@dataclass(frozen=True, slots=True)
class Pointed:
    """What a visitor points at: boxes on the image at ``path``, which is image ``place`` of the dialog, from 0.

    ``corner``: the first corner (x, y) of a box that is not whole yet, in pixels of the image.
    """

    path: Path | None = None
    place: int = 0
    corner: tuple[int, int] | None = None
    regions: tuple[RegionPrompt, ...] = ()

    def clicked(self, x: int, y: int) -> Pointed:
        """Return it with a corner, or with the box that the second one makes; the pixels of both corners are in it."""
        if self.corner is None:
            return replace(self, corner=(x, y))
        (left, right), (upper, lower) = sorted((self.corner[0], x)), sorted((self.corner[1], y))
        box: BoxXYXY = (float(left), float(upper), float(right + 1), float(lower + 1))
        return replace(self, corner=None, regions=(*self.regions, RegionPrompt(box, None, self.place)))

    def told(self) -> str:
        """Return the boxes in words, and what to do next."""
        boxes = [", ".join(f"{edge:.0f}" for edge in region.box_xyxy_px) for region in self.regions]
        lines = [f"{number}. {REGION_MARKER} is {box}" for number, box in enumerate(boxes, start=1)]
        return "\n".join([*lines, "Click the opposite corner." if self.corner is not None else ASKING])


class Pointing:
    """Handlers of the tab. ``folder``: where gradio keeps the visitors' files; no file elsewhere is read."""

    def __init__(self, service: Service, folder: Path) -> None:
        self._service = service
        self._folder = folder.resolve()

    async def show(self, message: Mapping[str, Any], dialog: Dialog, pointed: Pointed, model: str) -> list[Any]:
        """Show the newest image, of the question that is being typed or of the chat; return picture, state, words.

        Raises gradio's Error, in one line, where there is no image or ``model`` is known to take no regions.
        """
        engine = self._service.registry.engines().get(model)
        if engine is not None and engine.row_processor.region_grid is None:
            raise gr.Error(f"{model} takes no regions: ask it in words", print_exception=False)
        typed = [Path(str(path)).resolve() for path in message.get("files") or ()]
        new = [path for path in typed if path.suffix.lower() not in VIDEO_SUFFIXES]
        images = [*dialog.images, *new]
        if not images or not images[-1].is_relative_to(self._folder):
            raise gr.Error("drop an image into the question first", print_exception=False)
        kept = pointed if pointed.path == images[-1] else replace(pointed, path=images[-1], corner=None)
        return await self._shown(replace(kept, place=len(images) - 1))

    async def click(self, message: Mapping[str, Any], pointed: Pointed, event: gr.SelectData) -> list[Any]:
        """Take a corner; return the question, with a marker where a box became whole, and what ``show`` returns."""
        x, y = (int(place) for place in event.index)
        now = pointed.clicked(x, y)
        text = str(message.get("text") or "")
        if len(now.regions) > len(pointed.regions):
            text = f"{text.rstrip()} {REGION_MARKER}".lstrip()
        return [{**message, "text": text}, *await self._shown(now)]

    def forget(self) -> list[Any]:
        """Forget all boxes; returns what ``show`` returns."""
        return [None, Pointed(), ""]

    def asked(self, pointed: Pointed, dialog: Dialog) -> list[Any]:
        """Forget the boxes that the last question of the dialog took along; returns what ``show`` returns."""
        if pointed.regions and dialog.exchanges and dialog.exchanges[-1].ask.regions == pointed.regions:
            return self.forget()
        return [gr.skip(), gr.skip(), gr.skip()]

    async def _shown(self, pointed: Pointed) -> list[Any]:
        try:
            picture = await self._service.write(partial(self._picture, pointed))
        except RefusedError as refusal:
            raise gr.Error(refusal.message, print_exception=False) from None
        return [picture, pointed, pointed.told()]

    def _picture(self, pointed: Pointed) -> ImageArray:
        path = pointed.path
        if path is None or not path.is_file():
            raise RefusedError(404, "file_gone", "the image is no longer here; begin a new chat")
        image = read_image(path.read_bytes(), "image", self._service.limits)[1]
        here = [region.box_xyxy_px for region in pointed.regions if region.image == pointed.place]
        return with_boxes(image, here, pointed.corner)


def with_boxes(image: ImageArray, boxes: Sequence[BoxXYXY], corner: tuple[int, int] | None) -> ImageArray:
    """Return a copy of an image uint8 [H, W, 3] with boxes (xyxy in pixels) and the corner of one begun drawn on it."""
    drawn = np.ascontiguousarray(image.copy())
    thick = max(1, round(max(image.shape[:2]) / 300))
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        color = PALETTE[number % len(PALETTE)]
        cv2.rectangle(drawn, (round(x1), round(y1)), (round(x2) - 1, round(y2) - 1), color, thick)
    if corner is not None:
        cv2.drawMarker(drawn, corner, PALETTE[len(boxes) % len(PALETTE)], cv2.MARKER_CROSS, 12 * thick, thick)
    return drawn
