"""Questions on the command line, through ``ullava predict``."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tests.fuzz.cases import Case, Printed
from tests.fuzz.material import pixels, shared, write_image
from tests.fuzz.mutations import odd_word

SHARE = 6
SPECIAL = ("[SEG]", "[LOC]", "<image>", "<video>", "</s>", "<s>", "<p>", "</p>", "[PAD]", "<im_patch>")


def prepare(base: Path) -> None:
    """One image."""
    write_image(base / "one.png", pixels(1, 30, 40))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """A question of odd words, with or without an image, and odd numbers for its length."""
    (folder / "one.png").write_bytes((base / "one.png").read_bytes())
    prompt = odd_word(rng) if rng.random() < 0.6 else " ".join(rng.choices([*SPECIAL, "Segment", "the", "cat"], k=5))
    prompt = prompt.replace("\x00", "")
    if rng.random() < 0.3:
        prompt = f"Segment {prompt}."
    images = rng.choice([[], ["one.png"], ["one.png"], ["one.png", "one.png"]])
    tokens = rng.choice(["4", "4", "4", "4", "1", "0", "-1", "1e3", "９", "100000"])
    argv = ["predict", "--model", str(shared(base, "weights")), "--prompt", prompt, "--out", "out", "--json"]
    argv += ["--image", *images] if images else []
    argv += ["--max-new-tokens", tokens]
    what = f"{prompt[:40]!r}, {len(images)} images, {tokens} tokens"
    return Case(argv=argv, what=what, check=lambda printed: check(printed, prompt, max(1, len(images))))


def check(printed: Printed, prompt: str, questions: int) -> list[str]:
    """One JSON line for each question, of the question that was asked, with clean words."""
    return [problem for record in records(printed.out) for problem in record_problems(record, prompt)] + (
        []
        if len(records(printed.out)) == questions
        else [f"{len(records(printed.out))} answers to {questions} questions"]
    )


def records(out: str) -> list[dict[str, object]]:
    """The JSON lines that were printed."""
    return [json.loads(line) for line in out.split("\n") if line.strip()]


def record_problems(record: dict[str, object], prompt: str) -> list[str]:
    """What is wrong with one answer, whatever the model says."""
    problems = []
    if record["prompt"] != prompt:
        problems.append(f"the answer is to {record['prompt']!r}")
    text, objects = record["text"], record["objects"]
    assert isinstance(text, str) and isinstance(objects, list)
    for item in objects:
        start, end = item["span"]
        if not 0 <= start <= end <= len(text):
            problems.append(f"span {item['span']} of a text of {len(text)} characters")
    return problems
