"""Referring expressions, as JSON and as a pickle, through ``ullava data import refs``."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.cases import Case
from tests.fuzz.doors import coco
from tests.fuzz.material import copy_tree, every_sample, lenient_json, read_json
from tests.fuzz.mutations import damage_bytes, damage_path, damage_text, json_text, mutate_tree

from ullava.data.converters.imported.coco_file import id_of

SHARE = 7


class Trap:
    """What a pickle must never be able to call."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, ("sprung",)


def prepare(base: Path) -> None:
    """Expressions for one object each, and expressions for several or none."""
    coco.prepare(base)
    refs, grefs = [], []
    for number in range(6):
        image = 1 + number // 2
        sentences = [{"sent": f"the thing {number}", "sent_id": 2 * number, "raw": "The thing"}, {"sent": "it"}]
        entry = {"ref_id": number, "image_id": image, "split": "train" if number else "val", "sentences": sentences}
        refs.append(entry | {"ann_id": 1 + 3 * (image - 1) + number % 2, "category_id": 1})
        several = [1 + 3 * (image - 1), 2 + 3 * (image - 1)][: number % 3] or [-1]
        grefs.append(entry | {"ann_id": several, "no_target": several == [-1], "category_id": [1]})
    (base / "refs.json").write_text(json.dumps(refs))
    (base / "grefs.json").write_text(json.dumps(grefs))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the expressions, as JSON or pickle, or the instances."""
    copy_tree(base / "images", folder / "images")
    name = rng.choice(["refs", "refs", "grefs"])
    refs, instances = read_json(base / f"{name}.json"), read_json(base / "instances.json")
    what = "sound"
    way = rng.random()
    if way < 0.55:
        refs, what = mutate_tree(rng, refs)
    elif way < 0.75:
        instances, what = mutate_tree(rng, instances)
        what = f"instances: {what}"
    (folder / "instances.json").write_text(json_text(instances))
    if name == "refs" and rng.random() < 0.3:
        file = folder / "refs.p"
        trap = rng.random() < 0.1
        data = pickle.dumps([Trap()] if trap else refs, protocol=rng.choice([0, 2, 4]))
        if way > 0.75 and not trap:
            data, what = damage_bytes(rng, data)
        what = "a pickle that calls" if trap else f"pickle: {what}"
        file.write_bytes(data)
    else:
        trap, file = False, folder / f"{name}.json"
        data, how = damage_text(rng, json_text(refs), 0.15)
        file.write_bytes(data)
        what = f"{what}; {how}" if how else what
    if way > 0.95:
        what = damage_path(rng, rng.choice([file, folder / "instances.json"]))
    argv = ["data", "import", "refs", "--refs", file.name, "--instances", "instances.json", "--images", "images"]
    part = rng.choice(["all", "all", "all", "train", "tset", None])
    argv += ["--out", "made", *(["--part", part] if part else []), *rng.choice([[], ["--skip-bad"]])]
    sound = what in ("sound", "pickle: sound")
    refused = trap or part == "tset" or (part is None and sound)
    expected = "refused" if refused else "accepted" if sound else "either"
    return Case(
        argv=argv,
        what=what,
        names=(file.name, "instances.json", ".png"),
        expected=expected,
        check=lambda _: check(folder, file, "train" if "train" in argv else None),
    )


def check(folder: Path, file: Path, part: str | None) -> list[str]:
    """Every expression of a kept entry is in the dataset; every sample can be read."""
    problems = ["the pickle called something"] if (folder / "sprung").exists() else []
    made = folder / "made"
    problems += every_sample(made / "dataset.yaml")[1]
    given = pickle.loads(file.read_bytes()) if file.suffix == ".p" else lenient_json(file)
    told = json.loads((made / "import.json").read_text())["train"]
    left = "".join(f"{entry['name']}: {entry['reason']}: " for entry in told["left_out"])
    files = {id_of(image.get("id")): image.get("file_name") for image in _images(folder)}
    wanted: Counter[str] = Counter()
    excused: set[str] = set()
    for place, entry in enumerate(given):
        if f" entry {place}: " in left:
            continue
        if part is not None and entry.get("split") != part:
            continue
        texts = _sentences(entry)
        if f" ref_id {id_of(entry['ref_id'])}: " in left or f": {files.get(id_of(entry['image_id']))}: " in left:
            excused.update(texts)
        else:
            wanted.update(texts)
    got = Counter(
        sentence.strip()
        for record in read_json(made / "annotations" / "train.json")
        for sentence in record["sentences"]
    )
    return problems + [f"'{key}': {got[key]} in the dataset, {wanted[key]} in the file"
                       for key in ((wanted - got).keys() | (got - wanted).keys()) - excused]  # fmt: skip


def _images(folder: Path) -> list[dict[str, Any]]:
    return [image for image in lenient_json(folder / "instances.json")["images"] if isinstance(image, dict)]


def _sentences(entry: dict[str, Any]) -> list[str]:
    """The expressions of an entry: [{sent}], plain texts or one text."""
    said = entry["sentences"]
    return [
        (one["sent"] if isinstance(one, dict) else one).strip() for one in ([said] if isinstance(said, str) else said)
    ]
