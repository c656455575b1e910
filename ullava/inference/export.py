"""Answers as JSON and overlays as PNG."""

from __future__ import annotations

from typing import Any

from ullava.geometry import mask_to_box_xyxy_px, rle_encode
from ullava.structures import Answer, BoxXYXY, GroundedObject, ImageArray, MasksOverTime
from ullava.text.tokens import strip_grounding


def object_to_json(item: GroundedObject) -> dict[str, Any]:
    """Return one grounded object as JSON values.

    ``span``: characters of the answer's ``text``; ``plain_span``: those of the name in ``plain_text``; ``group``:
    objects of one phrase have the same number (null: not known); ``image``: which image of the question, from 0;
    ``box_xyxy_px``: [x0, y0, x1, y1] half-open in original pixels, or null; ``mask``: COCO run-length code ``{"size":
    [H, W], "counts": str}`` of the original image, or null; scores in [0, 1]. A thing of a video has ``video``, which
    video of the question, ``masks`` (VideoMasks.to_json), ``frame_presence`` and ``frame_scores`` too, an entry for
    each frame. A thing that was chosen from candidates has ``provenance`` and ``alternatives``, each with
    ``provenance``, ``phrase``, ``score``, ``judged``, ``box_xyxy_px`` and ``mask``.
    """
    return {
        "phrase": item.phrase,
        "span": list(item.span),
        "plain_span": list(item.plain_span),
        "group": item.group,
        "image": item.image,
        "score": _rounded(item.score),
        "mask_score": _rounded(item.mask_score),
        "box_score": _rounded(item.box_score),
        "box_xyxy_px": _corners(item.box_xyxy_px),
        "mask": None if item.mask is None else rle_encode(item.mask),
        **({} if item.over_time is None else _over_time(item.over_time)),
        **({} if item.provenance is None else _candidates(item)),
    }


def _candidates(item: GroundedObject) -> dict[str, Any]:
    told = [
        {
            "provenance": one.provenance,
            "phrase": one.phrase,
            "score": _rounded(one.score),
            "judged": _rounded(one.judged),
            "box_xyxy_px": _corners(one.box_xyxy_px),
            "mask": rle_encode(one.mask),
        }
        for one in item.alternatives
    ]
    return {"provenance": item.provenance, "alternatives": told}


def _corners(box_xyxy_px: BoxXYXY | None) -> list[float] | None:
    return None if box_xyxy_px is None else [round(float(value), 2) for value in box_xyxy_px]


def _over_time(found: MasksOverTime) -> dict[str, Any]:
    return {
        "video": found.video,
        "masks": found.masks.to_json(),
        "frame_presence": [_rounded(value) for value in found.presence],
        "frame_scores": [_rounded(value) for value in found.scores],
    }


def box_of(item: GroundedObject) -> BoxXYXY | None:
    """Return the model's own box, else the mask's; None for an object without either."""
    if item.box_xyxy_px is not None:
        return item.box_xyxy_px
    return None if item.mask is None else mask_to_box_xyxy_px(item.mask)


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON values; ``text`` holds the special tokens too, ``plain_text`` only the words.

    ``not_found``, where there is any, names what a mask was offered for and what is nowhere in the image;
    ``presence``, where the mask head tells it, is how likely each ``[SEG]`` of the text is there.
    """
    return {
        "text": answer.text,
        "plain_text": strip_grounding(answer.text),
        "finished": answer.finished,
        "new_tokens": answer.new_tokens,
        "objects": [object_to_json(item) for item in answer.objects],
        **chosen_to_json(answer),
        **({"not_found": list(answer.not_found)} if answer.not_found else {}),
        **presence_to_json(answer),
    }


def presence_to_json(answer: Answer) -> dict[str, Any]:
    """``{"presence": [0.97]}`` of an answer whose mask head tells it, else nothing."""
    return {"presence": [round(value, 6) for value in answer.presence]} if answer.presence else {}


def chosen_to_json(answer: Answer) -> dict[str, Any]:
    """``{"chosen": {"granularity": [64]}}`` of an answer whose vision encoder chose something, else nothing."""
    return {"chosen": {name: list(values) for name, values in answer.chosen.items()}} if answer.chosen else {}


def png_bytes(image_rgb_u8: ImageArray) -> bytes:
    """Return an image [H, W, 3] as a PNG file.

    By run lengths: a quarter of the time of zlib's usual effort, for a photograph of a screen's size 6 % more bytes.
    """
    import cv2

    effort = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    done, data = cv2.imencode(".png", cv2.cvtColor(image_rgb_u8, cv2.COLOR_RGB2BGR), effort)
    if not done:
        raise ValueError(f"an image of shape {list(image_rgb_u8.shape)} cannot be written as PNG")
    return bytes(data)


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(float(score), 4)
