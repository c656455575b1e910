"""Bad samples are counted over the whole run, however often it was resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ullava.data.loading.encode import BadSample
from ullava.errors import UserError
from ullava.training.reporting.bad_samples import BadSamples

Command = Callable[..., tuple[int, str, str]]


def named(path: Path) -> list[str]:
    return [json.loads(line)["sample"] for line in path.read_text(encoding="utf-8").splitlines()]


def logged(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.fixture
def torn_world(world: Path, tmp_path: Path) -> Path:
    """The synthetic world, of whose images every third cannot be read."""
    copy = tmp_path / "world"
    shutil.copytree(world, copy, ignore=shutil.ignore_patterns("*.ullava-cache"))
    for image in sorted((copy / "images").iterdir())[::3]:
        image.write_bytes(b"torn")
    return copy


@pytest.fixture
def train(command: Command, recipe_file: Path, torn_world: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A function that trains on that world into ``tmp_path / name``."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        return command(
            "train", str(recipe_file), f"data_root={torn_world}", "dataset={shapes_res: {turns: 1, limit: 12}}",
            "training.save_steps=1", "training.save_total_limit=9", *arguments, "--out", str(tmp_path / name),
        )  # fmt: skip

    return run


def test_a_resumed_run_goes_on_counting(train: Any, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    code, _, err = train("whole", "bad_sample_budget=9")
    assert code == 0, err
    counts = {line["step"]: line.get("bad_samples", 0) for line in logged(whole)}
    assert 0 < counts[2] < counts[6]
    shutil.copytree(whole, torn)
    shutil.rmtree(torn / "model")
    for step in (3, 4, 5, 6):
        shutil.rmtree(torn / "checkpoints" / f"checkpoint-{step}")
    assert train("torn", "bad_sample_budget=9", "--resume")[0] == 0
    assert logged(torn) == logged(whole)
    assert named(torn / "bad_samples.jsonl") == named(whole / "bad_samples.jsonl")
    told = [json.loads((run / "metrics.json").read_text())["training"]["bad_samples"] for run in (whole, torn)]
    assert told == [counts[6], counts[6]]


def test_resuming_gives_no_new_budget(train: Any, tmp_path: Path) -> None:
    assert train("run", "bad_sample_budget=9", "training.max_steps=2")[0] == 0
    before = named(tmp_path / "run" / "bad_samples.jsonl")
    code, _, err = train("run", f"bad_sample_budget={len(before)}", "training.max_steps=6", "--resume")
    assert code == 2 and f"samples cannot be used, the budget (bad_sample_budget) is {len(before)}" in err
    after = named(tmp_path / "run" / "bad_samples.jsonl")
    assert after[: len(before)] == before and len(after) == len(set(after)) > len(before)


def test_a_checkpoint_knows_its_bad_samples(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.jsonl"
    first = BadSamples(path, 3)
    first.note([BadSample("a", "torn"), BadSample("b", "torn"), BadSample("a", "torn")])
    saved = first.by_process()
    assert saved == [["a", "b"]]
    first.note([BadSample("c", "torn")])
    again = BadSamples(path, 3)
    again.take_up(saved, 0, 1)
    assert len(again) == 2 and named(path) == ["a", "b"], "c comes again"
    again.note([BadSample("b", "torn"), BadSample("c", "torn")])
    assert named(path) == ["a", "b", "c"]
    with pytest.raises(UserError, match="4 samples cannot be used, the budget .* is 3: a, b, c"):
        again.note([BadSample("d", "torn")])


def test_another_number_of_processes_shares_them_out(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.jsonl"
    path.write_text("".join(json.dumps({"sample": name, "reason": "torn"}) + "\n" for name in "abcd"))
    books = [BadSamples(path, 9) for _ in range(2)]
    for process, book in enumerate(books):
        book.take_up([["a"], ["b"], ["c"]], process, 2)
    assert [book.by_process() for book in books] == [[["a", "c"]], [["b"]]]
    assert named(path) == ["a", "b", "c"]


def test_an_old_checkpoint_takes_all_that_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.jsonl"
    path.write_text('{"sample": "a", "reason": "torn"}\n{"sample": "b", "reason": "to')
    book = BadSamples(path, 9)
    book.take_up(None, 0, 1)
    assert book.by_process() == [["a"]]
    book.note([BadSample("b", "torn")])
    assert named(path) == ["a", "b"], "a line that was cut short is not written on"
