"""Files of boxes, through ``ullava data boxes`` and recipes that name one."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml
from tests.fuzz.cases import Case
from tests.fuzz.material import copy_tree, read_json, shared
from tests.fuzz.mutations import damage_path, damage_text, json_text, mutate_tree

SHARE = 4


def prepare(base: Path) -> None:
    """Boxes by image, by annotation, and instances."""
    copy_tree(shared(base, "world"), base / "world")
    boxes: list[dict[str, Any]] = []
    published: list[dict[str, Any]] = []
    chats: list[dict[str, Any]] = []
    for number in range(4):
        name = f"images/{number:06d}.jpg"
        found = {"boxes": [[1, 2, 30, 40.5], [0, 0, 5, 5]], "scores": [0.9, 0.5], "labels": ["a", "b"]}
        boxes.append({"image": name} | found)
        published.append({"id": f"x{number}"} | found)
        chats.append({"id": f"x{number}", "image": name, "conversations": []})
    for file, value in (("boxes", boxes), ("published", published), ("chats", chats)):
        (base / f"{file}.json").write_text(json.dumps(value))
    (base / "instances.json").write_text((base / "world" / "annotations" / "instances.json").read_text())


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage one of the files and turn it into another form, or look at a mixture with boxes."""
    way = rng.choice(["published", "chats", "instances", "boxes", "boxes"])
    for name in ("boxes", "published", "chats", "instances"):
        (folder / f"{name}.json").write_text((base / f"{name}.json").read_text())
    file = folder / f"{way}.json"
    tree, what = mutate_tree(rng, read_json(base / f"{way}.json"))
    data, how = damage_text(rng, json_text(tree, ascii_only=rng.random() < 0.5), 0.15)
    file.write_bytes(data)
    if rng.random() < 0.05:
        how = damage_path(rng, file)
    what = "; ".join(filter(None, [f"{way}: {what}", how]))
    if way == "boxes":
        recipe = {
            "model": str(shared(base, "weights")),
            "data_root": str(base / "world"),
            "dataset": {"shapes_res": {"boxes": str(file.absolute()), "limit": 2}},
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return Case(argv=["data", "stats", "./recipe.yaml"], what=what, names=(file.name,))
    argv = ["data", "boxes", "--out", "found.json"]
    argv += ["--instances", "instances.json"] if way == "instances" else []
    argv += ["--published", "published.json", "--annotations", "chats.json"] if way != "instances" else []
    return Case(argv=argv, what=what, names=(file.name,), check=lambda _: check(file))


def check(file: Path) -> list[str]:
    """The written file can be opened, and every image of it has sound boxes."""
    from ullava.data.readers.boxes import BoxFile

    written = Path("found.json")
    records = json.loads(written.read_text(), parse_constant=lambda word: f"not JSON: {word}")
    boxes = BoxFile(written)
    problems = [] if len(boxes) == len(records) else [f"{len(boxes)} of {len(records)} records are found"]
    for record in records:
        found = boxes.of_image(record["image"], "x")
        if found is None:
            problems.append(f"no boxes of {record['image']} are found")
    return problems
