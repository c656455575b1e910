"""Mask images and referring expressions become a dataset; every fault is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import (
    CORNER,
    H,
    W,
    as_json,
    as_pickle,
    instances,
    make_image,
    masks,
    opened,
    png,
    read_all,
    ref,
    report,
)

Command = Callable[..., tuple[int, str, str]]


# ---------------------------------------------------------------- masks
def trimap(root: Path) -> list[str]:
    """Write two images whose masks say 1 thing, 2 nothing, 3 border."""
    stored = np.full((H, W), 2, np.uint8)
    stored[masks()[0]] = 1
    stored[masks()[1]] = 3
    for name in ("a", "b"):
        make_image(root / "images" / f"{name}.jpg")
        png(root / "trimaps" / f"{name}.png", stored)
    folders = ["--images", str(root / "images"), "--masks", str(root / "trimaps"), "--out", str(root / "mine")]
    return ["data", "import", "masks", *folders, "--labels", "1=pet", "--background", "2"]


def test_masks_become_classes_with_pixels_for_nobody(command: Command, tmp_path: Path) -> None:
    assert command(*trimap(tmp_path), "--ignore", "3")[0] == 0
    dataset = opened(tmp_path / "mine")
    (query,) = dataset.queries(0)
    assert (dataset.task, query.truth["class"], len(dataset)) == ("semantic", "pet", 2)
    np.testing.assert_array_equal(query.turns[0].regions[0].mask, masks()[0])
    np.testing.assert_array_equal(query.truth["ignore_mask"], masks()[1])


def test_masks_become_salient_objects(command: Command, tmp_path: Path) -> None:
    assert command(*trimap(tmp_path), "--ignore", "3", "--salient")[0] == 0
    dataset = opened(tmp_path / "mine")
    assert dataset.task == "salient"
    np.testing.assert_array_equal(dataset.queries(1)[0].turns[0].regions[0].mask, masks()[0])


def test_bad_masks_are_all_named(command: Command, tmp_path: Path) -> None:
    line = [*trimap(tmp_path), "--ignore", "3"]
    png(tmp_path / "trimaps" / "b.png", np.full((H, W), 7, np.uint8))
    make_image(tmp_path / "images" / "c.jpg")
    png(tmp_path / "trimaps" / "c.png", np.full((H, W - 1), 1, np.uint8))
    png(tmp_path / "trimaps" / "d.png", np.full((H, W), 1, np.uint8))
    make_image(tmp_path / "images" / "e.jpg")
    png(tmp_path / "trimaps" / "e.png", np.full((H, W, 3), 1, np.uint8))
    make_image(tmp_path / "images" / "f.jpg")
    png(tmp_path / "trimaps" / "f.png", np.full((H, W), 2, np.uint8))
    code, _, err = command(*line)
    assert code == 2 and len(err.splitlines()) == 5
    for message in (
        "b.png: holds the value 7, which has no meaning; known: 1=pet",
        "c.png: has 29 x 20 pixels (width x height), but c.jpg has 30 x 20",
        "d.png: nothing of this name is in",
        "e.png: a label image has one channel",
    ):
        assert message in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and "f.png: no pixel of a class" in out and len(opened(tmp_path / "mine")) == 1
    assert len(report(tmp_path / "mine")["left_out"]) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ignore", "1"], "value 1 is given two meanings"),
        (["--ignore", "2"], "value 2 is given two meanings"),
        (["--labels", "pet"], "--labels: 'pet': expected a stored value and a name"),
        (["--labels", "1=a", "1=b"], "--labels: value 1 is named twice"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(
    command: Command, tmp_path: Path, more: list[str], message: str
) -> None:
    code, _, err = command(*trimap(tmp_path), *more)
    assert code == 2 and message in err


def test_real_trimaps_come_back_whole(command: Command, tmp_path: Path, shared_dir: Path) -> None:
    given = shared_dir / "realdata" / "pets_sample"
    line = ["--images", str(given / "images"), "--masks", str(given / "trimaps"), "--out", str(tmp_path / "pets")]
    meaning = ["--labels", "1=pet", "--background", "2", "--ignore", "3", "--hold-out", "20", "--link"]
    code, out, err = command("data", "import", "masks", *line, *meaning)
    assert (code, err) == (0, ""), err
    assert "split train: 40 records" in out and "split val: 20 records" in out
    assert read_all(opened(tmp_path / "pets")) == 40


# ---------------------------------------------------------------- expressions
def refs(root: Path, *entries: dict[str, Any], name: str = "refs(me).p") -> list[str]:
    value = instances("a.jpg")
    value["images"][1] |= {"height": H, "width": W, "file_name": "b.jpg"}
    as_json(root / "instances.json", value)
    file = root / name
    given = list(entries or (ref(1, 70, "train", "the dog", "left"), ref(2, 71, "val", "racket")))
    _ = as_pickle(file, given) if file.suffix == ".p" else as_json(file, given)
    for each in ("a.jpg", "b.jpg"):
        make_image(root / "images" / each)
    files = ["--refs", str(file), "--instances", str(root / "instances.json"), "--images", str(root / "images")]
    return ["data", "import", "refs", *files, "--out", str(root / "mine")]


@pytest.mark.parametrize("name", ["refs(me).p", "refs.json"])
def test_expressions_are_rewritten_as_records(command: Command, tmp_path: Path, name: str) -> None:
    code, _, err = command(*refs(tmp_path, name=name), "--part", "train")
    assert (code, err) == (0, "")
    dataset = opened(tmp_path / "mine")
    assert [query.truth["expression"] for query in dataset.queries(0)] == ["the dog", "left"]
    assert len(dataset) == 1 and read_all(dataset) == 2
    np.testing.assert_array_equal(dataset.queries(0)[0].turns[0].regions[0].mask, masks()[0])


def test_expressions_for_several_or_none_are_groups(command: Command, tmp_path: Path) -> None:
    groups = [ref(1, [70, 71], "train", "all", no_target=False), ref(2, [-1], "train", "a cow", no_target=True)]
    assert command(*refs(tmp_path, *groups, name="grefs.json"))[0] == 0
    both, none = (opened(tmp_path / "mine").queries(index)[0].turns[0] for index in range(2))
    assert (len(both.regions), none.regions) == (2, ())


def test_expressions_with_bad_masks_or_images_are_named(command: Command, tmp_path: Path) -> None:
    line = refs(tmp_path, ref(1, 70), ref(2, 71), ref(3, 72, image_id=8))
    value = json.loads((tmp_path / "instances.json").read_text())
    value["annotations"][1]["segmentation"] = [CORNER[:4]]
    as_json(tmp_path / "instances.json", value)
    (tmp_path / "images" / "b.jpg").unlink()
    code, _, err = command(*line)
    assert code == 2 and "ref_id 2: polygon 0 needs three points" in err and "b.jpg: no such image" in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and len(opened(tmp_path / "mine")) == 1
    assert len(report(tmp_path / "mine")["left_out"]) == 2


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_something_is_refused(command: Command, tmp_path: Path) -> None:
    line = refs(tmp_path)
    as_pickle(tmp_path / "refs(me).p", [_Harm(tmp_path / "harm")])
    code, _, err = command(*line, "--skip-bad")
    assert code == 2 and "refs(me).p: refused: it names" in err
    assert not (tmp_path / "harm").exists() and not (tmp_path / "mine").exists()


def test_real_expressions_on_real_photos_can_be_imported(command: Command, tmp_path: Path, shared_dir: Path) -> None:
    """The joined part of refcocos, put into the form of refs(*).p with COCO's own masks."""
    root = shared_dir / "realdata"
    joins = json.loads((root / "refcocos" / "mask_join_dev.json").read_text())["joins"]
    coco = json.loads((root / "coco_tiny_liz" / "annotations" / "instances_val2017.json").read_text())
    known = {entry["id"]: entry for entry in coco["annotations"]}
    here = [join for join in joins if join["ann_id"] in known]
    if not here:
        pytest.skip("no joined expression is on the photos of coco_tiny_liz")
    entries = [ref(n, join["ann_id"], "dev", join["caption"], image_id=join["image_id"]) for n, join in enumerate(here)]
    as_json(tmp_path / "refs.json", entries)
    as_json(tmp_path / "instances.json", coco)
    files = ["--refs", str(tmp_path / "refs.json"), "--instances", str(tmp_path / "instances.json")]
    photos = str(root / "coco_tiny_liz" / "val2017")
    assert command("data", "import", "refs", *files, "--images", photos, "--out", str(tmp_path / "dev"))[0] == 0
    assert read_all(opened(tmp_path / "dev")) == len(here)
