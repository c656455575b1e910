"""Questions of the synthetic world that point at regions: right by construction, drawn the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from ullava.cli.main import main
from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.geometry import box_iou, mask_to_box_xyxy_px, rle_decode
from ullava.synthetic.pointing import AT_MOST, LOOSE, pointed_questions
from ullava.synthetic.records import SceneRecords
from ullava.synthetic.render import render
from ullava.synthetic.scene import sample_scene
from ullava.synthetic.write import ANNOTATIONS, POINTING, draw_scene, draw_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes with questions that point."""
    folder = tmp_path_factory.mktemp("drawn") / "world"
    return draw_world(folder, 10, 4, "train", progress=False, regions=True)


def test_answers_are_true_of_what_is_pointed_at() -> None:
    seen: dict[str, list[str]] = {}
    for index in range(60):
        scene = sample_scene("train", 7, index)
        asked = pointed_questions(scene, Random(index))
        assert 0 < len(asked) <= AT_MOST
        assert {place for one in asked for place in one.places} == set(range(len(scene.things))), "each at least once"
        for one in asked:
            things = [scene.things[place] for place in one.places]
            question, (right,) = one.question, one.question.accepted
            assert question.words.count("<region>") == len(things)
            expected = {
                "region name": f"a {' '.join(things[0].pair)}".replace("a orange", "an orange"),
                "region colour": things[0].colour,
                "region shape": things[0].shape,
            }.get(question.kind)
            if expected is None:
                axis = 0 if question.kind == "region left of" else 1
                expected = "yes" if things[0].centre_px[axis] < things[1].centre_px[axis] else "no"
            assert right == expected and question.answer == f"{expected.capitalize()}."
            seen.setdefault(question.kind, []).append(right)
    assert set(seen) == {"region name", "region colour", "region shape", "region left of", "region above"}
    for kind in ("region left of", "region above"):
        assert 0.3 < np.mean([answer == "yes" for answer in seen[kind]]) < 0.7


def test_regions_are_boxes_by_hand_and_masks() -> None:
    kinds = set()
    for index in range(20):
        scene = sample_scene("train", 9, index)
        drawn = SceneRecords.of(scene, render(scene))
        (record,) = drawn.regions()
        boxes = [mask_to_box_xyxy_px(mask) for mask in drawn.image.masks]
        for region in record["regions"]:
            found = mask_to_box_xyxy_px(rle_decode(region)) if isinstance(region, dict) else region
            overlaps = box_iou([found], boxes)[0]
            assert overlaps.max() > (1 - 2 * LOOSE) ** 2 / (1 + 2 * LOOSE) - 0.05
            kinds.add(type(region))
        masks = drawn.region_masks()
        assert len(masks) == len(scene.things), "every object, alike ones too"
    assert kinds == {dict, list}


def test_a_world_has_them_where_it_was_asked_for(world: Path, tmp_path: Path) -> None:
    assert json.loads((world / "world.json").read_text())["regions"] is True
    plain = draw_scene(0, 4, "train")
    pointing = draw_scene(0, 4, "train", regions=True)
    assert pointing.images == plain.images
    assert {name: pointing.records[name] for name in ANNOTATIONS} == {name: plain.records[name] for name in ANNOTATIONS}
    assert set(pointing.records) - set(plain.records) == set(POINTING)
    assert main(["data", "synth", "--out", str(tmp_path / "w"), "--images", "2", "--regions", "--seed", "4"]) == 0
    mine, theirs = (json.loads((folder / "annotations/regions.json").read_text()) for folder in (tmp_path / "w", world))
    assert mine == theirs[:2], "fewer are the beginning of more"
    assert main(["data", "synth", "--out", str(tmp_path / "v"), "--videos", "2", "--regions"]) == 2


def test_they_travel_the_readers_of_real_data(world: Path) -> None:
    asked = build_dataset("shapes_regions", DatasetEntry(turns=0), world)
    queries = [query for index in range(len(asked)) for query in asked.queries(index)]
    assert len(asked) == 10 and all(query.turns[0].prompts and query.truth["accepted"] for query in queries)
    masks = build_dataset("shapes_region_masks", DatasetEntry(), world)
    (query, *_) = masks.queries(0)
    assert query.turns[0].question == "<image>Segment what is in <region>."
    (region,), (prompt,) = query.turns[0].regions, query.turns[0].prompts
    assert region.box_xyxy_px == prompt.box_xyxy_px and region.mask is not None
