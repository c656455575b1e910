"""What our task files for lmms-eval call: words and image of a document, rows of figures, figures of rows.

An answer is JSON with masks, boxes and scores (``harness.answer_json``, which lmms-eval's SAM 3 writes too); anything
else is an answer without masks and boxes. It is scored as ``ullava eval`` scores (ullava.evaluation.scoring): an answer
without a mask or box counts as an overlap of 0. All figures are in percent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ullava.errors import DataError, UserError
from ullava.evaluation.metrics.rows import Row
from ullava.evaluation.scoring import SCORERS
from ullava.geometry import segmentation_to_mask
from ullava.plugins.lmms_eval_documents import sample_of
from ullava.structures import Answer, BoxXYXY, GroundedObject

FIGURES: Mapping[str, tuple[str, ...]] = {
    "res": ("cIoU", "gIoU", "P@0.5", "P@0.7", "P@0.9"),
    "gres": ("gIoU", "cIoU", "N-acc", "T-acc"),
    "rec": ("Acc@0.5", "Acc@0.75", "Acc@0.9", "mIoU"),
    "salient": ("mIoU", "cIoU", "maxF", "S", "MAE"),
}
"""Task family -> the figures that its task file lists."""


def image_of(document: Mapping[str, Any]) -> list[Any]:
    """``doc_to_visual``: the image, a Pillow image of the mode RGB."""
    return [document["image"].convert("RGB")]


def question_of_document(document: Mapping[str, Any]) -> str:
    """``doc_to_text``: the question."""
    return str(document["question"])


def answer_of(response: str, document: Mapping[str, Any]) -> Answer:
    """Return a response as an answer about a document's image.

    Raises UserError for JSON whose masks or boxes cannot be read, or masks of another size.
    """
    name, height, width = document["id"], int(document["height"]), int(document["width"])
    try:
        given = json.loads(response)
    except ValueError:
        return Answer(response)
    if not isinstance(given, Mapping):
        return Answer(response)
    masks, boxes, scores = (list(given.get(key) or ()) for key in ("masks", "boxes", "scores"))
    count = max(len(masks), len(boxes))
    things = []
    try:
        for place in range(count):
            mask = masks[place] if place < len(masks) else None
            box = boxes[place] if place < len(boxes) else None
            things.append(
                GroundedObject(
                    "",
                    (0, 0),
                    None if mask is None else segmentation_to_mask(mask, height, width),
                    None if box is None else _in_pixels(box, width, height),
                    float(scores[place]) if place < len(scores) else 0.0,
                )
            )
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name}: thing {place} of the response cannot be read: {error}") from error
    return Answer(str(given.get("text", "")), tuple(things))


def _in_pixels(box: Mapping[str, float], width: int, height: int) -> BoxXYXY:
    return (box["x_min"] * width, box["y_min"] * height, box["x_max"] * width, box["y_max"] * height)


def _process(family: str) -> Callable[[Mapping[str, Any], Sequence[str]], dict[str, Row]]:
    def process(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, Row]:
        """``process_results``: the row of one answer, for each of the figures."""
        answer = answer_of(results[0] if results else "", document)
        row = SCORERS[family]().score(sample_of(document), answer)
        return dict.fromkeys(FIGURES[family], row)

    return process


def _figure(family: str, name: str) -> Callable[[Sequence[Row]], float]:
    def figure(rows: Sequence[Row]) -> float:
        """``aggregation``: one figure of all rows; not a number where there is nothing that it is about."""
        return SCORERS[family].kind(rows).compute().get(name, float("nan"))

    return figure


process_res, process_gres, process_rec, process_salient = (_process(name) for name in FIGURES)

res_ciou, res_giou, res_p50, res_p70, res_p90 = (_figure("res", name) for name in FIGURES["res"])
gres_giou, gres_ciou, gres_n_acc, gres_t_acc = (_figure("gres", name) for name in FIGURES["gres"])
rec_acc50, rec_acc75, rec_acc90, rec_miou = (_figure("rec", name) for name in FIGURES["rec"])
salient_miou, salient_ciou, salient_max_f, salient_s, salient_mae = (
    _figure("salient", name) for name in FIGURES["salient"]
)
