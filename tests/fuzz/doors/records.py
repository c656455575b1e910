"""Annotation files of every layout, read for evaluation and for ``ullava data stats``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import yaml
from tests.fuzz.cases import Case, Printed
from tests.fuzz.material import copy_tree, read_json, shared
from tests.fuzz.mutations import damage_bytes, damage_path, damage_text, json_text, mutate_tree

SHARE = 8
ANNOTATIONS = {
    "shapes_res": "res", "shapes_gres": "gres", "shapes_semantic": "semantic", "shapes_instances": "instances",
    "shapes_salient": "salient", "shapes_parts": "parts", "shapes_grounded": "grounded",
}  # fmt: skip


def prepare(base: Path) -> None:
    """The shared world, with short lists and masks in the form of polygons and run lengths as they come."""
    copy_tree(shared(base, "world"), base / "world")
    for name in ANNOTATIONS.values():
        file = base / "world" / "annotations" / f"{name}.json"
        value = json.loads(file.read_text())
        file.write_text(json.dumps(value[:4] if isinstance(value, list) else value))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the records of one layout, an image, or a label image."""
    return make_of(rng, folder, base, ANNOTATIONS, ("teacher_forced", "generate"))


def make_of(
    rng: Random, folder: Path, base: Path, files: dict[str, str], protocols: Sequence[str] = ("generate",)
) -> Case:
    """Damage what belongs to one dataset of ``files``, which say what its annotations are called."""
    dataset = rng.choice(list(files))
    world = copy_tree(base / "world", folder / "world")
    file = world / "annotations" / f"{files[dataset]}.json"
    what = "sound"
    way = rng.random()
    if way < 0.85:
        tree, what = mutate_tree(rng, read_json(base / "world" / "annotations" / file.name), 3)
        data, how = damage_text(rng, json_text(tree, ascii_only=rng.random() < 0.5), 0.12)
        file.write_bytes(data)
        what = f"{what}; {how}" if how else what
    elif way < 0.97:
        image = rng.choice([path for path in sorted(world.rglob("*.*")) if path.suffix in (".jpg", ".png", ".gif")])
        data, what = damage_bytes(rng, image.read_bytes())
        image.write_bytes(data)
        what = f"{image.name}: {what}"
    else:
        what = damage_path(rng, file)
    recipe = {
        "model": str(shared(base, "weights")),
        "data_root": "world",
        "protocol": rng.choice(protocols),
        "max_new_tokens": 2,
        "bad_sample_budget": rng.choice([0, 1000, 1000, 1000]),
        "dataset": {dataset: {"limit": 3} if rng.random() < 0.2 else {}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    argv = rng.choice([["data", "stats", "./recipe.yaml"], ["eval", "./recipe.yaml", "--out", "out"]])
    names = (file.name, "world", dataset)
    expected = "accepted" if what == "sound" else "either"
    return Case(
        argv=argv,
        what=f"{dataset}: {what}",
        names=names,
        expected=expected,
        writes=("out",),
        check=lambda printed: check(argv, recipe, printed),
    )


def check(argv: list[str], recipe: dict[str, object], printed: Printed) -> list[str]:
    """Every record of the data was asked about, or is named as bad."""
    if argv[0] == "data":
        return []
    from ullava.config.schema import DatasetEntry
    from ullava.data.loading.build import build_datasets
    from ullava.errors import UserError

    entries = recipe["dataset"]
    assert isinstance(entries, dict)
    (dataset,) = build_datasets({key: DatasetEntry(**entry) for key, entry in entries.items()}, Path("world"))
    lines = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().split("\n") if line]
    bad_file = Path("out/bad_samples.jsonl")
    bad = [json.loads(line) for line in bad_file.read_text().split("\n") if line] if bad_file.is_file() else []
    named = json.dumps(bad)
    problems = []
    for index in range(len(dataset)):
        try:
            wanted = len(dataset.queries(index))
        except UserError:
            wanted = 0
        got = sum(line["item"] == index for line in lines)
        if got != wanted and f"/{index}" not in named:
            problems.append(f"record {index}: {got} answers to {wanted} questions, and not named as bad")
    metrics = Path("out/metrics.json").read_text()
    json.loads(metrics, parse_constant=lambda word: problems.append(f"metrics.json holds {word}"))
    (result,) = json.loads(metrics)["results"]
    if result["n"] != len(lines):
        problems.append(f"n is {result['n']}, but there are {len(lines)} predictions")
    return problems
