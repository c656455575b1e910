"""COCO files, read back by pycocotools and supervision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.unit.exports.answered import BOX, MASKS, exported, make_results, plain, read_json, ring, thing, write_results

from ullava.atomic_write import write_json
from ullava.errors import DataError
from ullava.exports.collection import Choice
from ullava.exports.formats import export_results
from ullava.exports.settings import Settings
from ullava.inference.batch import Question
from ullava.structures import Answer


@pytest.mark.parametrize("form", ["polygons", "rle"])
def test_pycocotools_reads_the_very_masks(tmp_path: Path, form: str) -> None:
    notes = exported(tmp_path, "coco", form=form).notes
    coco = COCO(str(tmp_path / "out" / "instances.json"))
    assert [image["file_name"] for image in coco.imgs.values()] == ["a.png", "b.jpg", "more/a.jpg"]
    names = {category["id"]: category["name"] for category in coco.cats.values()}
    first = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [names[entry["category_id"]] for entry in first] == list(MASKS)
    for entry, mask in zip(first, MASKS.values(), strict=True):
        np.testing.assert_array_equal(coco.annToMask(entry).astype(bool), mask)
        assert entry["area"] == mask.sum() and entry["iscrowd"] == 0
    assert [isinstance(entry["segmentation"], list) for entry in first] == (
        [True, False, True] if form == "polygons" else [False] * 3
    )
    box_alone = coco.loadAnns(coco.getAnnIds(imgIds=[3]))[0]
    assert box_alone["segmentation"] == [] and box_alone["bbox"] == [3.25, 4.5, 17.5, 12.5]
    assert "1 objects have no mask: their segmentation is empty" in notes


def test_supervision_reads_the_run_lengths(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision", reason="supervision is the extra 'supervision'")
    exported(tmp_path, "coco", form="rle")
    read = sv.DetectionDataset.from_coco(
        str(tmp_path / "images"), str(tmp_path / "out" / "instances.json"), force_masks=True
    )
    found = next(found for path, _, found in read if path.endswith("images/a.png"))
    np.testing.assert_array_equal(found.mask, np.stack(list(MASKS.values())))


def test_results_are_judged_by_pycocotools(tmp_path: Path) -> None:
    exported(tmp_path, "coco")
    truth = COCO(str(tmp_path / "out" / "instances.json"))
    (tmp_path / "out").rename(tmp_path / "truth")
    notes = exported(tmp_path, "coco-results").notes
    found = truth.loadRes(str(tmp_path / "out" / "results.json"))
    judged = COCOeval(truth, found, "segm")
    judged.params.catIds = [2, 3, 4]
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == pytest.approx(1.0)
    for entry, mask in zip(found.loadAnns(found.getAnnIds(imgIds=[1])), MASKS.values(), strict=True):
        np.testing.assert_array_equal(found.annToMask(entry).astype(bool), mask)
    (boxed,) = read_json(tmp_path / "out" / "results_boxes.json")
    assert boxed == {"image_id": 3, "category_id": 1, "bbox": [3.25, 4.5, 17.5, 12.5], "score": 0.4}
    assert "1 objects without a mask are in results_boxes.json" in notes
    own = read_json(tmp_path / "out" / "results.json")[-1]
    assert own["bbox"] == [3.25, 4.5, 17.5, 12.5]  # the model's, not the mask's
    assert len(read_json(tmp_path / "out" / "images.json")) == 3
    assert [entry["name"] for entry in read_json(tmp_path / "out" / "categories.json")] == [
        "Dog", "red ring", "stairs", "two parts",
    ]  # fmt: skip


def ids_file(folder: Path, **changes: Any) -> Path:
    images = [
        {"id": 900, "file_name": "images/a.png", "height": 30, "width": 44},
        {"id": 17, "file_name": "b.jpg"},
        {"id": 5, "file_name": "images/more/a.jpg"},
    ]
    names = ("stairs", "Two Parts", "dog", "red ring", "cat")
    categories = [{"id": 10 * place, "name": name} for place, name in enumerate(names, start=1)]
    return write_json(folder / "truth.json", {"images": images, "categories": categories, **changes})


def test_ids_of_a_coco_file_are_kept(tmp_path: Path) -> None:
    exported(tmp_path, "coco-results", ids=ids_file(tmp_path))
    masked = read_json(tmp_path / "out" / "results.json")
    assert [(one["image_id"], one["category_id"]) for one in masked] == [(900, 10), (900, 40), (900, 20), (5, 40)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "results_boxes.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "images: no entry for"),
        ({"images": [{"id": 1, "file_name": "x/a.png"}] * 2}, "images: more than one entry for"),
        (
            {"images": [{"id": 1, "file_name": "a.png", "height": 44, "width": 30}]},
            r"'a.png' is \[44, 30\] \(HxW\) there, here \[30, 44\]",
        ),
        ({"categories": [{"id": 1, "name": "dogs"}]}, "categories: none is called 'Dog'"),
        ({"categories": {}}, "categories: expected a list"),
        ({"categories": [{"id": 1}]}, r"categories\[0\]: expected an object with id and name"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        exported(tmp_path, "coco", ids=ids_file(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_a_file_of_ids_that_is_cut_off_is_refused(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cut.json:2: is not JSON"):
        exported(tmp_path, "coco", ids=write("cut.json", '{"images":\n'))


def test_results_without_any_mask_are_boxes(tmp_path: Path) -> None:
    answers = [(Question("q", tuple([tmp_path / "images" / "b.jpg"]), "?"), Answer("", (thing("dog", None, BOX),)))]
    make_results(tmp_path)
    results = write_results(tmp_path / "boxes", answers)
    export_results(results, "coco-results", tmp_path / "out", Choice(), Settings())
    (entry,) = read_json(tmp_path / "out" / "results.json")
    assert "segmentation" not in entry and entry["bbox"] == [3.25, 4.5, 17.5, 12.5]


def test_an_object_that_several_images_share_stays_on_its_own(tmp_path: Path) -> None:
    make_results(tmp_path)
    both = (tmp_path / "images" / "a.png", tmp_path / "images" / "b.jpg")
    answer = Answer("", (thing("ring", ring(), image=1), thing("stairs", plain(), image=0)))
    results = write_results(tmp_path / "two", [(Question("q", both, "?"), answer)])
    export_results(results, "coco", tmp_path / "out", Choice(), Settings())
    coco = COCO(str(tmp_path / "out" / "instances.json"))
    for image, mask in ((2, ring()), (1, plain())):
        (entry,) = coco.loadAnns(coco.getAnnIds(imgIds=[image]))
        np.testing.assert_array_equal(coco.annToMask(entry).astype(bool), mask)
