"""``runs/<name>/``: what one training run leaves behind, and what a resumed one finds.

recipe.yaml        the merged recipe, command-line overrides included
train_log.jsonl    one line per logging step
bad_samples.jsonl  one line per sample that could not be used
checkpoints/       checkpoint-N, for --resume; .unfinished/checkpoint-N while it is being written
eval/step-N/       predictions and metrics of the evaluations on the way
metrics.json       the last evaluation
curve.png          losses and figures over the steps
model/             the weights and the processor, for ``ullava.load``
.ullava.lock       who trains here, while somebody does (ullava.run_lock)
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ullava.atomic_write import append, write_whole
from ullava.errors import UserError
from ullava.json_lines import numbered_lines, parse_line
from ullava.run_lock import LOCK

_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}$")
"""What ``whole_files.whole`` calls a file that is being written."""


class RunFolder:
    """The paths of one run. Nothing is created before ``prepare``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.train_log = root / "train_log.jsonl"
        self.bad_samples = root / "bad_samples.jsonl"
        self.checkpoints = root / "checkpoints"
        self.drafts = self.checkpoints / ".unfinished"
        self.evaluations = root / "eval"
        self.metrics = root / "metrics.json"
        self.curve = root / "curve.png"
        self.model = root / "model"
        self.adapter = root / "adapter"
        self.was_begun = (root / LOCK).is_file()  # by a run that was killed before it wrote anything else

    def evaluation(self, step: int) -> Path:
        """Return where the evaluation after ``step`` goes."""
        return self.evaluations / f"step-{step}"

    def check(self, *, resume: bool) -> None:
        """Refuse a folder that this run would mix with another: raises UserError. Changes nothing."""
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root}: the run folder is a file; name another with --out")
        occupied = self.root.is_dir() and any(path.name != LOCK for path in self.root.iterdir())
        if occupied and not resume:
            raise UserError(f"{self.root}: not empty; continue the run with --resume or name another with --out")
        if resume and not occupied and not self.was_begun:
            raise UserError(f"{self.root}: nothing to resume here; train without --resume first")

    def prepare(self, recipe_yaml: str) -> None:
        """Make the folder and write the merged recipe."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_whole(self.recipe, recipe_yaml)

    def checkpoints_newest_first(self) -> list[tuple[int, Path]]:
        """Return (step, folder) of every checkpoint that was written to its end."""
        found = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        named = ((match, path) for path in found if (match := _CHECKPOINT.match(path.name)) and path.is_dir())
        return sorted(((int(match.group(1)), path) for match, path in named), reverse=True)

    def is_evaluated(self, step: int) -> bool:
        """Return whether the log has the figures of an evaluation after ``step``."""
        lines = (line for line in self.log_lines() if line["step"] == step)
        return any(name.startswith("eval_") for line in lines for name in line)

    def forget_after(self, step: int) -> None:
        """Drop log lines, evaluations and checkpoints beyond ``step``, which a resumed run will make again.

        And the drafts of checkpoints and files that a killed run left under their temporary names. From step 0 the bad
        samples are found again as well; a checkpoint knows its own (BadSamples).
        """
        if step == 0:
            self.bad_samples.unlink(missing_ok=True)
        kept = [line for line in self.log_lines() if line["step"] <= step]
        write_whole(self.train_log, "".join(json.dumps(line) + "\n" for line in kept))
        for number, path in self.checkpoints_newest_first():
            if number > step:
                shutil.rmtree(path)
        for path in list(self.evaluations.glob("step-*")):
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        if self.drafts.is_dir():
            shutil.rmtree(self.drafts)
        for path in list(self.root.rglob(".*")):
            if _DRAFT.match(path.name) and path.is_file():
                path.unlink()

    def append_log(self, line: Mapping[str, Any]) -> None:
        """Add one line to train_log.jsonl."""
        append_json(self.train_log, line)

    def log_lines(self) -> list[dict[str, Any]]:
        """Read train_log.jsonl; a last line that a crash cut short is left out. Raises UserError for a damaged one."""
        lines = read_json_lines(self.train_log)
        for number, line in enumerate(lines, start=1):
            if not isinstance(line.get("step"), int):
                raise UserError(f"{self.train_log}: line {number} names no step; remove it")
        return lines


def append_json(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON object as one line; a single short write, so that several processes may share the file.

    NaN is refused with ValueError (it is not JSON).
    """
    append(path, json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a JSONL file; a missing file is an empty one. Raises UserError for other content."""
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    for number, line in numbered_lines(path.read_bytes().split(b"\n")[:-1]):
        try:
            value = parse_line(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}; remove the line") from None
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number}: no JSON object; remove the line")
        found.append(value)
    return found
