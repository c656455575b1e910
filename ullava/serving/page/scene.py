"""An answer as a picture with layers: every mask an SVG path that can be pointed at, its words and a list beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from ullava.geometry import mask_outlines
from ullava.inference.overlay import PALETTE, color_places
from ullava.serving.page.dialog import Exchange, mask_of
from ullava.structures import ImageArray, MaskArray
from ullava.text.tokens import strip_grounding

SHOWN_SIDE = 1280
"""Longest side of a picture on the page, in pixels; larger images are made smaller for showing."""
_JPEG_QUALITY = 90


def scene_html(images: Sequence[ImageArray], exchange: Exchange, note: str = "") -> str:
    """Return an exchange as HTML: each image that its things are on (without any: the last), with a layer per thing.

    ``images``: uint8 [H, W, 3] of those that the question saw; ``note``: a line below. Elements that belong to thing
    k have ``data-object="k"``, its ``data-score`` and, of one phrase, the same ``data-group`` and color.
    """
    things = exchange.objects
    data = _data(things)
    shown = sorted({int(thing["image"]) for thing in things}) or ([len(images) - 1] if images else [])
    figures = "".join(_figure(images[place], things, data, place) for place in shown)
    said = _words(str(exchange.record["text"]), things, data)
    legend = "".join(_entry(thing, told) for thing, told in zip(things, data, strict=True))
    missing = exchange.record.get("not_found") or ()
    if missing:
        note = f"{note} · not found: {', '.join(missing)}".strip(" ·")
    return (
        f'<div class="ul-scene">{figures}<p class="ul-words">{said}</p><ol class="ul-legend">{legend}</ol>'
        f'<p class="ul-note">{escape(note)}</p><div class="ul-tip" hidden></div></div>'
    )


def _figure(image: ImageArray, things: Sequence[Mapping[str, Any]], data: Sequence[str], place: int) -> str:
    height, width = image.shape[:2]
    factor = min(1.0, SHOWN_SIDE / max(height, width))
    size_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    layers = []
    for thing, told in zip(things, data, strict=True):
        if int(thing["image"]) == place:
            layers.append(_layer(thing, told, size_wh, (size_wh[0] / width, size_wh[1] / height)))
    # Large things first: small ones stay reachable on top of them.
    layers.sort(key=lambda layer: -layer[0])
    drawn = "".join(text for _, text in layers)
    return (
        f'<figure><svg viewBox="0 0 {size_wh[0]} {size_wh[1]}" role="group" aria-label="image {place + 1}">'
        f'<image href="{_data_uri(image, size_wh)}" width="{size_wh[0]}" height="{size_wh[1]}"/>{drawn}</svg></figure>'
    )


def _layer(
    thing: Mapping[str, Any], data: str, size_wh: tuple[int, int], scale_xy: tuple[float, float]
) -> tuple[float, str]:
    """Return the area of a thing in the picture and its SVG group."""
    mask = mask_of(thing)
    parts: list[str] = []
    area = 0.0
    if mask is not None:
        small = _resized(mask, size_wh)
        area = float(small.sum())
        parts.append(f'<path class="ul-mask" fill-rule="evenodd" d="{_path(small)}"/>')
    if thing["box_xyxy_px"] is not None:
        x0, y0, x1, y1 = (value * scale_xy[place % 2] for place, value in enumerate(thing["box_xyxy_px"]))
        bare = " ul-bare" if mask is None else ""
        area = area or (x1 - x0) * (y1 - y0)
        parts.append(
            f'<rect class="ul-box{bare}" x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"/>'
        )
    label = escape(_label(thing))
    return area, (
        f'<g class="ul-layer" {data} data-label="{label}" tabindex="0" role="button" '
        f'aria-label="{label}">{"".join(parts)}</g>'
    )


def _words(text: str, things: Sequence[Mapping[str, Any]], data: Sequence[str]) -> str:
    """Return the words of an answer, those of a thing marked; spans that overlap an earlier one are left plain.

    Things of one phrase share its words, which are marked once, as those of the first.
    """
    pieces: list[str] = []
    here = 0
    for number, thing in sorted(enumerate(things), key=lambda pair: tuple(pair[1]["span"])):
        start, end = thing["span"]
        if not here <= start < end <= len(text):
            continue
        pieces.append(_plain(text[here:start]))
        pieces.append(f"<mark {data[number]}>{escape(strip_grounding(text[start:end]))}</mark>")
        here = end
    pieces.append(_plain(text[here:]))
    return "".join(pieces)


def _plain(text: str) -> str:
    """Return words between things as HTML, with the blanks at their ends."""
    words = strip_grounding(text)
    if not words:
        return " " if text[:1].isspace() or text[-1:].isspace() else ""
    before = " " if text[0].isspace() else ""
    after = " " if text[-1].isspace() else ""
    return before + escape(words) + after


def _entry(thing: Mapping[str, Any], data: str) -> str:
    phrase, score = escape(str(thing["phrase"]) or "object"), float(thing["score"])
    return f"<li {data}><i></i><b>{phrase}</b> <span>{score:.2f}</span></li>"


def _label(thing: Mapping[str, Any]) -> str:
    return f"{thing['phrase'] or 'object'} {float(thing['score']):.2f}"


def _data(things: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the attributes of each thing's elements; colors are those that ``draw_overlay`` gives."""
    groups = [thing.get("group") for thing in things]
    told = []
    for number, (thing, group, color) in enumerate(zip(things, groups, color_places(groups), strict=True)):
        hue = ", ".join(map(str, PALETTE[color]))
        shared = "" if group is None else f'data-group="{int(group)}" '
        told.append(f'data-object="{number}" data-score="{float(thing["score"]):.4f}" {shared}style="--ul-hue: {hue}"')
    return told


def _path(mask: MaskArray) -> str:
    rings = ("L".join(f"{x} {y}" for x, y in ring.tolist()) for ring in mask_outlines(mask))
    return "".join(f"M{ring}Z" for ring in rings)


def _resized(mask: MaskArray, size_wh: tuple[int, int]) -> MaskArray:
    if (mask.shape[1], mask.shape[0]) == size_wh:
        return mask
    small: MaskArray = cv2.resize(mask.astype(np.float32), size_wh, interpolation=cv2.INTER_AREA) > 0.5
    if small.any():
        return small
    # A speck that is less than half of a pixel of the picture is shown as a whole one.
    widest: MaskArray = cv2.resize(mask.astype(np.float32), size_wh, interpolation=cv2.INTER_AREA) > 0
    return widest


def _data_uri(image: ImageArray, size_wh: tuple[int, int]) -> str:
    small = image
    if (image.shape[1], image.shape[0]) != size_wh:
        small = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"an image of shape {list(small.shape)} cannot be written as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(bytes(data)).decode()
