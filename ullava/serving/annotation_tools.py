"""Doors for annotation tools: the routes of X-AnyLabeling-Server (its ``docs/router.md``) and osam (``osam/types``)."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import APIRouter, Response
from pydantic import ConfigDict, Field

from ullava.geometry import mask_to_box_xyxy_px, simple_outlines
from ullava.serving.examples import ANYLABELING, OSAM
from ullava.serving.json_bodies import Body, json_bytes, json_reply
from ullava.serving.predictions import REFUSALS, ServiceOf, box_of
from ullava.serving.refusals import invalid
from ullava.serving.service import Query, Reply, Service
from ullava.serving.sources import Source
from ullava.structures import GroundedObject, MaskArray
from ullava.text.tokens import strip_grounding
from ullava.text.wording import question_of

router = APIRouter(tags=["annotation tools"])


# ---------------------------------------------------------------- X-AnyLabeling
class AnyLabelingParams(Body):
    """``text_prompt``: what to look for, several things divided by commas (else by full stops), as that server does.

    ``epsilon_factor``: how far, in parts of its length, an outline may be from the mask. Further settings of that
    program's widgets are taken and mean nothing here; marks (boxes and points) are refused.
    """

    model_config = ConfigDict(extra="ignore")

    text_prompt: str
    conf_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    show_boxes: bool = False
    show_masks: bool = True
    epsilon_factor: Annotated[float, Field(ge=0, le=0.1)] = 0.001
    marks: Annotated[list[Any], Field(max_length=0)] | None = None


class AnyLabelingRequest(Body):
    """``image``: a data URI or base64."""

    model: str | None = None
    image: str
    params: AnyLabelingParams

    model_config = Body.model_config | {"json_schema_extra": {"examples": [ANYLABELING]}}


@router.post("/v1/predict", responses=REFUSALS)
@router.post("/x-anylabeling/v1/predict", responses=REFUSALS, include_in_schema=False)
async def predict(body: AnyLabelingRequest, service: ServiceOf) -> Response:
    """Find things for X-AnyLabeling: polygons, rectangles and a description."""
    divider = "," if "," in body.params.text_prompt else "."
    texts = [text.strip() for text in body.params.text_prompt.split(divider) if text.strip()]
    replies = await _find(service, list(dict.fromkeys(texts)), body.model, body.image, "params.text_prompt")

    def write() -> bytes:
        shapes: list[dict[str, Any]] = []
        for reply in replies:
            for item in reply.answers[0].objects:
                if item.score >= body.params.conf_threshold:
                    shapes += _shapes(item, body.params, len(shapes))
        told = " ".join(strip_grounding(reply.answers[0].text) for reply in replies)
        return json_bytes({"success": True, "data": {"shapes": shapes, "description": told}})

    return Response(await service.write(write), 200, None, "application/json")


@router.get("/x-anylabeling/v1/models", include_in_schema=False)
async def anylabeling_models(service: ServiceOf) -> Response:
    """List the models as X-AnyLabeling wants them; ``/v1/models`` has OpenAI's list, which it cannot read."""
    return json_reply({"success": True, "data": {name: _model_info(name) for name in service.registry.names}})


@router.get("/x-anylabeling/v1/models/{name:path}/info", include_in_schema=False)
async def anylabeling_model(name: str, service: ServiceOf) -> Response:
    """Tell about one model."""
    return json_reply({"success": True, "data": {"model_id": service.registry.check(name), **_model_info(name)}})


@router.get("/x-anylabeling/health", include_in_schema=False)
async def anylabeling_health(service: ServiceOf) -> Response:
    """Tell that the server answers."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json_reply({"status": "healthy", "models_loaded": len(service.registry.engines()), "timestamp": now})


def _model_info(name: str) -> dict[str, Any]:
    widgets = [{"name": "edit_text", "value": None}, {"name": "button_send", "value": None}]
    return {"display_name": name, "widgets": widgets, "params": {}, "batch_processing_mode": "text_prompt"}


def _shapes(item: GroundedObject, params: AnyLabelingParams, number: int) -> list[dict[str, Any]]:
    """Return the shapes of one thing; several polygons of it have one ``group_id``."""
    found: list[tuple[str, list[list[float]]]] = []
    if params.show_masks and item.mask is not None:
        found += [("polygon", ring) for ring in _rings(item.mask, params.epsilon_factor)]
    box = box_of(item)
    if box and (params.show_boxes or not found):
        x0, y0, x1, y1 = box
        found.append(("rectangle", [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]))
    fixed: dict[str, Any] = {"attributes": {}, "description": None, "flags": None, "kie_linking": []}
    fixed |= {"difficult": False, "direction": 0}
    group = number if len(found) > 1 else None
    return [
        {"label": item.phrase, "shape_type": kind, "points": points, "score": round(item.score, 4), "group_id": group}
        | fixed
        for kind, points in found
    ]


def _rings(mask: MaskArray, epsilon_factor: float) -> list[list[list[float]]]:
    """Return the outer outlines of a mask, simplified and closed (the last point is the first); holes are not told."""
    rings = (ring.tolist() for ring in simple_outlines(mask, epsilon_factor))
    return [[*corners, corners[0]] for corners in rings]


# ---------------------------------------------------------------- osam
class OsamPrompt(Body):
    """``texts``: what to look for; points are refused, and the bound on overlaps means nothing here."""

    texts: list[str] | None = None
    points: None = None
    point_labels: None = None
    iou_threshold: float | None = None
    score_threshold: float | None = None
    max_annotations: Annotated[int, Field(ge=0)] | None = None


class OsamRequest(Body):
    """``image``: base64."""

    model: str | None = None
    image: str
    prompt: OsamPrompt
    image_embedding: None = None
    annotations: None = None

    model_config = Body.model_config | {"json_schema_extra": {"examples": [OSAM]}}


@router.post("/api/generate", responses=REFUSALS)
async def generate(body: OsamRequest, service: ServiceOf) -> Response:
    """Find things for osam's clients: each with the text that asked for it, its box and its mask within the box."""
    replies = await _find(service, body.prompt.texts or [], body.model, body.image, "prompt.texts")
    least = body.prompt.score_threshold or 0.0

    def write() -> bytes:
        found = [
            _annotation(item, text)
            for text, reply in zip(body.prompt.texts or [], replies, strict=True)
            for item in reply.answers[0].objects
            if item.score >= least and box_of(item)
        ]
        found.sort(key=lambda annotation: -float(annotation["score"]))
        model = replies[0].model
        return json_bytes(
            {"model": model, "image_embedding": None, "annotations": found[: body.prompt.max_annotations]}
        )

    return Response(await service.write(write), 200, None, "application/json")


def _annotation(item: GroundedObject, text: str) -> dict[str, Any]:
    """``bounding_box`` in whole pixels, half-open; ``mask``: PNG of its pixels, 255 inside, as base64."""
    mask = item.mask if item.mask is not None and item.mask.any() else None
    box = mask_to_box_xyxy_px(mask) if mask is not None else None
    x0, y0, x1, y1 = (round(value) for value in (box or box_of(item)))
    coded = None
    if mask is not None:
        done, png = cv2.imencode(".png", mask[y0:y1, x0:x1].astype(np.uint8) * 255)
        coded = base64.b64encode(bytes(png)).decode() if done else None
    return {
        "bounding_box": {"xmin": x0, "ymin": y0, "xmax": x1, "ymax": y1},
        "text": text,
        "score": round(float(item.score), 4),
        "mask": coded,
    }


async def _find(service: Service, texts: list[str], model: str | None, image: str, param: str) -> list[Reply]:
    """Ask for each text; all of them may share a batch."""
    if not texts or not all(text.strip() for text in texts):
        raise invalid(f"{param}: says nothing to look for", param)
    if len(texts) > service.limits.max_choices:
        raise invalid(f"{param}: {len(texts)} are more than the limit of {service.limits.max_choices}", param)
    source = Source(image, "image", bare=True)
    return await service.ask_all([Query(question_of(text, "segmentation"), model, images=(source,)) for text in texts])
