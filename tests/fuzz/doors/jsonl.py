"""Files of questions, through ``ullava predict --input``."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.cases import Case, Printed
from tests.fuzz.doors.prompts import record_problems
from tests.fuzz.material import pixels, shared, write_image
from tests.fuzz.mutations import damage_path, damage_text, json_text, mutate_tree, odd_word

SHARE = 8


def prepare(base: Path) -> None:
    """Two images."""
    for number in (1, 2):
        write_image(base / f"{number}.png", pixels(number, 30, 40))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the lines, their text, or the file."""
    for path in base.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    lines: list[Any] = [
        {"image": "1.png", "prompt": "Segment the cat.", "id": "a"},
        {"image": ["1.png", "2.png"], "prompt": "Which of <image> and <image> is darker?"},
        {"prompt": "How much is 1 + 2?"},
    ]
    what = "sound"
    way = rng.random()
    if way < 0.5:
        lines, what = mutate_tree(rng, lines)
    elif way < 0.65:
        word = odd_word(rng)
        lines[2]["prompt"] = f"Say {word} twice."
        what = f"a prompt with {word[:20]!r}"
    end = rng.choice(["\n", "\n", "\n", "\r\n", "\n\n"])
    texts = [json_text(line, ascii_only=rng.random() < 0.3) for line in (lines if isinstance(lines, list) else [lines])]
    data, how = damage_text(rng, end.join(texts) + rng.choice([end, ""]), 0.3)
    file = folder / "questions.jsonl"
    file.write_bytes(data)
    if rng.random() < 0.05:
        how = damage_path(rng, file)
    what = f"{what}; {how}" if how else what
    argv = ["predict", "--model", str(shared(base, "weights")), "--input", file.name, "--out", "out", "--json"]
    argv += ["--max-new-tokens", "3", "--batch-size", rng.choice(["1", "2", "16"])]
    expected = "accepted" if what in ("sound", "sound; text: crlf", "sound; text: bom") else "either"
    names = (file.name, ".png", "no such ")
    return Case(argv=argv, what=what, names=names, expected=expected, check=lambda printed: check(folder, printed))


def check(folder: Path, printed: Printed) -> list[str]:
    """As many answers as lines, in their order, to the very prompts."""
    raw = (folder / "questions.jsonl").read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    asked = [json.loads(line)["prompt"] for line in raw.split("\n") if line.strip()]
    answers = [json.loads(line) for line in printed.out.split("\n") if line.strip()]
    written = (folder / "out" / "answers.jsonl").read_bytes().decode().split("\n")
    kept = [json.loads(line) for line in written if line]
    problems = [] if kept == answers else ["answers.jsonl and what was printed differ"]
    if len(answers) != len(asked):
        return [*problems, f"{len(answers)} answers to {len(asked)} questions"]
    return problems + [
        p for record, prompt in zip(answers, asked, strict=True) for p in record_problems(record, prompt)
    ]
