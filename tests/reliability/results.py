"""What a training run leaves, compared with what another one leaves: weights, losses, states, answers, to the bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer_pt_utils import safe_globals

from ullava.training.reporting.folder import RunFolder

SECONDS = ("runtime", "per_second")
"""In the names of figures that are another every time."""


def differences(whole: Path, resumed: Path) -> list[str]:
    """Return what differs between two finished run folders, one line each."""
    found = [
        f"{name} differs"
        for name in ("model", "adapter")
        if _bytes(whole / name, ".safetensors") != _bytes(resumed / name, ".safetensors")
    ]
    if _log(whole) != _log(resumed):
        found.append("train_log.jsonl differs")
    if _results(whole) != _results(resumed):
        found.append("metrics.json differs")
    if _bytes(whole / "eval", ".jsonl") != _bytes(resumed / "eval", ".jsonl"):
        found.append("answers of an evaluation differ")
    checkpoints = [_newest(run) for run in (whole, resumed)]
    found += [f"checkpoint: {line}" for line in _checkpoints_differ(*checkpoints)]
    return found + [f"{name} stayed" for name in sorted(_hidden(resumed) - _hidden(whole))]


def _hidden(run: Path) -> set[str]:
    """What has a hidden name: unfinished files, and of shares of an optimizer the table that torch writes."""
    return {path.relative_to(run).as_posix() for path in run.rglob(".*")}


Seen = set[tuple[str, int]]
"""Folders by name and time of their last change."""


def seen(run: Path) -> Seen:
    """Return the evaluations and unfinished checkpoints that are there now."""
    return {_mark(path) for path in (*run.glob("eval/step-*"), *RunFolder(run).drafts.glob("*")) if path.is_dir()}


def in_checkpoint(run: Path, before: Seen, files: int = 0) -> bool:
    """Whether a checkpoint of at least so many files is being written, other than those seen ``before``."""
    new = [path for path in RunFolder(run).drafts.glob("*") if _mark(path) not in before]
    return any(len(list(path.glob("*"))) >= files for path in new)


def in_evaluation(run: Path, before: Seen) -> bool:
    """Whether an evaluation is being made, other than those seen ``before``."""
    new = {path.name for path in run.glob("eval/step-*") if _mark(path) not in before}
    logged = {f"step-{line['step']}" for line in _log(run) if any(name.startswith("eval_") for name in line)}
    return bool(new - logged)


def _mark(path: Path) -> tuple[str, int]:
    try:
        return path.name, path.stat().st_mtime_ns
    except FileNotFoundError:  # it has just got its name, or was forgotten
        return path.name, 0


def _newest(run: Path) -> Path:
    return max(run.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def _bytes(folder: Path, suffix: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(f"*{suffix}"))}


def _log(run: Path) -> list[dict[str, Any]]:
    path = run / "train_log.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [_steady(line) for line in lines if "train_runtime" not in line]


def _steady(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.endswith(SECONDS)}


def _results(run: Path) -> Any:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    training = metrics["training"]
    return metrics["results"], {name: training[name] for name in ("steps", "skipped_batches", "bad_samples")}


def _checkpoints_differ(whole: Path, resumed: Path) -> Iterator[str]:
    if whole.name != resumed.name:
        yield f"{resumed.name} instead of {whole.name}"
        return
    names = [sorted(str(path.relative_to(top)) for path in top.rglob("*")) for top in (whole, resumed)]
    if names[0] != names[1]:
        yield f"files {sorted(set(names[0]) ^ set(names[1]))}"
    for name in set(names[0]) & set(names[1]):
        first, second = whole / name, resumed / name
        if first.suffix in (".safetensors", ".distcp"):
            equal = first.read_bytes() == second.read_bytes()
        elif first.suffix in (".pt", ".pth"):
            with safe_globals():
                equal = _equal(*(torch.load(path, weights_only=True) for path in (first, second)))
        elif first.name in ("trainer_state.json", "loss_window.json"):
            states = _state(first), _state(second)
            yield from (f"{name} differs in {key}" for key in states[0] if states[0][key] != states[1].get(key))
            continue
        else:
            continue
        if not equal:
            yield f"{name} differs"


def _state(path: Path) -> dict[str, Any]:
    """The state without its copy of the log's evaluations: one that a stop left out is made up in the log alone."""
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "log_history" in state:
        state["log_history"] = [_steady(line) for line in state["log_history"] if "loss" in line]
    return state


def _equal(first: Any, second: Any) -> bool:
    """Whether two contents of ``torch.save`` are the same, NaN included, without a look at who shares what."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and _raw(first) == _raw(second)
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second))
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_equal(first[name], second[name]) for name in first)
    if isinstance(first, Sequence) and not isinstance(first, str):
        return len(first) == len(second) and all(_equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
