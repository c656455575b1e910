"""Evaluation sets of other groups: small files in their authors' form, read, asked by the set's recipe, and scored."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, make_image, masks
from tests.unit.evaluation.answering import Perfect

from ullava.config.load import parse_text
from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.data.converters.published.convert import skipped_lines
from ullava.data.loading.build import build_dataset, build_datasets, open_store
from ullava.data.loading.descriptor import locate
from ullava.errors import DataError, UserError
from ullava.evaluation.metrics.boxes import ReferringBoxes
from ullava.evaluation.run import check_entries, evaluate
from ullava.geometry import rle_encode
from ullava.resources import find
from ullava.structures import Answer, GroundedObject, Sample

BOX, OTHER_BOX = (5.0, 4.0, 15.0, 10.0), (1.0, 12.0, 4.0, 18.0)


def picture(shade: int = 90, kind: str = "PNG") -> dict[str, Any]:
    """An image as Parquet files of the Hub hold it."""
    held = io.BytesIO()
    Image.fromarray(np.full((H, W, 3), shade, np.uint8)).save(held, format=kind)
    return {"bytes": held.getvalue(), "path": f"../../{shade}.jpg"}


def code(mask: np.ndarray) -> dict[str, Any]:
    return {"size": [H, W], "counts": rle_encode(mask)["counts"]}


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


# ---------------------------------------------------------------- the sets in small, as their authors publish them
def reasonseg(root: Path) -> None:
    for split in ("train", "val", "test"):
        for name, sentence, square in (("a", True, SQUARE), ("b", False, CORNER), ("c", False, SQUARE)):
            make_image(root / "ReasonSeg" / split / f"{name}.jpg")
            points = np.reshape(square, (-1, 2)).tolist()
            shape = {"label": "target", "points": points, "shape_type": "polygon"}
            value = {"text": ["what is it", "say it again"], "is_sentence": sentence, "shapes": [shape]}
            as_json(root / "ReasonSeg" / split / f"{name}.json", value)


def refcoco_m(root: Path) -> None:
    square, corner = masks()

    def thing(number: int, mask: np.ndarray, box: list[float], *said: str) -> dict[str, Any]:
        head = {"id": number, "image_id": 7, "category": "dog", "supercategory": "animal", "label": "x"}
        return head | {"sentences": list(said), "bbox": box, "mask": code(mask)}

    first = thing(1, square, [5.0, 4.0, 10.0, 6.0], "left dog", "the Dog")
    second = thing(2, corner, [1.0, 12.0, 3.0, 6.0], "low one")
    head = {"image_id": 7, "file_name": "COCO_train2014_000000000007.jpg"}
    table(
        root / "refcoco_m" / "data" / "validation-00000-of-00002.parquet",
        [{"image": picture(90, "JPEG"), "samples": [first, second]} | head],
    )
    table(
        root / "refcoco_m" / "data" / "validation-00001-of-00002.parquet",
        [{"image": picture(120), "samples": [first]} | head],
    )


def ref_l4(root: Path) -> None:
    def line(number: int, kind: str, box: list[float], name: str = "a.jpg") -> dict[str, Any]:
        head = {"id": number, "caption": f"The thing number {number}.", "bbox": box, "bbox_area": 1.0, "split": "val"}
        size = {"height": 700, "width": 900, "file_name": name, "image_id": "o365_1", "is_rewrite": True}
        return head | size | {"ori_category_id": kind}

    rows = [
        line(1, "o365_1", [0.0, 0, 127, 128]),  # the root of the area is just below 128
        line(2, "refcoco_1", [0.0, 0, 128, 128]),  # Objects365's class 1 by another name
        line(3, "o365_5", [0.0, 0, 256, 256], "deep/b.jpg"),
        line(4, "refcoco_37", [0.0, 0, 257, 256], "deep/b.jpg"),
    ]
    for name in ("a.jpg", "deep/b.jpg"):
        make_image(root / "ref_l4" / name, (700, 900))
    for split in ("val", "test"):
        table(root / "ref_l4" / f"ref-l4-{split}.parquet", rows)


def groundingme(root: Path) -> None:
    def line(number: int, skill: str, part: str) -> dict[str, Any]:
        head = {"id": number, "description": f"thing {number}", "bbox": [5, 4, 15, 10], "height": H, "width": W}
        return head | {"image": picture(number), "subtask_l1": skill, "subtask_l2": part}

    rows = [line(1, "Spatial", "Counting"), line(2, "Spatial", "Relationship"), line(3, "Rejection", "Text")]
    table(root / "groundingme" / "data" / "test-00000-of-00001.parquet", rows)


def pbench(root: Path) -> None:
    square, corner = masks()
    rows = [
        {"image": picture(), "expression": "two dogs", "masks": [code(square), code(corner)], "count": 2, "id": 1},
        {"image": picture(), "expression": "a cat", "masks": [], "count": 0, "id": 2},
    ]
    for split in ("level_0", "level_1", "level_2", "level_3", "level_4", "dense"):
        table(root / "pbench" / "data" / f"{split}-00000-of-00001.parquet", rows)


def grounding_suite(root: Path) -> None:
    square, corner = masks()
    make_image(root / "grounding_suite" / "unlabeled2017" / "000000000267.jpg")
    lines = [
        {
            "idx": 0,
            "class_id": 1,
            "label": "smoke",
            "caption": "White smoke.",
            "box": list(BOX),
            "segmentation": code(square),
        },
        {
            "idx": 1,
            "class_id": 2,
            "label": "a leg",
            "caption": "Its leg.",
            "box": list(OTHER_BOX),
            "segmentation": code(corner),
        },
    ]
    held = [json.dumps(line | {"image_path": "unlabeled2017/000000000267.jpg"}) for line in lines]
    (root / "grounding_suite" / "GroundingSuite-Eval.jsonl").write_text("\n".join(held) + "\n")


def sa_co_gold(root: Path) -> None:
    square, corner = masks()
    pairs = [
        {"id": 10, "file_name": "1/a.jpeg", "text_input": "a Red car", "is_instance_exhaustive": True},
        {"id": 11, "file_name": "1/a.jpeg", "text_input": "a boat", "is_instance_exhaustive": True},
        {"id": 12, "file_name": "1/a.jpeg", "text_input": "leaves", "is_instance_exhaustive": False},
    ]
    things = [
        {
            "id": n,
            "image_id": 10,
            "area": 0.1,
            "bbox": [0.1, 0.2, 0.3, 0.3],
            "category_id": 1,
            "segmentation": code(mask),
        }
        for n, mask in enumerate((square, corner))
    ]
    value = {"info": {}, "images": [pair | {"height": H, "width": W} for pair in pairs], "annotations": things}
    for name in ("attributes", "crowded", "fg_food", "fg_sports_equipment", "metaclip", "sa1b", "wiki_common"):
        for letter in "abc":
            as_json(root / "sa_co_gold" / f"gold_{name}_merged_{letter}_release_test.json", value)
    for folder in ("metaclip", "sa1b"):
        make_image(root / "sa_co_gold" / folder / "1" / "a.jpeg")


SETS: dict[str, tuple[Callable[[Path], None], int]] = {
    "eval_reasonseg": (reasonseg, 2),
    "eval_refcoco_m": (refcoco_m, 1),
    "eval_ref_l4": (ref_l4, 2),
    "eval_groundingme": (groundingme, 1),
    "eval_pbench": (pbench, 6),
    "eval_grounding_suite": (grounding_suite, 1),
    "eval_sa_co": (sa_co_gold, 7),
}
"""Recipe -> its set in small, and how many rows it has."""


@pytest.mark.parametrize("name", SETS)
def test_a_recipe_reads_its_set_and_a_perfect_model_has_full_marks(name: str, tmp_path: Path) -> None:
    write, rows = SETS[name]
    write(tmp_path)
    recipe = parse_text(EvalRecipe, find("configs", f"eval/{name}").read_text())
    check_entries(recipe)
    built = dict(zip(recipe.dataset, build_datasets(recipe.dataset, tmp_path), strict=True))
    metrics = evaluate(Perfect(), built, recipe, tmp_path / "out", progress=False)
    assert metrics is not None and len(metrics["results"]) == rows
    for result in metrics["results"]:
        assert result["n"] >= 2 and result["skipped"] == 0
        for figure, value in (result["metrics"] | result.get("details", {})).items():
            assert value == pytest.approx(100) or figure in ("ECE", "AURC"), (result["dataset"], figure, value)


class Half(Perfect):
    """Right about what is asked first of every two, by the number in the sample's name; else it says nothing."""

    name = "half"

    def say(self, sample: Sample) -> Answer:
        return super().say(sample) if int(sample.name.split("/")[2]) % 2 == 0 else Answer("")


def measured(root: Path, entries: str) -> dict[str, Any]:
    recipe = parse_text(EvalRecipe, f"data_root: {root}\ndataset: {entries}")
    built = dict(zip(recipe.dataset, build_datasets(recipe.dataset, root), strict=True))
    metrics = evaluate(Half(), built, recipe, root / "out", progress=False)
    assert metrics is not None
    result: dict[str, Any] = metrics["results"][0]
    return result


def test_short_and_long_questions_are_told_apart(tmp_path: Path) -> None:
    """Of a (long), b and c (short) the second is missed."""
    reasonseg(tmp_path)
    result = measured(tmp_path, "{reasonseg: {split: test}}")
    assert result["n"] == 3  # of two texts the first is asked; training has both
    assert len(build_dataset("reasonseg", DatasetEntry(split="train"), tmp_path).queries(0)) == 2
    square, corner = (int(mask.sum()) for mask in masks())
    wanted = {"long gIoU": 100, "long cIoU": 100, "short gIoU": 50, "short cIoU": 100 * square / (square + corner)}
    assert result["details"] == pytest.approx(wanted)


def test_sizes_and_classes_of_ref_l4(tmp_path: Path) -> None:
    """Two of four are right: the small one and one of 256 pixels; class 1 is half right, 5 right, 37 wrong."""
    ref_l4(tmp_path)
    result = measured(tmp_path, "{ref_l4: {split: val}}")
    details = {name: value for name, value in result["details"].items() if name.endswith("Acc@0.5")}
    assert details == {"small Acc@0.5": 100, "medium Acc@0.5": 50, "large Acc@0.5": 0}
    figures = result["metrics"]
    assert figures["Acc@0.5"] == figures["mAcc"] == 50
    assert figures["class-average Acc@0.5"] == figures["class-average mAcc"] == pytest.approx(50)


def test_the_mean_accuracy_and_the_average_over_classes_by_hand() -> None:
    metric = ReferringBoxes(
        {"iou": iou, "missing": False, "class": kind} for iou, kind in ((0.62, "a"), (1, "a"), (0, "b"))
    )
    figures = metric.compute()
    assert figures["mAcc"] == pytest.approx(100 * (0.3 + 1 + 0) / 3)  # above .5, .55 and .6
    assert figures["class-average mAcc"] == pytest.approx(100 * ((0.3 + 1) / 2 + 0) / 2)
    assert figures["class-average Acc@0.5"] == 50 and figures["Acc@0.5"] == pytest.approx(200 / 3)


def test_what_has_to_be_rejected_is_a_group_of_its_own(tmp_path: Path) -> None:
    groundingme(tmp_path)
    result = measured(tmp_path, "{groundingme: {split: test}}")
    details = result["details"]
    assert (details["Spatial/Counting Acc@0.5"], details["Spatial/Relationship Acc@0.5"]) == (100, 0)
    assert details["Spatial mAcc"] == 50 and details["Rejection N-acc"] == details["Rejection/Text N-acc"] == 100
    assert result["metrics"]["Pr@F1"] == pytest.approx(200 / 3)  # the authors' accuracy over everything


class Greedy(Perfect):
    """Names the first true thing, or one that is not there."""

    def say(self, sample: Sample) -> Answer:
        regions = sample.turns[0].regions
        if regions:
            return Answer("", (self.ground(sample, regions[0]),))
        mask = np.ones((H, W), bool)
        return Answer("", (GroundedObject("x", (0, 0), mask, None, 0.9),))


def test_instances_of_pbench_and_sa_co_are_counted(tmp_path: Path) -> None:
    pbench(tmp_path)
    sa_co_gold(tmp_path)
    recipe = parse_text(EvalRecipe, "dataset: {pbench: {split: level_2}, sa_co_gold: {split: metaclip_a}}")
    built = dict(zip(recipe.dataset, build_datasets(recipe.dataset, tmp_path), strict=True))
    metrics = evaluate(Greedy(), built, recipe, tmp_path / "out", progress=False)
    assert metrics is not None
    for result in metrics["results"]:
        figures = result["metrics"]
        # One of two things: 2 / (1 + 2).
        assert (figures["pmF1"], figures["macro F1"]) == pytest.approx((200 / 3, 200 / 3))
        assert figures["IL_MCC"] == figures["cgF1"] == figures["N-acc"] == 0


def test_the_annotator_who_fits_the_answer_best_counts(tmp_path: Path) -> None:
    """The answer names one car and one boat; b saw the one car alone, and c the boat, where it is said."""
    sa_co_gold(tmp_path)
    square, corner = masks()
    for letter, things in (("b", [(10, square)]), ("c", [(10, corner), (11, np.ones((H, W), bool))])):
        file = tmp_path / "sa_co_gold" / f"gold_crowded_merged_{letter}_release_test.json"
        held = [{"image_id": number, "segmentation": code(mask)} for number, mask in things]
        as_json(file, json.loads(file.read_text()) | {"annotations": held})
    entries = "{best: {dataset: sa_co_gold, split: crowded}, first: {dataset: sa_co_gold, split: crowded_a}}"
    recipe = parse_text(EvalRecipe, f"dataset: {entries}")
    built = dict(zip(recipe.dataset, build_datasets(recipe.dataset, tmp_path), strict=True))
    metrics = evaluate(Greedy(), built, recipe, tmp_path / "out", progress=False)
    assert metrics is not None
    best, first = (result["metrics"] for result in metrics["results"])
    assert best["pmF1"] == best["macro F1"] == 100 and best["N-acc"] == first["N-acc"] == 0
    assert first["pmF1"] == pytest.approx(200 / 3) and first["gIoU"] == best["gIoU"]
    (tmp_path / "sa_co_gold" / "gold_crowded_merged_b_release_test.json").unlink()
    with pytest.raises(DataError, match="gold_crowded_merged_b_release_test.json: no such annotation file"):
        build_dataset("sa_co_gold", DatasetEntry(split="crowded"), tmp_path)


def test_images_are_written_out_once_under_names_of_our_own(tmp_path: Path) -> None:
    pbench(tmp_path)
    dataset = build_dataset("pbench", DatasetEntry(split="level_0"), tmp_path)
    files = sorted((tmp_path / "pbench" / "images").iterdir())
    assert len(dataset) == 2 and len(files) == 1 and files[0].suffix == ".png"
    written = files[0].stat().st_mtime_ns
    build_dataset("pbench", DatasetEntry(split="dense"), tmp_path)
    assert files[0].stat().st_mtime_ns == written
    shutil.rmtree(tmp_path / "pbench" / "images")
    again = build_dataset("pbench", DatasetEntry(split="level_0"), tmp_path)
    assert again.queries(0)[0].images[0].is_file()


def test_what_cannot_be_asked_is_left_out_and_named(tmp_path: Path) -> None:
    square, _ = masks()
    good = {"image": picture(), "expression": "a dog", "masks": [code(square)], "count": 1, "id": 1}
    small = {"size": [H, W - 1], "counts": rle_encode(square[:, :-1])["counts"]}
    rows = [
        good,
        good | {"expression": "  "},
        good | {"masks": [code(square), small]},
        good | {"image": {"bytes": b"\x89PNG\r\n\x1a\nnothing", "path": None}},
        good | {"image": {"bytes": None, "path": "elsewhere.png"}},
    ]
    table(tmp_path / "pbench" / "data" / "level_0-00000-of-00001.parquet", rows)
    entry = DatasetEntry(split="level_0")
    assert len(build_dataset("pbench", entry, tmp_path)) == 1
    named = "level_0-00000-of-00001.parquet: record"
    told = skipped_lines(open_store(locate("pbench", entry, tmp_path)).facts)
    assert told[0] == f"1 left out: a blank expression ({named} 1)"
    assert told[1] == f"1 left out: mask and image have different sizes ({named} 2)"
    assert f"({named} 3)" in told[2] and told[3] == f"1 left out: the image holds no bytes ({named} 4)"
    assert len(list((tmp_path / "pbench" / "images").iterdir())) == 1
    sa_co_gold(tmp_path)
    left = skipped_lines(open_store(locate("sa_co_gold", DatasetEntry(split="sa1b_a"), tmp_path)).facts)
    assert left == ["1 left out: not every instance is annotated (id 12)"]


def test_files_of_another_form_are_refused_in_one_line(tmp_path: Path) -> None:
    data = tmp_path / "pbench" / "data"
    with pytest.raises(UserError, match="no such folder of annotations"):
        build_dataset("pbench", DatasetEntry(split="level_0"), tmp_path)
    table(data / "level_1-00000-of-00001.parquet", [{"image": picture(), "expresion": "x", "masks": []}])
    with pytest.raises(DataError, match=r"holds no level_0-\*.parquet \(there are: level_1-00000-of-00001.parquet\)"):
        build_dataset("pbench", DatasetEntry(split="level_0"), tmp_path)
    with pytest.raises(DataError, match="no column 'expression'; did you mean 'expresion'"):
        build_dataset("pbench", DatasetEntry(split="level_1"), tmp_path)
    (data / "level_2-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        build_dataset("pbench", DatasetEntry(split="level_2"), tmp_path)
    sample = {"sentences": ["x"], "category": "dog", "bbox": None, "mask": code(masks()[0])}
    table(tmp_path / "refcoco_m" / "data" / "validation-0.parquet", [{"image": picture(), "samples": [sample]}])
    with pytest.raises(DataError, match=r"validation-0.parquet: record 0: a field is missing or has the wrong kind"):
        build_dataset("refcoco_m", DatasetEntry(split="val"), tmp_path)
    grounding_suite(tmp_path)
    file = tmp_path / "grounding_suite" / "GroundingSuite-Eval.jsonl"
    line = json.loads(file.read_text().splitlines()[0])
    for change, message in (
        ({"capton": "x"}, "no 'caption'; did you mean 'capton'"),
        ({"caption": "x", "box": [1, 2]}, "'box' four numbers"),
        ({"caption": "x", "segmentation": [[1, 2]]}, "has to be run lengths with 'size'"),
    ):
        kept = {key: value for key, value in line.items() if key != "caption"} | change
        file.write_text(json.dumps(kept) + "\n")
        with pytest.raises(DataError, match=message):
            build_dataset("grounding_suite", DatasetEntry(split="test"), tmp_path)
    as_json(tmp_path / "sa_co_gold" / "gold_sa1b_merged_a_release_test.json", {"images": [{"id": 1, "text": "x"}]})
    with pytest.raises(DataError, match="no 'file_name'"):
        build_dataset("sa_co_gold", DatasetEntry(split="sa1b_a"), tmp_path)
