"""Questions cut into shards, each with a file of answers that is there whole or not at all.

``OUT/shards/000012.jsonl`` holds the answers of shard 12. Whoever answers a shard writes it under another name and
renames it, so a shard that is answered twice, because a machine was thought lost, is there once. When all are there
their lines become ``OUT/answers.jsonl``, in the order of the questions, and the folder of shards is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ullava.atomic_write import make_folder, whole, write_whole
from ullava.errors import DataError, UserError
from ullava.inference.answer_files import lines_of
from ullava.inference.answered import read_answered
from ullava.inference.batch import Question

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """Questions that are answered together. ``number``: its place, from 0."""

    number: int
    questions: tuple[Question, ...]

    def __str__(self) -> str:
        first, last = self.questions[0].id, self.questions[-1].id
        return f"shard {self.number} (questions '{first}' to '{last}')"


def cut(questions: Sequence[Question], size: int, batch_size: int) -> list[Shard]:
    """Cut questions into shards of ``size``, the last one smaller, each of whole batches.

    So every question is answered in the same batch as in one process, and says the same.

    Raises:
        UserError: ``size`` is not a multiple of ``batch_size``.
    """
    if size % batch_size:
        raise UserError(
            f"--shard-size {size}: expected a multiple of --batch-size {batch_size}, so that answers are those of "
            "one process"
        )
    starts = range(0, len(questions), size)
    return [Shard(number, tuple(questions[at : at + size])) for number, at in enumerate(starts)]


class ShardFolder:
    """The shards' files in a run's folder. ``settings``: those of the records."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self.settings = settings
        self.answers = out / "answers.jsonl"
        self.overlays = out / "overlays"
        self.folder = out / "shards"

    def begin(self, shards: Sequence[Shard], draw: bool = True) -> list[Shard]:
        """Return the shards that are not answered yet, after a look at those that are.

        ``draw``: overlays will be written.

        Raises:
            UserError: the folder holds answers to other questions, of another model or setting, of shards of another
                size, or of a run in one process.
        """
        part = self.answers.with_name("answers.jsonl.part")
        if part.exists():
            raise UserError(f"{part}: was begun without --engine ray; finish it that way, or give another --out")
        if self.answers.exists():
            self._check_finished([question for shard in shards for question in shard.questions])
            shutil.rmtree(self.folder, ignore_errors=True)
            return []
        make_folder(self.folder)
        if draw:
            make_folder(self.overlays)
        known = {self._file(shard) for shard in shards}
        for path in sorted(self.folder.glob("[!.]*")):
            if path not in known:
                raise UserError(f"{path}: is not a shard of these questions at this --shard-size; give another --out")
        return [shard for shard in shards if not self._holds(shard)]

    def write(self, shard: Shard, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the answers of a shard, all of them at once."""
        write_whole(self._file(shard), lines_of(records))

    def join(self, shards: Sequence[Shard]) -> None:
        """Make ``answers.jsonl`` of all shards, in order; the folder of shards goes.

        Raises:
            DataError: a file of a shard has gone, or lacks lines.
        """
        with whole(self.answers) as unfinished, unfinished.open("wb") as joined:
            for shard in shards:
                path, lines = self._file(shard), 0
                try:
                    with path.open("rb") as file:
                        while chunk := file.read(_CHUNK):
                            lines += chunk.count(b"\n")
                            joined.write(chunk)
                except FileNotFoundError:
                    lines = 0
                if lines != len(shard.questions):
                    raise DataError(
                        f"{path}: holds {lines} of {len(shard.questions)} answers; if --out is not one folder for all "
                        "machines it has to be; delete the file and run again"
                    )
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------
    def _file(self, shard: Shard) -> Path:
        return self.folder / f"{shard.number:06d}.jsonl"

    def _holds(self, shard: Shard) -> bool:
        """Whether a shard is answered. Raises UserError as ``begin`` for a file that holds other answers."""
        path = self._file(shard)
        if not path.exists():
            return False
        ids, end = read_answered(path, shard.questions, self.settings)
        if ids != [question.id for question in shard.questions] or end != path.stat().st_size:
            raise UserError(
                f"{path}: holds {len(ids)} of {len(shard.questions)} answers: it is of another --shard-size, or was "
                "damaged; delete it and run again, or give another --out"
            )
        return True

    def _check_finished(self, questions: Sequence[Question]) -> None:
        ids, _ = read_answered(self.answers, questions, self.settings)
        if len(ids) != len(questions):
            raise UserError(f"{self.answers}: answers {len(ids)} of {len(questions)} questions; give another --out")
