"""Runs with batches of alike rows and with words tokenized beforehand, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_it(command: Command, recipe_file: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A function that trains into ``tmp_path / name``."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        return command("train", str(recipe_file), *arguments, "--out", str(tmp_path / name))

    return run


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_words_tokenized_once_train_as_those_tokenized_on_the_way(run_it: Any, tmp_path: Path) -> None:
    arguments = ("dataset={shapes_listing: {}}", "training.max_steps=2", "training.save_strategy=no")
    assert run_it("online", *arguments)[0] == 0
    for name, said in (("first", "tokenized into"), ("second", "taken from")):
        code, out, err = run_it(name, *arguments, "pretokenized=true")
        assert code == 0, err
        assert said in out
        assert losses(tmp_path / name) == losses(tmp_path / "online")


def test_what_is_drawn_anew_is_refused(run_it: Any, tmp_path: Path) -> None:
    code, _, err = run_it("run", "dataset={shapes_res: {}}", "pretokenized=true")
    assert code == 2 and "pretokenized: the samples of shapes_res are drawn anew" in err


def test_a_grouped_run_that_is_gone_on_with_is_the_whole_run(run_it: Any, tmp_path: Path) -> None:
    arguments = ("group_by_modality_length=true", "training.save_steps=2", "training.lr_scheduler_type=constant")
    assert run_it("whole", *arguments, "training.max_steps=3")[0] == 0
    assert run_it("cut", *arguments, "training.max_steps=2")[0] == 0
    code, _, err = run_it("cut", *arguments, "training.max_steps=3", "--resume")
    assert code == 0, err
    whole, cut = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    code, _, err = run_it("cut", *arguments, "training.per_device_train_batch_size=2", "--resume")
    assert code == 2 and "grouped by 4 rows a pass, now 2" in err
