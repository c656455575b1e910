"""Expressions of clips: the list and the masks through ``ullava check``, finished masks through ``ullava eval``."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tests.fuzz.cases import Case
from tests.fuzz.material import copy_tree, pixels, read_json, write_image
from tests.fuzz.mutations import damage_bytes, damage_path, damage_text, json_text, mutate_tree

from ullava.geometry import VideoMasks

SHARE = 6
LENGTH, HEIGHT, WIDTH = 3, 12, 16
LINES = "results.jsonl"


def prepare(base: Path) -> None:
    """Two clips in the form of MeViS, and answers to their expressions."""
    masks, videos, lines = {}, {}, []
    for number in range(2):
        name = f"clip{number}"
        (base / "JPEGImages" / name).mkdir(parents=True)
        for frame in range(LENGTH):
            write_image(base / "JPEGImages" / name / f"{frame:05d}.jpg", pixels(frame, HEIGHT, WIDTH))
        shown = np.zeros((LENGTH, HEIGHT, WIDTH), dtype=bool)
        shown[:2, 2:8, 3 : 9 + number] = True
        through = VideoMasks.from_masks(shown, (HEIGHT, WIDTH))
        masks[str(number)] = [through.rle(frame) for frame in range(LENGTH)]
        said = {"0": {"exp": "the cat that runs", "obj_id": [0], "anno_id": [number]}}
        said["1"] = {"exp": "the dog that flies", "obj_id": [], "anno_id": []}
        videos[name] = {"vid_id": number, "expressions": said, "frames": [f"{frame:05d}" for frame in range(LENGTH)]}
        for expression in said:
            things = [{"masks": through.to_json()}] if expression == "0" else []
            lines.append({"clip": name, "expression_id": expression, "objects": things})
    (base / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    (base / "mask_dict.json").write_text(json.dumps(masks))
    (base / LINES).write_text(json.dumps(lines))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the list, the masks, a frame or the answers."""
    copy_tree(base / "JPEGImages", folder / "JPEGImages")
    given: dict[str, Any] = {
        name: read_json(base / name) for name in ("meta_expressions.json", "mask_dict.json", LINES)
    }
    way, what = rng.random(), "sound"
    hurt = rng.choice(list(given))
    if way < 0.6:
        given[hurt], what = mutate_tree(rng, given[hurt])
    data = {name: json_text(value).encode() for name, value in given.items()}
    lines = given[LINES] if isinstance(given[LINES], list) else [given[LINES]]
    data[LINES] = "\n".join(json_text(line) for line in lines).encode() + b"\n"
    how = ""
    if 0.6 <= way < 0.8:
        data[hurt], how = damage_text(rng, data[hurt].decode(), 0.9)
    for name, content in data.items():
        (folder / name).write_bytes(content)
    frame = folder / "JPEGImages" / "clip1" / "00001.jpg"
    if 0.8 <= way < 0.88:
        content, how = damage_bytes(rng, frame.read_bytes())
        frame.write_bytes(content)
    elif 0.88 <= way < 0.94:
        how = damage_path(rng, rng.choice([frame, *(folder / name for name in data)]))
    what = f"{hurt}: {what}; {how}" if how or what != "sound" else "sound"
    root = "data_root=."
    if rng.random() < 0.5:
        argv = ["check", "shapes_video_refer", root]
    else:
        argv = ["eval", "shapes_video_refer", root, "--results", LINES, "--out", "out", "--json"]
    expected = "accepted" if what == "sound" else "either"
    names = (*data, ".jpg", "clip0", "clip1", "JPEGImages", "shapes_video_refer")
    return Case(argv=argv, what=what, names=names, expected=expected, writes=("out",))
