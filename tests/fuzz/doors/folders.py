"""Folders of results that a command finds and goes on with: answers, evaluations, datasets."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import yaml
from tests.fuzz.cases import Case, Printed
from tests.fuzz.doors import coco
from tests.fuzz.material import copy_tree, pixels, shared, write_image
from tests.fuzz.mutations import damage_bytes, damage_path, damage_text, json_text, mutate_tree

SHARE = 6
QUESTIONS = 4


def _lines(base: Path) -> dict[str, list[str]]:
    """The command lines; each finds what it wrote itself."""
    model = str(shared(base, "weights"))
    predict = ["predict", "--model", model, "--input", "questions.jsonl", "--out", "answers", "--max-new-tokens", "2"]
    again = ["data", "import", "coco", "--images", "images", "--annotations", "instances.json", "--out", "made"]
    return {
        "answers": [*predict, "--batch-size", "2"],
        "results": ["eval", "./recipe.yaml", "--out", "results"],
        "made": [*again, "--split", "val"],
    }


def prepare(base: Path) -> None:
    """Let every command run once."""
    import os

    from ullava.cli.main import main

    coco.prepare(base)
    write_image(base / "1.png", pixels(1, 30, 40))
    questions = [{"image": "1.png", "prompt": f"Segment thing {n}.", "id": f"q{n}"} for n in range(QUESTIONS)]
    (base / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    recipe = {
        "model": str(shared(base, "weights")),
        "data_root": str(shared(base, "world")),
        "protocol": "generate",
        "max_new_tokens": 2,
        "batch_size": 2,
        "dataset": {"shapes_res": {"limit": 3}},
    }
    (base / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = Path.cwd()
    os.chdir(base)
    for name, line in _lines(base).items():
        assert main([*line[:-1], "train"] if name == "made" else line) == 0
    os.chdir(before)


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage one file of the folder, then run the command again."""
    copy_tree(base, folder)
    name = rng.choice(["answers", "answers", "results", "results", "made"])
    files = [path for path in sorted((folder / name).rglob("*")) if path.is_file() and path.suffix != ".png"]
    file = rng.choice(files)
    way = rng.choice(["part", "tree", "text", "bytes", "path", "gone", "none"])
    what = way
    if way == "part" and file.suffix == ".jsonl":
        data = file.read_bytes()
        file.unlink()
        if name == "answers":
            file = file.with_name("answers.jsonl.part")
        file.write_bytes(data[: rng.randrange(len(data))])
    elif way == "tree" and file.suffix in (".json", ".jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.suffix == ".jsonl" else None
        tree, what = mutate_tree(rng, lines if lines is not None else json.loads(file.read_text()))
        texts = tree if lines is not None and isinstance(tree, list) else [tree]
        file.write_text("".join(json_text(value) + "\n" for value in texts))
    elif way == "text":
        data, what = damage_text(rng, file.read_text(), 1)
        file.write_bytes(data)
    elif way == "bytes":
        data, what = damage_bytes(rng, file.read_bytes())
        file.write_bytes(data)
    elif way == "path":
        what = damage_path(rng, file)
    elif way == "gone":
        file.unlink()
    argv = _lines(base)[name]
    # A folder of results may be gone on with before a later file of it turns out to be damaged.
    writes = (name,) if name != "made" else ()
    names = (file.name, name, file.name.removesuffix(".part"))
    expected = "accepted" if way == "none" else "either"
    return Case(
        argv=argv, what=f"{file.name}: {what}", names=names, expected=expected, writes=writes,
        check=lambda _: check(name, base, _),
    )  # fmt: skip


def check(name: str, base: Path, _: Printed) -> list[str]:
    """Afterwards the folder holds what an undisturbed run would have put there."""
    if name == "made":
        import yaml

        splits = yaml.safe_load(Path("made/dataset.yaml").read_text())["splits"]
        return [] if set(splits) >= {"val"} else [f"splits: {splits}"]
    file = "answers.jsonl" if name == "answers" else "predictions.jsonl"
    keys = ("id", "prompt", "text", "objects") if name == "answers" else ("dataset", "item", "query", "text")
    found, wanted = (
        [{key: record.get(key) for key in keys} for record in map(json.loads, path.read_text().splitlines())]
        for path in (Path(name) / file, base / name / file)
    )
    return [] if sorted(map(str, found)) == sorted(map(str, wanted)) else [f"{file} is not that of an undisturbed run"]
