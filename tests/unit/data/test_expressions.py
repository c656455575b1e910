"""Expressions of photographs mean what their records say: read a second time by ``expression_resolver``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.expression_resolver import Resolver, Seen

from ullava.cli.data_expressions import KIND_NAMES
from ullava.config.schema import DatasetEntry
from ullava.data.expressions.make import KINDS, weights_of
from ullava.data.expressions.write import Job, write_expressions
from ullava.errors import DataError
from ullava.geometry import segmentation_to_mask
from ullava.synthetic.vocabulary import plural

CLASSES = ["dog", "cat", "chair", "wine glass", "person", "bus", "skis", "couch"]
PAINTS = {
    "red": (205, 24, 30),
    "green": (36, 140, 50),
    "blue": (40, 70, 210),
    "yellow": (240, 214, 30),
    "black": (14, 14, 14),
    "white": (250, 250, 250),
    "unclear": (170, 140, 110),
}


def layout(rng: Random, number: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A random image of rectangles that do not hide each other, and its annotations."""
    width, height = rng.choice(((320, 240), (240, 320), (300, 300)))
    image = np.full((height, width, 3), 118, dtype=np.uint8)
    image[:, ::7] = (90, 120, 150)
    taken = np.zeros((height, width), dtype=bool)
    names = rng.sample(CLASSES, rng.randint(1, 4))
    annotations: list[dict[str, Any]] = []
    for _ in range(rng.randint(2, 10)):
        w, h = rng.randint(16, 110), rng.randint(16, 110)
        x, y = rng.randint(0, width - w), rng.randint(0, height - h)
        if taken[y : y + h, x : x + w].any():
            continue
        taken[y : y + h, x : x + w] = True
        image[y : y + h, x : x + w] = PAINTS[rng.choice(list(PAINTS))]
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        kind = CLASSES.index(rng.choice(names)) + 1
        annotations.append({"category_id": kind, "bbox": [x, y, w, h], "segmentation": corners, "iscrowd": 0})
    return image, annotations


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``instances.json`` of random layouts and their images."""
    root = tmp_path_factory.mktemp("layouts")
    rng = Random(5)
    told: dict[str, list[Any]] = {"images": [], "annotations": []}
    told["categories"] = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    for number in range(1, 71):
        image, annotations = layout(rng, number)
        Image.fromarray(image).save(root / f"{number}.png")
        size = {"height": image.shape[0], "width": image.shape[1]}
        told["images"].append({"id": number, "file_name": f"{number}.png"} | size)
        for annotation in annotations:
            told["annotations"].append(annotation | {"id": len(told["annotations"]) + 1, "image_id": number})
    (root / "instances.json").write_text(json.dumps(told))
    return root


def job(root: Path, out: Path, **changes: Any) -> Job:
    settings: dict[str, Any] = {"instances": root / "instances.json", "images": root, "out": out, "kinds": KINDS}
    return Job(**settings | changes)


def resolved(instances: Path, images: Path, made: Path, boxes: bool = False) -> Counter[str]:
    """Read every expression of ``made`` a second time; return how many there are of each kind."""
    told = json.loads(instances.read_text())
    names = {entry["id"]: entry["name"] for entry in told["categories"]}
    by_name = {entry["file_name"]: entry for entry in told["images"]}
    parts: dict[int, list[dict[str, Any]]] = {}
    for part in told["annotations"]:
        parts.setdefault(part["image_id"], []).append(part)
    kinds: Counter[str] = Counter()
    wrong = []
    for record in json.loads(made.read_text()):
        entry = by_name[record["image_path"]]
        size = entry["height"], entry["width"]
        here = parts[entry["id"]]
        objects = []
        for part in here:
            x, y, w, h = part["bbox"]
            mask = None if boxes else segmentation_to_mask(part["segmentation"], *size)
            objects.append(Seen(names[part["category_id"]], (x, y, min(x + w, size[1]), min(y + h, size[0])), mask))
        image = np.asarray(Image.open(images / record["image_path"]).convert("RGB"))
        resolver = Resolver(image, objects, list(names.values()))
        targets = {part["annotation_id"] for part in record["annotations"]}
        for words, kind in zip(record["sentences"], record["rules"], strict=True):
            kinds[kind] += 1
            try:
                meant = {here[place]["id"] for place in resolver.resolve(words)}
            except ValueError as error:
                wrong.append(f"{record['image_path']}: {error}")
                continue
            if meant != targets:
                wrong.append(f"{record['image_path']}: '{words}' ({kind}): {sorted(meant)}, not {sorted(targets)}")
    assert not wrong, f"{len(wrong)} of {kinds.total()}:\n" + "\n".join(wrong[:40])
    return kinds


def test_every_expression_of_random_layouts_is_resolved(world, tmp_path):
    written = write_expressions(job(world, tmp_path / "e.json", per_image=30, min_area=0.002))
    kinds = resolved(world / "instances.json", world, tmp_path / "e.json")
    assert dict(kinds) == {kind: count for kind, count in written.kinds.items() if count}
    assert kinds.total() > 600 and min(kinds[kind] for kind in KINDS) > 20, kinds


def test_the_resolver_notices_a_wrong_target(world, tmp_path):
    write_expressions(job(world, tmp_path / "e.json", kinds=weights_of(["order", "size", "color"])))
    records = json.loads((tmp_path / "e.json").read_text())
    told = json.loads((world / "instances.json").read_text())
    by_name = {entry["file_name"]: entry["id"] for entry in told["images"]}
    for record in records:
        here = [part["id"] for part in told["annotations"] if part["image_id"] == by_name[record["image_path"]]]
        (target,) = record["annotations"]
        target["annotation_id"] = next((other for other in here if other != target["annotation_id"]), 0)
    total = sum(len(record["sentences"]) for record in records)
    (tmp_path / "wrong.json").write_text(json.dumps(records))
    with pytest.raises(AssertionError, match=f"{total} of {total}"):
        resolved(world / "instances.json", world, tmp_path / "wrong.json")


def test_every_expression_by_boxes_alone_is_resolved(world, tmp_path):
    write_expressions(job(world, tmp_path / "e.json", per_image=12, min_area=0.002, boxes_only=True))
    assert resolved(world / "instances.json", world, tmp_path / "e.json", boxes=True).total() > 350
    parts = [part for record in json.loads((tmp_path / "e.json").read_text()) for part in record["annotations"]]
    assert all(part["box_only"] and "segmentation" not in part for part in parts)


def test_every_expression_of_the_photographs_is_resolved(shared_dir, tmp_path):
    root = shared_dir / "realdata" / "photos" / "coco"
    if not (root / "instances_val.json").is_file():
        pytest.skip(f"{root} has no instances_val.json")
    instances = root / "instances_val.json"
    write_expressions(job(root, tmp_path / "e.json", instances=instances, images=root / "images"))
    kinds = resolved(instances, root / "images", tmp_path / "e.json")
    assert kinds.total() > 500 and all(kinds[kind] for kind in KINDS)


# ---------------------------------------------------------------- what is written
def test_the_same_seed_writes_the_same_file(world, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_expressions(job(world, tmp_path / name, seed=seed, per_image=4))
    texts = [(tmp_path / name).read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]


def test_a_class_with_a_crowd_is_neither_named_nor_called_absent(world, tmp_path):
    told = json.loads((world / "instances.json").read_text())
    for part in told["annotations"]:
        if part["category_id"] == CLASSES.index("dog") + 1 and part["id"] % 2:
            part["iscrowd"] = 1
    crowded = {part["image_id"] for part in told["annotations"] if part["iscrowd"]}
    (tmp_path / "crowds.json").write_text(json.dumps(told))
    write_expressions(job(world, tmp_path / "e.json", instances=tmp_path / "crowds.json"))
    names = {f"{number}.png" for number in crowded}
    records = [r for r in json.loads((tmp_path / "e.json").read_text()) if r["image_path"] in names]
    assert len(records) > 10 and not any("dog" in words for record in records for words in record["sentences"])


def test_targets_cover_their_share_and_images_have_their_most(world, tmp_path):
    write_expressions(job(world, tmp_path / "e.json", min_area=0.04, per_image=3))
    counts: Counter[str] = Counter()
    for record in json.loads((tmp_path / "e.json").read_text()):
        counts[record["image_path"]] += len(record["sentences"])
        for part in record["annotations"]:
            assert part["bbox"][2] * part["bbox"][3] >= 0.04 * record["height"] * record["width"]
    assert max(counts.values()) == 3


def test_an_image_with_an_empty_mask_is_left_out_and_named(world, tmp_path):
    told = json.loads((world / "instances.json").read_text())
    told["annotations"][0]["segmentation"] = [[5.0, 5.0, 5.0, 5.0, 5.0, 5.0]]
    (tmp_path / "damaged.json").write_text(json.dumps(told))
    written = write_expressions(job(world, tmp_path / "e.json", instances=tmp_path / "damaged.json", per_image=2))
    assert len(written.skipped) == 1 and "annotations[0]" in written.skipped[0]
    assert "left out: 1.png: " in written.lines()[-1]
    assert not any(record["image_path"] == "1.png" for record in json.loads((tmp_path / "e.json").read_text()))


def test_the_command_writes_what_the_reader_takes(command, world, tmp_path, build, data_folder):
    out = data_folder.root / "e.json"
    told = ["--instances", str(world / "instances.json"), "--images", str(world), "--exhaustive", "--out", str(out)]
    code, shown, err = command("data", "expressions", *told, "--per-image", "6", "--kinds", "order,absent")
    assert code == 0, err
    records = json.loads(out.read_text())
    assert {kind for record in records for kind in record["rules"]} == {"order", "absent"}
    assert f"expressions in {len(records)} records of 70 images" in shown and "order" in shown
    assert records[0]["made_by"] == "ullava data expressions --seed 0 of instances.json"
    for record in records:
        data_folder.image(record["image_path"], np.asarray(Image.open(world / record["image_path"])))
    dataset = build("grefer", records, DatasetEntry(turns=0))
    for place, record in enumerate(records):
        queries = dataset.queries(place)
        assert len(queries) == len(record["sentences"])
        assert len(queries[0].turns[0].regions) == len(record["annotations"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--kinds", "colour"], "--kinds: no kind 'colour'; did you mean 'color'"),
        (["--per-image", "0"], "--per-image has to be 1 or more"),
        (["--min-area", "1"], "--min-area is a share of the image"),
        (["--images", "nowhere"], "--images nowhere: no such folder"),
    ],
)
def test_the_command_says_what_is_wrong(command, world, tmp_path, changes, message):
    told = ["--instances", str(world / "instances.json"), "--images", str(world), "--out", str(tmp_path / "e.json")]
    code, _, err = command("data", "expressions", *told, "--exhaustive", *changes)
    assert code == 2 and message in err and not (tmp_path / "e.json").exists()


def test_a_file_is_not_taken_for_exhaustive_unless_it_is_said(command, world, tmp_path):
    told = ["--instances", str(world / "instances.json"), "--images", str(world), "--out", str(tmp_path / "e.json")]
    code, _, err = command("data", "expressions", *told)
    assert code == 2 and "--exhaustive: say that the file lists every object" in err


def test_a_file_that_is_there_is_kept(world, tmp_path):
    (tmp_path / "e.json").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        write_expressions(job(world, tmp_path / "e.json"))
    assert (tmp_path / "e.json").read_text() == "mine"


def test_the_command_names_the_kinds_that_there_are():
    assert KIND_NAMES == tuple(KINDS)


@pytest.mark.parametrize(
    ("noun", "many"),
    [("dog", "dogs"), ("wine glass", "wine glasses"), ("person", "people"), ("couch", "couches"), ("bunny", "bunnies")]
    + [("toy", "toys"), ("knife", "knives"), ("cross", "crosses"), ("sheep", "sheep"), ("box", "boxes")],
)
def test_plurals(noun, many):
    assert plural(noun) == many
