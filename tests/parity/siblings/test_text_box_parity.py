"""Boxes read from answers, against the original's parser of RefCOCO answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from sibling_cases import folders, read

from ullava.evaluation.metrics.boxes import WrittenBoxes
from ullava.evaluation.text_boxes import place_text_box, read_text_box


@pytest.mark.parametrize("folder", folders("convllava", "refcoco_parse"))
def test_boxes_of_answers(folder: Path) -> None:
    bounds, rows = read(folder)["tolerance"], read(folder, "data.json")
    metric = WrittenBoxes()
    for row in rows:
        asked, wanted = row["input"], row["output"]
        size = (asked["width"], asked["height"])
        box = read_text_box(asked["answer"])
        placed = None if box is None else place_text_box(box, size)
        # Where nothing can be read the original goes on with four zeros; for us that is no box.
        shown = placed or place_text_box((0.0, 0.0, 0.0, 0.0), size)
        assert shown == pytest.approx(wanted["box"], abs=bounds["box_atol"]), asked
        scored = metric.update(placed, tuple(asked["gt_box"]))
        assert scored["iou"] == pytest.approx(wanted["iou"], abs=bounds["iou_atol"]), asked
        assert (scored["iou"] >= 0.5) == wanted["hit"], asked
    hits = sum(row["output"]["hit"] for row in rows)
    assert metric.compute()["Acc@0.5"] == pytest.approx(100 * hits / len(rows))
