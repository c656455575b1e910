"""Clips with masks: what an expression means is what the masks do and the pixels show."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from tests.unit.synthetic import tracks_reader as reader
from tests.unit.synthetic.clips_reader import RGB

from ullava.cli.main import main
from ullava.errors import DataError
from ullava.synthetic.tokenizer import words_of_annotations
from ullava.synthetic.track_words import expressions, namings
from ullava.synthetic.tracks import sample_play
from ullava.synthetic.vocabulary import HELD_OUT, SPLITS
from ullava.synthetic.write_tracks import draw_play_files, draw_track_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_track_world(tmp_path_factory.mktemp("tracks") / "world", 20, 4, "train", progress=False)


def read(world: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    meta = json.loads((world / "meta_expressions.json").read_text())["videos"]
    masks = json.loads((world / "mask_dict.json").read_text())
    return meta, masks, [json.loads(line) for line in (world / "clips.jsonl").read_text().splitlines()]


def test_expressions_mean_what_the_masks_do(world: Path) -> None:
    meta, masks, truths = read(world)
    kinds: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    for (name, clip), truth in zip(meta.items(), truths, strict=True):
        numbers = [10 * int(name) + place for place in range(len(truth["objects"]))]
        objects = [
            {"color": told["colour"], "shape": told["shape"]} | reader.seen(masks[str(number)])
            for number, told in zip(numbers, truth["objects"], strict=True)
        ]
        for one, told in zip(objects, truth["objects"], strict=True):
            assert one["ways"] == told["ways"], (name, told)
        for expression, kind in zip(clip["expressions"].values(), truth["kinds"], strict=True):
            right = reader.meant(expression["exp"], objects)
            assert right == sorted(expression["obj_id"]), (name, expression)
            assert [numbers[place] for place in expression["obj_id"]] == expression["anno_id"]
            lefts = [coco_mask.toBbox(masks[str(number)][0])[0] for number in expression["anno_id"]]
            assert lefts == sorted(lefts) or np.diff(lefts).min() > -15, "left to right, by centers"
            several = len(right) > 1
            assert expression["exp"].split(" that ")[0].endswith("s") == several or "cross" in expression["exp"]
            kinds[kind] += 1
            sizes[len(right)] += 1
    assert {"named", "moves", "several moves", "order", "stays", "hides", "absent"} <= set(kinds)
    assert sizes[0] > 5 and sizes[1] > 30 and sizes[2] > 5


def test_questions_name_what_expressions_mean(world: Path) -> None:
    _, masks, truths = read(world)
    asked = absent = 0
    for record in json.loads((world / "naming.json").read_text()):
        name = record["video"].removeprefix("JPEGImages/")
        assert (world / record["video"]).is_dir()
        told = truths[int(name)]["objects"]
        objects = [
            {"color": one["colour"], "shape": one["shape"]} | reader.seen(masks[str(10 * int(name) + place)])
            for place, one in enumerate(told)
        ]
        said = [turn["value"] for turn in record["conversations"]]
        for question, answer in zip(said[::2], said[1::2], strict=True):
            words = question.removeprefix("<video>").removeprefix("Name ").removesuffix(".")
            names = [f"{told[place]['colour']} {told[place]['shape']}" for place in reader.meant(words, objects)]
            assert sorted(answer.removesuffix(".").split(", ")) == (sorted(names) or ["none"]), (name, words)
            fitting = reader.meant(words.split(" that ")[0], objects)
            by_noun = {f"{told[place]['colour']} {told[place]['shape']}" for place in fitting}
            assert len(by_noun) > 1 or not names, "the noun alone does not answer"
            asked += 1
            absent += not names
    assert asked > 80 and absent > 3


def test_masks_lie_on_pixels_of_their_color_and_are_disjoint(world: Path) -> None:
    meta, masks, truths = read(world)
    for (name, clip), truth in list(zip(meta.items(), truths, strict=True))[:8]:
        codes = [masks[str(10 * int(name) + place)] for place in range(len(truth["objects"]))]
        for number in (0, len(clip["frames"]) // 2, len(clip["frames"]) - 1):
            frame = np.asarray(Image.open(world / "JPEGImages" / name / f"{clip['frames'][number]}.jpg"), np.float64)
            assert frame.shape[:2] == (truth["height"], truth["width"])
            shown = [coco_mask.decode(code[number]).astype(bool) for code in codes if code[number]]
            assert not shown or np.sum(shown, axis=0).max() == 1
            for code, told in zip(codes, truth["objects"], strict=True):
                if code[number]:
                    pixels = frame[coco_mask.decode(code[number]).astype(bool)]
                    if len(pixels) > 60:
                        near = min(np.linalg.norm(np.median(pixels, axis=0) - rgb) for rgb in _tones(told["colour"]))
                        assert near < 60, (name, number, told)


def _tones(color: str) -> list[np.ndarray]:
    base = np.array(RGB[color], dtype=np.float64)
    return [base, base * 0.65, base * 0.45 + 255 * 0.55, base * 0.7 + 255 * 0.3]


@pytest.mark.parametrize("split", SPLITS)
def test_splits_keep_their_pairs_in_pixels_and_words(split: str) -> None:
    behind = 0
    for index in range(40):
        play = sample_play(split, 0, index)  # type: ignore[arg-type]
        held_out = [actor.thing.pair in HELD_OUT for actor in play.actors]
        assert held_out[0] if split == "unseen" else not any(held_out)
        said = expressions(play)
        assert 1 <= len(said) <= 5 and len({one.words for one in said}) == len(said)
        named = [any(" ".join(pair) in one.words for pair in HELD_OUT) for one in said]
        assert named[0] if split == "unseen" else not any(named)
        asked = namings(play)
        assert 1 <= len(asked) <= 8 and len({question.words for question in asked}) == len(asked)
        behind += any(actor.deed.ending == "hidden" or actor.deed.returns for actor in play.actors)
    assert behind > 10


def test_the_same_seed_draws_the_same_bytes_and_fewer_are_the_beginning(world: Path, tmp_path: Path) -> None:
    again = draw_track_world(tmp_path / "again", 2, 4, "train", progress=False)
    for path in again.glob("JPEGImages/*/*.jpg"):
        assert path.read_bytes() == (world / path.relative_to(again)).read_bytes()
    (few, few_masks, _), (many, many_masks, _) = read(again), read(world)
    assert few == {name: many[name] for name in few}
    assert few_masks == {name: many_masks[name] for name in few_masks} and few_masks
    assert draw_play_files(0, 5, "train") != draw_play_files(0, 4, "train") != draw_play_files(0, 4, "seen")


def test_a_tokenizer_learns_their_words(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Path] = []
    monkeypatch.setattr("ullava.synthetic.tokenizer.train_tokenizer", lambda paths, *_: given.extend(paths) or 700)
    assert main(["data", "tokenizer", "--world", str(world), "--vocabulary", "700", "--out", str(tmp_path / "t")]) == 0
    said = {one["exp"] for clip in read(world)[0].values() for one in clip["expressions"].values()}
    assert said <= set(words_of_annotations(given))


def test_the_command_draws_them_and_refuses_what_makes_no_sense(tmp_path: Path, command: Any) -> None:
    code, out, _ = command("data", "synth", "--out", str(tmp_path / "w"), "--videos", "1", "--masks")
    assert code == 0 and "1 clips with masks and expressions, split train, seed 0" in out
    assert json.loads((tmp_path / "w" / "world.json").read_text())["videos"] == 1
    code, _, err = command("data", "synth", "--out", str(tmp_path / "v"), "--images", "1", "--masks")
    assert code == 2 and "--masks: is for clips" in err
    with pytest.raises(DataError, match="videos must be 1 or more, not 0"):
        draw_track_world(tmp_path / "v", 0, 0)
