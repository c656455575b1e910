"""The moving world: what is said about a clip is what its pixels show."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.synthetic import clips_reader as reader

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.errors import DataError
from ullava.media.video import read_clip, read_frames
from ullava.synthetic.clips import clip_caption, clip_questions
from ullava.synthetic.motion import EDGE_PX, draw_clip, sample_moving_scene
from ullava.synthetic.scene import rng_of
from ullava.synthetic.vocabulary import HELD_OUT, SPLITS
from ullava.synthetic.write_clips import draw_moving_scene, draw_video_world, gif_bytes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_video_world(tmp_path_factory.mktemp("moving") / "world", 40, 4, "train", progress=False)


def truths(world: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world / "clips.jsonl").read_text().splitlines()]


def things(truth: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(thing["colour"], thing["shape"], thing["motion"]) for thing in truth["objects"]]


def test_the_pixels_move_as_the_truth_says(world: Path) -> None:
    seen: Counter[str] = Counter()
    for truth in truths(world):
        found = reader.motions(world / truth["video"])
        for colour, _, motion in things(truth):
            if colour in found:
                assert found[colour] == motion, (truth["video"], colour)
                seen[motion] += 1
    assert set(seen) == {"left", "right", "up", "down", "still"} and sum(seen.values()) > 40


def test_captions_and_answers_are_true_to_an_independent_reader(world: Path) -> None:
    kinds: Counter[str] = Counter()
    captions, quizzes = (
        json.loads((world / f"annotations/{n}.json").read_text()) for n in ("video_caption", "video_qa")
    )
    for truth, caption, quiz in zip(truths(world), captions, quizzes, strict=True):
        assert caption["video"] == quiz["video"] == truth["video"]
        assert reader.read_caption(caption["conversations"][1]["value"]) == things(truth)
        assert [
            tuple(thing[key] for key in ("colour", "shape", "motion")) for thing in caption["facts"]["objects"]
        ] == (things(truth))
        words = [turn["value"] for turn in quiz["conversations"]]
        assert words[0].startswith("<video>") and not any("<video>" in word for word in words[1:])
        for place, (kind, accepted) in enumerate(zip(quiz["answer_type"], quiz["accepted"], strict=True)):
            right = reader.answer(words[2 * place].removeprefix("<video>"), things(truth))
            assert accepted[0] == right.replace("none", "zero")
            assert words[2 * place + 1] == accepted[0].capitalize() + "."
            kinds[kind] += 1
    assert set(kinds) == {"direction", "colour", "shape", "moves", "count"}
    assert kinds["direction"] > 20 and kinds["colour"] > 15 and kinds["shape"] > 15


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_keep_their_promises(split: str) -> None:
    directions: Counter[str] = Counter()
    for index in range(150):
        scene = sample_moving_scene(split, 0, index)  # type: ignore[arg-type]
        assert 1 <= len(scene.movers) <= 3
        assert any(mover.motion != "still" for mover in scene.movers)
        pairs = [mover.thing.pair for mover in scene.movers]
        for one, other in combinations(pairs, 2):
            assert one[0] != other[0] and one[1] != other[1]
        held_out = [pair in HELD_OUT for pair in pairs]
        assert any(held_out) if split == "unseen" else not any(held_out)
        for frame in (0, scene.length // 2, scene.length - 1):
            for mover in scene.movers:
                thing = mover.at(frame, scene.length)
                corners = thing.outline_px + np.array(thing.centre_px)
                assert corners.min() >= EDGE_PX - 1e-6
                assert (corners.max(axis=0) <= np.array([scene.width, scene.height]) - EDGE_PX + 1e-6).all()
        directions.update(mover.motion for mover in scene.movers)
        for question in clip_questions(scene, rng_of(scene.split, 0, index, "test"), 6):
            named = {tuple(pair) for pair in HELD_OUT if " ".join(pair) in question.words}
            assert split == "unseen" or not named
    moving = [directions[way] for way in ("left", "right", "up", "down")]
    assert min(moving) > 0.15 * sum(moving)


def test_things_never_meet() -> None:
    for index in range(60):
        scene = sample_moving_scene("train", 5, index)
        for frame in range(scene.length):
            boxes = []
            for mover in scene.movers:
                thing = mover.at(frame, scene.length)
                corners = thing.outline_px + np.array(thing.centre_px)
                boxes.append((*corners.min(axis=0), *corners.max(axis=0)))
            for a, b in combinations(boxes, 2):
                assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_yes_and_no_are_both_right_and_single_objects_are_captioned() -> None:
    answers: Counter[str] = Counter()
    counts: Counter[int] = Counter()
    for index in range(200):
        scene = sample_moving_scene("train", 9, index)
        counts[len(scene.movers)] += 1
        for question in clip_questions(scene, rng_of("train", 9, index, "test")):
            if question.kind == "moves":
                answers[question.accepted[0]] += 1
        assert clip_caption(scene)[0].startswith("There is one shape: " if len(scene.movers) == 1 else "There are ")
    assert 0.3 < answers["yes"] / sum(answers.values()) < 0.6
    assert min(counts.values()) > 20 and set(counts) == {1, 2, 3}


def test_the_same_seed_draws_the_same_bytes_and_others_do_not(world: Path, tmp_path: Path) -> None:
    again = draw_video_world(tmp_path / "again", 3, 4, "train", progress=False)
    for path in (again / "videos").iterdir():
        assert path.read_bytes() == (world / "videos" / path.name).read_bytes()
    assert (
        json.loads((again / "annotations/video_qa.json").read_text())
        == json.loads((world / "annotations/video_qa.json").read_text())[:3]
    )
    assert draw_moving_scene(0, 5, "train") != draw_moving_scene(0, 4, "train") != draw_moving_scene(0, 4, "seen")


def test_a_gif_keeps_every_frame_and_nearly_every_colour(tmp_path: Path) -> None:
    for index in range(8):
        frames = draw_clip(sample_moving_scene("seen", 2, index))
        path = tmp_path / f"{index}.gif"
        path.write_bytes(gif_bytes(frames))
        seen = read_frames(path, range)
        assert seen.shape == frames.shape
        assert np.abs(seen.astype(int) - frames).mean() < 6.0


def test_the_reader_and_the_decoder_see_the_clips(world: Path) -> None:
    dataset = build_dataset("shapes_video_qa", DatasetEntry(turns=1), world)
    sample = dataset.sample(0, np.random.default_rng(0))
    (clip,) = sample.videos
    frames = read_clip(clip, 8)
    truth = truths(world)[0]
    assert frames.shape == (8, truth["height"], truth["width"], 3)
    assert len(read_frames(clip.path, range)) == truth["frames"]
    assert len(sample.turns) == 1 and sample.turns[0].question.startswith("<video>")
    captions = build_dataset("shapes_video_caption", DatasetEntry(), world)
    assert captions.queries(3)[0].truth["facts"]["count"] == len(truths(world)[3]["objects"])


def test_what_cannot_be_drawn_is_refused(world: Path, tmp_path: Path, command: Any) -> None:
    with pytest.raises(DataError, match="videos must be 1 or more, not 0"):
        draw_video_world(tmp_path / "w", 0, 0)
    code, _, err = command("data", "draw", "--out", str(world), "--videos", "2")
    assert code == 2 and "exists and is not an empty folder" in err
    for line in ([], ["--images", "2", "--videos", "2"]):
        code, _, err = command("data", "draw", "--out", str(tmp_path / "w"), *line)
        assert code == 2 and "--images N or --videos N" in err
    code, out, _ = command("data", "draw", "--out", str(tmp_path / "w"), "--videos", "2", "--split", "unseen")
    assert code == 0 and "2 clips of the moving shapes world, split unseen" in out
    assert len(list((tmp_path / "w" / "videos").iterdir())) == 2
