"""Images and masks of the synthetic world, and the files that hold them."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ullava.errors import DataError, UserError
from ullava.synthetic.forms import Description, Relation, denote
from ullava.synthetic.records import SceneRecords
from ullava.synthetic.render import render
from ullava.synthetic.scene import sample_scene
from ullava.synthetic.vocabulary import COLOURS, HELD_OUT, SHAPES, SPLITS, VERSION, class_id
from ullava.synthetic.write import ANNOTATIONS, draw_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("drawn") / "world", 12, 4, "train", progress=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_held_out_pairs_leave_every_colour_and_shape_in_training() -> None:
    assert len(HELD_OUT) == 10
    for colour in COLOURS:
        assert 1 <= sum(pair[0] == colour for pair in HELD_OUT) <= 2
    for shape in SHAPES:
        assert 1 <= sum(pair[1] == shape for pair in HELD_OUT) <= 2


@pytest.mark.parametrize("split", SPLITS)
def test_masks_are_disjoint_and_where_the_colour_is(split: str) -> None:
    for index in range(20):
        scene = sample_scene(split, 0, index)  # type: ignore[arg-type]
        image = render(scene)
        assert 2 <= len(scene.things) <= 6
        assert int(image.masks.sum(axis=0).max()) == 1
        assert not (image.cores & ~image.masks).any()
        for thing, mask, core in zip(scene.things, image.masks, image.cores, strict=True):
            assert bool(core.any()) == (thing.core is not None)
            seen = np.median(image.image_rgb_u8[mask & ~core].reshape(-1, 3), axis=0)
            nearest = min(COLOURS, key=lambda name: math.dist(COLOURS[name], seen))
            assert thing.texture != "plain" or nearest == thing.colour
            y, x = np.nonzero(mask)
            middle = ((x.min() + x.max() + 1) / 2, (y.min() + y.max() + 1) / 2)
            assert math.dist(middle, thing.centre_px) < 1.0


def test_sizes_have_a_clear_gap_and_objects_keep_apart() -> None:
    for index in range(60):
        scene = sample_scene("train", 9, index)
        for thing in scene.things:
            assert thing.diameter_px <= 27 if thing.size == "small" else thing.diameter_px >= 36
        for one, other in combinations(scene.things, 2):
            apart = np.abs(np.subtract(one.centre_px, other.centre_px))
            assert (apart >= one.outline_px.max(axis=0) + other.outline_px.max(axis=0) + 3.99).any()
        if scene.salient is not None:
            rest = [thing.diameter_px for place, thing in enumerate(scene.things) if place != scene.salient]
            assert scene.things[scene.salient].diameter_px > 1.65 * max(rest)


def test_segmentations_give_the_masks_back() -> None:
    forms = set()
    for index in range(24):
        scene = sample_scene("seen", 2, index)
        records = SceneRecords.of(scene, render(scene))
        for place, mask in enumerate(records.image.masks):
            segmentation = records.segmentation(place)
            height, width = mask.shape
            if isinstance(segmentation[0], list):
                forms.add("polygon")
                assert scene.things[place].shape != "ring"
                back = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
                shared = np.logical_and(back, mask).sum() / np.logical_or(back, mask).sum()
                assert shared >= 0.97
            else:
                (rle,) = segmentation
                forms.add(type(rle["counts"]).__name__)
                if isinstance(rle["counts"], list):
                    rle = coco_mask.frPyObjects(rle, height, width)
                assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
    assert forms == {"polygon", "str", "list"}


def test_relations_too_close_to_call_denote_nothing_certain() -> None:
    for index in range(200):
        scene = sample_scene("train", 6, index)
        one, other = scene.things[0], scene.things[1]
        whole = [Description(t.colour, t.shape, t.size, t.texture, t.core) for t in (one, other)]
        if whole[0].matches(scene) == [0] and whole[1].matches(scene) == [1]:
            ahead = other.centre_px[0] - one.centre_px[0]
            expected = None if abs(ahead) < 10 else frozenset({0} if ahead > 0 else ())
            assert denote(Relation(whole[0], "left", whole[1]), scene) == expected


def test_label_and_salient_images_agree_with_the_instances(world: Path) -> None:
    truth = COCO(str(world / "annotations" / "instances.json"))
    semantic = {r["image_path"]: r for r in json.loads((world / "annotations" / "semantic.json").read_text())}
    for image in truth.loadImgs(truth.getImgIds()):
        assert cv2.imread(str(world / image["file_name"])).shape == (image["height"], image["width"], 3)
        record = semantic[image["file_name"]]
        label = cv2.imread(str(world / record["label_path"]), cv2.IMREAD_UNCHANGED)
        expected = np.zeros_like(label)
        for annotation in truth.loadAnns(truth.getAnnIds(image["id"])):
            expected[truth.annToMask(annotation) > 0] = annotation["category_id"]
        assert np.array_equal(label, expected)
        assert {c["class_id"] for c in record["classes"]} == set(np.unique(label)) - {0}
        assert all(c["class_id"] == class_id(c["class"]) for c in record["classes"])
    for record in json.loads((world / "annotations" / "salient.json").read_text()):
        mask = cv2.imread(str(world / record["label_path"]), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) == {0, 255}
        assert record["gpt"]["tag"].split()[1] in SHAPES


def test_parts_lie_inside_their_objects(world: Path) -> None:
    records = json.loads((world / "annotations" / "parts.json").read_text())
    assert records
    for record in records:
        assert len(record["classes"]) == len(record["annotations"])
        assert all(name.split()[0] in ("core", "rim") for name in record["classes"])
        for core, rim in zip(record["annotations"][::2], record["annotations"][1::2], strict=True):
            (cx, cy, cw, ch), (x, y, w, h) = core["bbox"], rim["bbox"]
            assert x < cx and y < cy and cx + cw < x + w and cy + ch < y + h


def test_the_same_seed_draws_the_same_bytes_and_fewer_images_are_a_beginning(world: Path, tmp_path: Path) -> None:
    again = draw_world(tmp_path / "again", 12, 4, "train", workers=2, progress=False)
    assert files_of(again) == files_of(world)
    fewer, more = files_of(draw_world(tmp_path / "fewer", 5, 4, "train", progress=False)), files_of(world)
    images = [name for name in fewer if name.endswith((".jpg", ".png"))]
    assert len(images) > 10 and all(fewer[name] == more[name] for name in images)
    for name in ANNOTATIONS:
        few, all_of_them = (json.loads(files[f"annotations/{name}.json"]) for files in (fewer, more))
        assert all_of_them[: len(few)] == few


@pytest.mark.parametrize(("split", "seed"), [("seen", 4), ("unseen", 4), ("train", 5)])
def test_splits_and_seeds_draw_different_scenes(split: str, seed: int, world: Path, tmp_path: Path) -> None:
    other = files_of(draw_world(tmp_path / "other", 3, seed, split, progress=False))
    assert not {data for name, data in other.items() if name.endswith(".jpg")} & set(files_of(world).values())
    assert json.loads(other["world.json"]) == {
        "world": "shapes", "version": VERSION, "seed": seed, "split": split, "images": 3,
    }  # fmt: skip


def test_refuses_what_makes_no_sense_and_leaves_nothing_behind(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an empty folder"):
        draw_world(world, 1, 0, progress=False)
    with pytest.raises(DataError) as problems:
        draw_world(tmp_path / "w", 0, -1, "sen", workers=0)
    assert len(problems.value.problems) == 4
    assert "did you mean 'seen'" in problems.value.problems[0]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        draw_world(tmp_path / "file" / "w", 1, 0, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ullava.synthetic.write._write_instances", stop)
    with pytest.raises(KeyboardInterrupt):
        draw_world(tmp_path / "w", 2, 0, progress=False)
    assert list(tmp_path.iterdir()) == []
