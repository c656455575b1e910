"""``runs/<name>/``: what one training run leaves behind, and what a resumed one finds.

recipe.yaml        the merged recipe, command-line overrides included
train_log.jsonl    one line per logging step
bad_samples.jsonl  one line per sample that could not be used
checkpoints/       checkpoint-N, for --resume
eval/step-N/       predictions and metrics of the evaluations on the way
metrics.json       the last evaluation
curve.png          losses and figures over the steps
model/             the weights and the processor, for ``ullava.load``
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ullava.errors import DataError, UserError
from ullava.json_lines import numbered_lines, parse_line
from ullava.whole_files import write_whole

_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")


class RunFolder:
    """The paths of one run. Nothing is created before ``prepare``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.train_log = root / "train_log.jsonl"
        self.bad_samples = root / "bad_samples.jsonl"
        self.checkpoints = root / "checkpoints"
        self.evaluations = root / "eval"
        self.metrics = root / "metrics.json"
        self.curve = root / "curve.png"
        self.model = root / "model"
        self.adapter = root / "adapter"

    def evaluation(self, step: int) -> Path:
        """Return where the evaluation after ``step`` goes."""
        return self.evaluations / f"step-{step}"

    def check(self, *, resume: bool) -> None:
        """Refuse a folder that this run would mix with another: raises UserError. Changes nothing."""
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root}: the run folder is a file; name another with --out")
        occupied = self.root.is_dir() and any(self.root.iterdir())
        if occupied and not resume:
            raise UserError(f"{self.root}: not empty; continue the run with --resume or name another with --out")
        if resume and not occupied:
            raise UserError(f"{self.root}: nothing to resume here; train without --resume first")

    def prepare(self, recipe_yaml: str) -> None:
        """Make the folder and write the merged recipe."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_whole(self.recipe, recipe_yaml)

    def last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that was written to its end (the trainer's state comes last)."""
        found = sorted(
            (int(match.group(1)), path)
            for path in (self.checkpoints.iterdir() if self.checkpoints.is_dir() else ())
            if (match := _CHECKPOINT.match(path.name)) and (path / "trainer_state.json").is_file()
        )
        return found[-1][1] if found else None

    def forget_after(self, step: int) -> None:
        """Drop log lines, evaluations and checkpoints beyond ``step``, which a resumed run will make again."""
        kept = [line for line in self.log_lines() if line["step"] <= step]
        write_whole(self.train_log, "".join(json.dumps(line) + "\n" for line in kept))
        for path in list(self.checkpoints.iterdir()) if self.checkpoints.is_dir() else []:
            match = _CHECKPOINT.match(path.name)
            if match and int(match.group(1)) > step:
                shutil.rmtree(path)
        for path in list(self.evaluations.glob("step-*")):
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)

    def append_log(self, line: Mapping[str, Any]) -> None:
        """Add one line to train_log.jsonl."""
        append_json(self.train_log, line)

    def log_lines(self) -> list[dict[str, Any]]:
        """Read train_log.jsonl; a last line that a crash cut short is left out."""
        return read_json_lines(self.train_log)


def append_json(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON object as one line; a single short write, so that several processes may share the file."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a JSONL file; a missing file is an empty one. Raises DataError for one not JSON."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in numbered_lines(whole):
        try:
            records.append(parse_line(line))
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from None
    return records
