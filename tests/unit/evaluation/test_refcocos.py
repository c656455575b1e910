"""Expressions with boxes and no-targets: how the list is read, how it is judged, and the real list end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.errors import DataError
from ullava.evaluation.metrics.boxes import GeneralizedReferringBoxes
from ullava.evaluation.metrics.masks import GeneralizedReferringMasks
from ullava.evaluation.scoring import family_of

ENTRY: dict[str, Any] = {
    "normal_caption": "the Red box", "file_name": "a.png", "height": 40, "width": 60, "solution": [10.0, 5, 30.0, 25],
}  # fmt: skip
NOBODY = {**ENTRY, "normal_caption": "a dog", "solution": None}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a list of expressions, and COCO's instances if there are any."""

    def make(entries: object, instances: list[dict[str, Any]] | None = None) -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), "white").save(tmp_path / "images" / "a.png")
        (tmp_path / "refcocos_dev.json").write_text(json.dumps(entries))
        if instances is not None:
            coco = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": instances}
            (tmp_path / "instances_val2017.json").write_text(json.dumps(coco))
        return tmp_path

    return make


def test_boxes_and_nothing(folder: Callable[..., Path]) -> None:
    root = folder([ENTRY, NOBODY])
    for task, family in (("res", "gres"), ("rec", "grec")):
        dataset = build_dataset("refcocos", DatasetEntry(split="dev", task=task), root)
        assert family_of(dataset) == family
        (box,), (nothing,) = dataset.queries(0), dataset.queries(1)
        (region,) = box.turns[0].regions
        assert region.box_xyxy_px == (10, 5, 30, 25) and region.mask is None
        assert region.phrase == "the red box"
        assert nothing.turns[0].regions == () and "[SEG]" not in nothing.turns[0].answer
        assert box.images[0] == root / "images" / "a.png"


def test_an_instance_with_that_box_gives_its_mask(folder: Callable[..., Path]) -> None:
    polygon = [[10, 5, 30, 5, 30, 25, 10, 25]]
    here = {"image_id": 7, "bbox": [10, 5, 20.02, 20], "segmentation": polygon, "iscrowd": 0}
    near = {**here, "bbox": [12, 5, 20, 20]}
    crowd = {**here, "iscrowd": 1}
    dataset = build_dataset("refcocos", DatasetEntry(split="dev"), folder([ENTRY], [crowd, near, here]))
    mask = dataset.queries(0)[0].turns[0].regions[0].mask
    assert mask is not None and mask.sum() == 400


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": 1}, "a list of expressions is expected, not dict"),
        ([{**ENTRY, "solution": [1, 2, 3]}], "entry 0: 'solution' has to be null or four numbers"),
        ([ENTRY, {k: v for k, v in ENTRY.items() if k != "file_name"}], "entry 1: no 'file_name'"),
        ([{**ENTRY, "normal_caption": " "}], "entry 0: 'normal_caption' and 'file_name' have to be words"),
        ([3], "entry 0: an object is expected, not int"),
    ],
)
def test_a_wrong_list_is_refused(folder: Callable[..., Path], entries: object, message: str) -> None:
    with pytest.raises(DataError, match="refcocos_dev.json") as caught:
        build_dataset("refcocos", DatasetEntry(split="dev"), folder(entries))
    assert message in str(caught.value)


def test_boxes_as_a_set() -> None:
    metric = GeneralizedReferringBoxes()
    one, far = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)
    near = (0.0, 0.0, 10.0, 8.0)
    metric.update([near], near, [one])  # IoU 0.8: right
    metric.update([near, far], near, [one])  # one box too many
    metric.update([], None, [one])  # nothing said
    metric.update([], None, [])  # rightly nothing
    metric.update([far], far, [])  # wrongly something
    metric.update([far, near], far, [one, far])  # both, in another order
    metric.update([near, near], near, [one, far])  # twice the same
    figures = metric.compute()
    assert figures["Acc@0.5"] == pytest.approx(100 * 2 / 3)
    assert figures["Acc@0.9"] == 0
    assert figures["mIoU"] == pytest.approx(100 * 1.6 / 3)
    assert figures["Pr@F1"] == pytest.approx(100 * 3 / 7)
    assert figures["N-acc"] == 50
    assert figures["T-acc"] == pytest.approx(100 * 4 / 5)
    assert GeneralizedReferringBoxes(metric.state()).compute() == figures


def test_a_mask_against_a_box() -> None:
    metric = GeneralizedReferringMasks()
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:28] = True
    metric.update_boxed(mask, (10, 5, 30, 25))  # IoU 0.9
    metric.update_boxed(None, (10, 5, 30, 25))
    metric.update(None, None, no_target=True)
    figures = metric.compute()
    assert figures == {
        "N-acc": 100, "T-acc": 50, "mask-box Acc@0.5": 50, "mask-box mIoU": pytest.approx(45.0),
    }  # fmt: skip
    metric.update(mask, mask, no_target=False)
    assert metric.compute()["cIoU"] == 100 and metric.compute()["P@0.5"] == 100
    assert metric.compute()["mask-box Acc@0.5"] == 50


@pytest.mark.slow
def test_the_real_list_end_to_end(
    shared_dir: Path, command: Callable[..., tuple[int, str, str]], tmp_path: Path, root: Path
) -> None:
    real = shared_dir / "realdata" / "refcocos"
    if not real.is_dir():
        pytest.skip("the real expressions are not here")
    data = tmp_path / "data"  # a folder of our own, because converted annotations are kept beside the list
    data.mkdir()
    (data / "refcocos_dev.json").write_bytes((real / "refcocos_dev.json").read_bytes())
    (data / "images").symlink_to(real / "images")
    out = tmp_path / "out"
    line = ("eval", "eval_refcocos", "--model", "tiny", f"data_root={data}", "max_new_tokens=16", "device=cpu")
    code, shown, err = command(*line, "--out", str(out))
    assert code == 0, err
    res, rec = json.loads((out / "metrics.json").read_text())["results"]
    assert (res["task"], res["n"], res["skipped"]) == ("gres", 52, 0)
    assert (rec["task"], rec["n"], rec["skipped"]) == ("grec", 52, 0)
    assert {"N-acc", "T-acc", "mask-box Acc@0.5", "mask-box mIoU"} <= res["metrics"].keys()
    assert {"Acc@0.5", "mIoU", "Pr@F1", "N-acc", "T-acc"} <= rec["metrics"].keys()
    rows = [json.loads(text) for text in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 104
    assert sum(row["scores"]["no_target"] for row in rows) == 14
    assert "refcocos_rec" in shown
