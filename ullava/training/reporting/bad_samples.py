"""Samples that a run could not use: named once in the run folder, counted against the budget, kept in checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ullava.atomic_write import write_whole
from ullava.data.loading.encode import BadSample
from ullava.errors import UserError
from ullava.training.reporting.folder import append_json, read_json_lines


class BadSamples:
    """Names of the samples that this process could not use; ``path`` lists those of all processes with the reason."""

    def __init__(self, path: Path, budget: int) -> None:
        self.path = path
        self.budget = budget
        self._names: dict[str, None] = {}

    def __len__(self) -> int:
        """Return the number of distinct samples."""
        return len(self._names)

    def note(self, found: Iterable[BadSample]) -> None:
        """Write down what is new. Raises UserError when there are more than the budget allows."""
        for bad in found:
            if bad.name not in self._names:
                self._names[bad.name] = None
                append_json(self.path, {"sample": bad.name, "reason": bad.reason})
        if len(self) > self.budget:
            named = sorted(self._names)[:3]
            raise UserError(
                f"{len(self)} samples cannot be used, the budget (bad_sample_budget) is "
                f"{self.budget}: {', '.join(named)}; all are in {self.path}"
            )

    def by_process(self) -> list[list[str]]:
        """Return the names that each process has. Every process has to call this."""
        own = list(self._names)
        if not torch.distributed.is_initialized():
            return [own]
        everybody: list[list[str]] = [own] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everybody, own)
        return everybody

    def take_up(self, by_process: Sequence[Sequence[str]] | None, process: int, processes: int) -> None:
        """Go on with what a checkpoint knew, so that no sample is counted twice and none is forgotten.

        Shares of processes that there are no longer go to those that there are. Process 0 drops the lines that came
        after the checkpoint; they will come again. A checkpoint that says nothing (None) takes all that are listed.
        """
        lines = read_json_lines(self.path)
        if by_process is None:
            by_process = [[line["sample"] for line in lines if "sample" in line]]
        self._names = {name: None for names in by_process[process::processes] for name in names}
        known = {name for names in by_process for name in names}
        kept = [line for line in lines if line.get("sample") in known]
        if process == 0 and self.path.exists():
            write_whole(self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
