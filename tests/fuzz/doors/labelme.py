"""LabelMe files, through ``ullava data import labelme``."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.cases import Case, Printed
from tests.fuzz.doors.coco import same_name
from tests.fuzz.material import copy_tree, every_sample, lenient_json, pixels, read_json, write_image
from tests.fuzz.mutations import damage_bytes, damage_path, damage_text, json_text, mutate_tree

SHARE = 7
STEMS = ("first", "second")


def prepare(base: Path) -> None:
    """Two images with polygons, a rectangle, a circle and a group."""
    for number, stem in enumerate(STEMS):
        image = write_image(base / "drawn" / f"{stem}.png", pixels(number, 32, 40))
        shapes: list[dict[str, Any]] = [
            {"label": "cat", "points": [[2, 2], [14.5, 3], [9, 12]], "group_id": None, "shape_type": "polygon"},
            {"label": "cat", "points": [[20, 4], [30, 4], [30, 14], [20, 14]], "group_id": 1, "shape_type": "polygon"},
            {"label": "cat", "points": [[20, 18], [30, 18], [26, 25]], "group_id": 1, "shape_type": "polygon"},
            {"label": "dog", "points": [[3, 16], [12, 28]], "group_id": None, "shape_type": "rectangle", "flags": {}},
            {"label": "ball", "points": [[34, 26], [36, 28]], "shape_type": "circle"},
        ]
        value = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image.name, "imageData": None}
        value |= {"imageHeight": 32, "imageWidth": 40}
        (base / "drawn" / f"{stem}.json").write_text(json.dumps(value))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage one of the JSON files, an image, or what lies beside them."""
    drawn = copy_tree(base / "drawn", folder / "drawn")
    stem = rng.choice(STEMS)
    file, image = drawn / f"{stem}.json", drawn / f"{stem}.png"
    names: tuple[str, ...] = (file.name,)
    what = "sound"
    way = rng.random()
    if way < 0.75:
        tree, what = mutate_tree(rng, read_json(base / "drawn" / file.name))
        data, how = damage_text(rng, json_text(tree, ascii_only=rng.random() < 0.5), 0.2)
        file.write_bytes(data)
        what = f"{what}; {how}" if how else what
    elif way < 0.85:
        names += (image.name,)
        if rng.random() < 0.5:
            data, what = damage_bytes(rng, image.read_bytes())
            image.write_bytes(data)
        else:
            what = damage_path(rng, image)
    elif way < 0.9:
        what = damage_path(rng, file)
    elif way < 0.97:
        other = drawn / rng.choice(["._first.json", "notes.json", "FIRST.JSON", ".hidden.json", "third.json"])
        other.write_bytes(rng.choice([b"\x00\x05\x16\x07", b"{}", b"[]", b"", file.read_bytes()]))
        what, names = f"another file, {other.name}", (other.name, file.name)
    argv = ["data", "import", "labelme", "--images", "drawn", "--out", "made"]
    argv += rng.choice([[], [], ["--skip-bad"], ["--skip-bad"], ["--annotations", "drawn"]])
    expected = "accepted" if what == "sound" else "either"
    return Case(argv=argv, what=what, names=(*names, "drawn"), expected=expected, check=lambda _: check(folder, _))


def check(folder: Path, _: Printed) -> list[str]:
    """Every shape is in the dataset under its label, or named as left out; every sample can be read."""
    made = folder / "made"
    _, problems = every_sample(made / "dataset.yaml")
    told = json.loads((made / "import.json").read_text())["train"]
    named = [entry["name"] for key in ("left_out", "nothing_to_ask_about") for entry in told[key]]
    named = [re.sub(r"(?<=\.json):\d+$", "", name, flags=re.IGNORECASE) for name in named]
    wanted: Counter[str] = Counter()
    for path in sorted((folder / "drawn").glob("*.[jJ][sS][oO][nN]")):
        if any(name.endswith(path.name) for name in named) or not path.is_file() or path.name.startswith("."):
            continue
        groups = set()
        for place, shape in enumerate(lenient_json(path)["shapes"]):
            if any(f"{path.name}: shapes[{place}]" in name for name in named):
                continue
            group = shape.get("group_id")
            key = (path, shape["label"], json.dumps(group) if group is not None else f"alone {place}")
            wanted[same_name(shape["label"])] += key not in groups
            groups.add(key)
    for entry in told.get("joined", ()):
        if twice := re.fullmatch("a '(.*)' is there twice, the same one", entry["reason"]):
            wanted[same_name(twice[1])] -= 1
    value = json.loads((made / "annotations" / "train.json").read_text())
    labels = {entry["id"]: same_name(entry["name"]) for entry in value["categories"]}
    got = Counter(labels[entry["category_id"]] for entry in value["annotations"])
    if got != wanted:
        problems.append(f"the dataset has {dict(got)}, the files have {dict(wanted)} that were not left out")
    return problems
