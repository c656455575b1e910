"""Instance segmentation: COCO's average precision of scored masks, computed by pycocotools.

As with semantic classes, an image is asked only for the categories that it shows; a category that is not there brings
no false detections. ``AP`` is the mean over IoU 0.50, 0.55 … 0.95 and over categories, at most 100 detections each.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ullava.evaluation.metrics.rows import Metric, Row
from ullava.geometry import rle_decode, rle_encode
from ullava.structures import MaskArray

_FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


class InstanceMasks(Metric):
    """Rows: ``image``, ``category``, ``truth`` and ``crowd`` (parallel), ``detections`` (``mask``, ``score``)."""

    resamples: ClassVar[bool] = False

    def update(
        self,
        image: str,
        category: str,
        predicted: Sequence[tuple[MaskArray, float]],
        truth: Sequence[MaskArray],
        crowd: Sequence[bool] | None = None,
    ) -> Row:
        """Keep one category of one image: masks [H, W] with scores against true masks [H, W].

        ``crowd`` marks true masks that stand for many instances (neither hit nor miss). Raises ValueError if it is not
        as long as ``truth``.
        """
        marks = [False] * len(truth) if crowd is None else list(crowd)
        if len(marks) != len(truth):
            raise ValueError(f"{len(marks)} crowd marks for {len(truth)} masks")
        detections = [{"mask": rle_encode(mask), "score": float(score)} for mask, score in predicted]
        return self.add(
            {
                "image": image,
                "category": category,
                "truth": [rle_encode(mask) for mask in truth],
                "crowd": marks,
                "detections": detections,
            }
        )

    def compute(self) -> dict[str, float]:
        """Return ``AP``, ``AP50``, ``AP75`` and AP by size of the true mask (below 32^2, 96^2 pixels, above)."""
        if not any(row["truth"] for row in self.rows):
            return {}
        from pycocotools.cocoeval import COCOeval

        truth, found = self._tables()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(_coco(truth), _coco(found), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # pycocotools writes -1 where there is nothing to average over.
        return {
            name: 100.0 * float(value) for name, value in zip(_FIGURES, evaluation.stats[:6], strict=True) if value >= 0
        }

    def _tables(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the true and the found annotations in COCO's form."""
        images = {name: number for number, name in enumerate(sorted({row["image"] for row in self.rows}), start=1)}
        categories = {name: n for n, name in enumerate(sorted({row["category"] for row in self.rows}), start=1)}
        sizes = {
            row["image"]: {"height": rle["size"][0], "width": rle["size"][1]}
            for row in self.rows
            for rle in (*row["truth"], *(detection["mask"] for detection in row["detections"]))
        }
        shared = {
            "images": [{"id": number, **sizes.get(name, {})} for name, number in images.items()],
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
        }
        truth: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        # A fixed order, because equal scores are ranked as they come.
        for row in sorted(self.rows, key=lambda row: (row["image"], row["category"])):
            place = {"image_id": images[row["image"]], "category_id": categories[row["category"]]}
            for rle, crowd in zip(row["truth"], row["crowd"], strict=True):
                truth.append({**place, **_annotation(rle, len(truth) + 1), "iscrowd": int(crowd)})
            for detection in row["detections"]:
                annotation = _annotation(detection["mask"], len(found) + 1)
                found.append({**place, **annotation, "iscrowd": 0, "score": detection["score"]})
        return {**shared, "annotations": truth}, {**shared, "annotations": found}


def _annotation(rle: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {"id": number, "segmentation": dict(rle), "area": float(rle_decode(rle).sum())}


def _coco(tables: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = tables
    coco.createIndex()
    return coco
