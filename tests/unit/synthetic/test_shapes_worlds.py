"""The kinds of synthetic worlds: the plain one stays what it was, the detailed one needs to be seen at full size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ullava.cli.main import main
from ullava.errors import DataError
from ullava.synthetic.records import SceneRecords
from ullava.synthetic.render import render
from ullava.synthetic.scene import sample_scene
from ullava.synthetic.worlds import DETAIL, PLAIN, WORLDS
from ullava.synthetic.write import draw_scene, draw_world

PLAIN_SCENES = "a3f5982c3516c3d5c30cc008db282878a8824305730df53646aa4c75c57ead93"
"""Of the scenes and words below as they were when models/tiny was trained on them."""


def words_and_places() -> str:
    found = []
    for split in ("train", "seen", "unseen"):
        for index in range(8):
            scene = sample_scene(split, 5, index)
            things = [
                (thing.colour, thing.shape, thing.size, thing.texture, thing.core, round(thing.diameter_px, 3))
                for thing in scene.things
            ]
            records = SceneRecords.of(scene, render(scene))
            found.append([scene.width, scene.height, things, records.vqa(), records.caption(), records.drill()])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def test_the_plain_world_is_what_it_was() -> None:
    assert words_and_places() == PLAIN_SCENES


def test_the_plain_world_is_the_default(tmp_path: Path) -> None:
    drawn = draw_scene(0, 3, "train", PLAIN)
    assert drawn == draw_scene(0, 3, "train")
    assert draw_scene(0, 3, "train", DETAIL).images != drawn.images


def test_sizes_of_the_detailed_world() -> None:
    canvases, counts = set(), set()
    for index in range(40):
        scene = sample_scene("train", 2, index, DETAIL)
        canvases.add((scene.width, scene.height))
        counts.add(len(scene.things))
        for place, thing in enumerate(scene.things):
            low, high = DETAIL.small_px if thing.size == "small" else DETAIL.large_px
            if place == scene.salient:
                low, high = DETAIL.salient_px
            assert low <= thing.diameter_px <= high
        masks = render(scene).masks
        assert int(masks.sum(axis=0).max()) == 1 and masks.any(axis=(1, 2)).all()
    assert canvases == set(DETAIL.canvases)
    assert min(counts) >= 4 and max(counts) == max(DETAIL.counts)


def roughness(image: np.ndarray, mask: np.ndarray) -> float:
    """How much brightness differs from pixel to pixel well inside a thing."""
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    grey = image.astype(np.float64).mean(axis=2)
    return float(grey[inside].std()) if inside.any() else 0.0


def test_textures_are_there_at_full_size_and_hardly_when_small() -> None:
    """At a third of its size, as a square tower of 128 pixels sees an image 384 wide, a texture is nearly gone."""
    full, small = {"plain": [], "fine": []}, {"plain": [], "fine": []}
    for index in range(30):
        scene = sample_scene("train", 4, index, DETAIL)
        image = render(scene)
        third = (scene.width // 3, scene.height // 3)
        shrunk = cv2.resize(image.image_rgb_u8, third, interpolation=cv2.INTER_AREA)
        for thing, mask in zip(scene.things, image.masks, strict=True):
            if thing.core is not None or thing.size == "small":
                continue
            kind = "plain" if thing.texture == "plain" else "fine"
            seen = cv2.resize(mask.astype(np.float32), third, interpolation=cv2.INTER_AREA) > 0.99
            full[kind].append(roughness(image.image_rgb_u8, mask))
            small[kind].append(roughness(shrunk, seen))
    assert np.median(full["fine"]) > 12 > 4 > np.median(full["plain"])
    assert np.median(small["fine"]) < 0.4 * np.median(full["fine"])


def test_a_texture_leaves_the_mean_colour_alone() -> None:
    shifts = []
    for index in range(30):
        scene = sample_scene("train", 4, index, DETAIL)
        image = render(scene)
        for thing, mask in zip(scene.things, image.masks, strict=True):
            if thing.texture != "plain" and thing.size == "large" and thing.colour in ("red", "green", "blue"):
                inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
                shifts.append(np.abs(image.image_rgb_u8[inside].mean(axis=0) - thing.rgb).max())
    assert len(shifts) >= 5 and float(np.median(shifts)) < 20


def test_it_asks_about_textures_often(tmp_path: Path) -> None:
    kinds = [
        kind
        for index in range(40)
        for scene in [sample_scene("train", 1, index, DETAIL)]
        for record in SceneRecords.of(scene, render(scene)).vqa()
        for kind in record["answer_type"]
    ]
    assert set(kinds) == set(DETAIL.asks) and kinds.count("texture") / len(kinds) > 0.15
    for world in WORLDS.values():
        assert sum(world.asks.values()) == pytest.approx(1.0)


def test_draw_writes_the_world_of_that_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        line = ["data", "draw", "--out", str(out), "--images", "3", "--seed", "2", "--world", "detail"]
        assert main(line) == 0
    assert json.loads((outs[0] / "world.json").read_text())["world"] == "detail shapes"
    names = sorted(path.relative_to(outs[0]) for path in outs[0].rglob("*") if path.is_file())
    assert all((outs[0] / name).read_bytes() == (outs[1] / name).read_bytes() for name in names) and len(names) > 15
    with pytest.raises(DataError, match="did you mean 'detail'"):
        draw_world(tmp_path / "c", 2, 0, world="detial")
    assert main(["data", "draw", "--out", str(tmp_path / "c"), "--videos", "2", "--world", "detail"]) == 2
    assert "plain world only" in capsys.readouterr().err and not (tmp_path / "c").exists()
