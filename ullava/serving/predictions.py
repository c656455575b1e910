"""``/v1/predictions``: field names of Falcon Perception's server (its ``falcon_perception/server/schemas.py``)."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from pydantic import BaseModel, Field

from ullava.geometry import mask_to_box_xyxy_px
from ullava.inference.export import object_to_json
from ullava.serving.examples import PREDICTION
from ullava.serving.json_bodies import Body, ErrorReply, json_bytes, unknown_field
from ullava.serving.refusals import invalid
from ullava.serving.service import Query, Reply, Service
from ullava.serving.sources import Source, read_regions
from ullava.structures import GroundedObject
from ullava.text.tokens import strip_grounding
from ullava.text.wording import PredictionTask, question_of

router = APIRouter(tags=["predictions"])


def service_of(request: Request) -> Service:
    """Return the service of the app that a request came to."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]


class ImageInput(Body):
    """Where an image is: ``url`` (http, https or a data URI) or ``base64`` (bare, or a data URI)."""

    url: str | None = None
    base64: str | None = None

    def source(self, param: str) -> Source:
        """Return it as a source. Raises RefusedError unless exactly one of the two is given."""
        if (self.url is None) == (self.base64 is None):
            raise invalid(f"{param}: give either url or base64", param)
        if self.url is not None:
            return Source(self.url, f"{param}.url")
        return Source(str(self.base64), f"{param}.base64", bare=True)


class PredictionRequest(Body):
    """What to look for in an image.

    ``query``: a name or an expression; a sentence (it ends with a mark) is asked as it stands. ``task``: ``question``
    asks it as it stands in any case. ``regions``: what each ``<region>`` of the query points at, boxes
    [x1, y1, x2, y2] in pixels of the image or masks as COCO's run-length code, for models that take regions.
    ``min_image_size`` and ``max_image_size`` are taken and mean nothing here: a model has a size of its own.
    """

    image: ImageInput
    query: str
    task: PredictionTask = "segmentation"
    regions: list[list[float] | dict[str, Any]] = []
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    min_image_size: int | None = None
    max_image_size: int | None = None

    model_config = Body.model_config | {"json_schema_extra": {"examples": [PREDICTION]}}


class MaskResult(BaseModel):
    """One thing found. ``bbox`` [x0, y0, x1, y1] half-open in pixels; ``rle``: COCO's code, {} where there is no mask.

    ``label`` is ``phrase``: how the answer calls it; ``span``: characters of ``text`` that speak of it, ``plain_span``:
    those of ``plain_text`` that name it; ``group``: things of one phrase have the same number.
    """

    label: str
    bbox: list[float]
    rle: dict[str, Any]
    height: int
    width: int
    phrase: str
    span: list[int]
    plain_span: list[int]
    group: int | None
    image: int
    score: float | None
    mask_score: float | None
    box_score: float | None


class PredictionReply(BaseModel):
    """The answer. ``text`` holds the special tokens too, ``plain_text`` only the words; times in milliseconds."""

    id: str
    model: str
    created: int
    masks: list[MaskResult]
    text: str
    plain_text: str
    finished: bool
    query: str
    prompt_type: str
    image_width: int
    image_height: int
    inference_time_ms: float
    queue_ms: float
    total_time_ms: float
    load_time_ms: float
    tokenize_time_ms: float
    prefill_time_ms: float
    decode_time_ms: float
    finalize_time_ms: float
    batch_size: int = Field(description="answers that were written together with this one, itself included")
    input_tokens: int
    output_tokens: int


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (400, 401, 403, 404, 413, 429, 500, 503, 504)
}


@router.post("/v1/predictions", response_model=PredictionReply, responses=REFUSALS)
async def predict(body: PredictionRequest, service: ServiceOf) -> Response:
    """Find what is asked for in an image; JSON in, masks as COCO run-length code out."""
    return await _answer(service, body, body.image.source("image"))


UPLOAD_FIELDS = ("image", "query", "task", "model", "max_tokens", "min_image_size", "max_image_size")


async def check_form(request: Request) -> None:
    """Raise RefusedError for a field that the form does not have: it would be ignored without a word."""
    for key in await request.form():
        if key not in UPLOAD_FIELDS:
            name, said = unknown_field(key, UPLOAD_FIELDS)
            raise invalid(said, name)


@router.post(
    "/v1/predictions/upload", response_model=PredictionReply, responses=REFUSALS, dependencies=[Depends(check_form)]
)
async def predict_upload(
    service: ServiceOf,
    image: Annotated[UploadFile, File(description="an image file")],
    query: Annotated[str, Form(description="what to look for")],
    task: Annotated[PredictionTask, Form()] = "segmentation",
    model: Annotated[str | None, Form()] = None,
    max_tokens: Annotated[int | None, Form()] = None,
    min_image_size: Annotated[int | None, Form()] = None,
    max_image_size: Annotated[int | None, Form()] = None,
) -> Response:
    """The same for a form with a file, as ``curl -F image=@photo.jpg -F query="red circle"`` sends it."""
    data = await image.read()
    body = PredictionRequest(image=ImageInput(), query=query, task=task, model=model, max_tokens=max_tokens)
    return await _answer(service, body, Source(data, "image"))


async def _answer(service: Service, body: PredictionRequest, source: Source) -> Response:
    question = question_of(body.query, body.task)
    if not question:
        raise invalid("query: is empty", "query")
    regions = await service.write(lambda: read_regions(body.regions, "regions", service.limits))
    generation = {key: getattr(body, key) for key in ("temperature", "top_p", "seed") if getattr(body, key) is not None}
    reply = await service.ask(
        Query(
            question,
            body.model,
            images=(source,),
            regions=regions,
            max_new_tokens=body.max_tokens,
            generation=generation,
        )
    )
    return Response(
        await service.write(lambda: json_bytes(_prediction(reply, body.query))), 200, None, "application/json"
    )


def _prediction(reply: Reply, query: str) -> dict[str, Any]:
    (answer,), (height, width) = reply.answers, reply.images_hw[0]
    return {
        "id": f"pred_{uuid.uuid4().hex[:12]}",
        "model": reply.model,
        "created": int(time.time()),
        "masks": [mask_result(item, (height, width)) for item in answer.objects],
        "text": answer.text,
        "plain_text": strip_grounding(answer.text),
        "finished": answer.finished,
        "query": query,
        "prompt_type": "text",
        "image_width": width,
        "image_height": height,
        **reply.times_ms,
        "batch_size": reply.batch_rows,
        "input_tokens": reply.input_tokens,
        "output_tokens": reply.output_tokens,
    }


def mask_result(item: GroundedObject, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Return one thing found in an image of size (H, W) as JSON values of ``MaskResult``."""
    told = object_to_json(item)
    box = told["box_xyxy_px"] or box_of(item)
    return {
        "label": item.phrase,
        "bbox": box,
        "rle": told["mask"] or {},
        "height": size_hw[0],
        "width": size_hw[1],
        **{
            key: told[key]
            for key in ("phrase", "span", "plain_span", "group", "image", "score", "mask_score", "box_score")
        },
    }


def box_of(item: GroundedObject) -> list[float]:
    """Return the box [x0, y0, x1, y1] of a thing, of its mask where it has none of its own; [] for an empty mask."""
    if item.box_xyxy_px is not None:
        return [float(value) for value in item.box_xyxy_px]
    box = None if item.mask is None or not item.mask.any() else mask_to_box_xyxy_px(item.mask)
    return [] if box is None else [float(value) for value in box]
