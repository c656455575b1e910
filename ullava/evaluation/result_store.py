"""The folder of one evaluation: what is in it, and how a run that was interrupted finds its way back.

``run.json``            what is evaluated; a run with anything else refuses to go on in the folder
``predictions.jsonl``   one line for each query, appended batch by batch; the metrics are computed from it alone
``bad_samples.jsonl``   samples that could not be used, with the reason (tried again by the next run)
``metrics.json``        the results, written last (beside ``risk_coverage.json`` and ``.png``, where there are curves)

With several processes, process N appends to ``predictions.rankN.jsonl`` and ``bad_samples.rankN.jsonl`` and leaves
``finished.rankN.json``; process 0 merges them when all have finished. Whole files are written to a temporary name and
renamed. A line that was cut short by an interruption is dropped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ullava.atomic_write import append, make_folder, whole, write_json, write_whole
from ullava.errors import ConfigError, DataError
from ullava.json_lines import parse_line

STALL_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the work this process does: groups rank, rank + world, rank + 2 world …"""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"RANK={self.rank} does not fit WORLD_SIZE={self.world}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Shard:
        """Read ``RANK`` and ``WORLD_SIZE`` as torchrun, accelerate and deepspeed set them.

        Raises ConfigError if they are no numbers or do not fit each other.
        """
        try:
            return cls(int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1")))
        except ValueError as error:
            raise ConfigError(f"RANK and WORLD_SIZE must be whole numbers: {error}") from None


class RunFolder:
    """Reads and writes the files of one evaluation for one process."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.folder = folder
        self.shard = shard
        own = "" if shard.world == 1 else f".rank{shard.rank}"
        self.predictions = folder / f"predictions{own}.jsonl"
        self.bad = folder / f"bad_samples{own}.jsonl"
        self._marker = folder / f"finished.rank{shard.rank}.json"

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Claim the folder for what ``identity`` says, or find that it belongs to it already.

        Raises ConfigError naming what differs if the folder holds the results of something else.
        """
        make_folder(self.folder)
        path = self.folder / "run.json"
        if not path.exists():
            temporary = write_json(self.folder / f".run.{os.getpid()}.json", identity)
            try:
                os.link(temporary, path)  # fails if another process was first
            except FileExistsError:
                pass
            temporary.unlink()
        _refuse_other_run(path, identity)
        self._marker.unlink(missing_ok=True)
        self._forget_bad()
        _drop_cut_line(self.predictions)

    def _forget_bad(self) -> None:
        """Remove the lists of bad samples of this process; process 0 also removes those that no process owns now."""
        owned = {self.folder / f"bad_samples.rank{rank}.jsonl" for rank in range(1, self.shard.world)}
        for path in self._all("bad_samples") if self.shard.rank == 0 else [self.bad]:
            if path not in owned or path == self.bad:
                path.unlink(missing_ok=True)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append prediction records and flush them to the file."""
        _append(self.predictions, records)

    def append_bad(self, record: Mapping[str, Any]) -> None:
        """Append one bad sample."""
        _append(self.bad, [record])

    def finish(self, problems: Iterable[str] = ()) -> None:
        """Tell process 0 that this process is through; ``problems`` if it gave up."""
        write_json(self._marker, {"world": self.shard.world, "problems": list(problems)})

    def wait_for_others(self, pause_seconds: float = 1.0, stall_seconds: float = STALL_SECONDS) -> None:
        """Wait (in process 0) until all processes have finished.

        Raises DataError with their problems if some gave up, or if one has written nothing for ``stall_seconds``.
        """
        for rank in range(self.shard.world):
            wait_until(
                lambda rank=rank: self._finished(rank) is not None,  # type: ignore[misc]
                progress=lambda rank=rank: _size(self.folder / f"predictions.rank{rank}.jsonl"),  # type: ignore[misc]
                pause_seconds=pause_seconds,
                stall_seconds=stall_seconds,
                complaint=f"process {rank} of {self.shard.world} has written nothing for {stall_seconds:.0f} s",
            )
        problems = [line for rank in range(self.shard.world) for line in (self._finished(rank) or {})["problems"]]
        if problems:
            raise DataError(problems)

    def _finished(self, rank: int) -> dict[str, Any] | None:
        marker = self.folder / f"finished.rank{rank}.json"
        if not marker.exists():
            return None
        found: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        return found if found["world"] == self.shard.world else None

    def records(self) -> Iterator[dict[str, Any]]:
        """Read the prediction records of all processes, this run's and earlier ones'."""
        for path in self._all("predictions"):
            yield from read_lines(path)

    def merge(self, order: Callable[[Mapping[str, Any]], tuple[int, ...]]) -> None:
        """Bring all predictions into ``predictions.jsonl`` and all bad samples into ``bad_samples.jsonl``.

        Lines are sorted by ``order(record)``; of several with the same place the last one stays.
        """
        places: dict[tuple[int, ...], tuple[Path, int, int]] = {}
        for path in self._all("predictions"):
            for record, start, length in _located_lines(path):
                places[order(record)] = (path, start, length)
        with whole(self.folder / "predictions.jsonl") as unfinished, unfinished.open("wb") as out:
            for place in sorted(places):
                path, start, length = places[place]
                with path.open("rb") as source:
                    source.seek(start)
                    out.write(source.read(length))
        bad = [record for path in self._all("bad_samples") for record in read_lines(path)]
        if bad:
            write_whole(self.folder / "bad_samples.jsonl", "".join(_line(record) for record in bad))
        for pattern in ("predictions.rank*.jsonl", "bad_samples.rank*.jsonl", "finished.rank*.json"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _all(self, stem: str) -> list[Path]:
        return [*sorted(self.folder.glob(f"{stem}.jsonl")), *sorted(self.folder.glob(f"{stem}.rank*.jsonl"))]


def _refuse_other_run(path: Path, identity: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise DataError(f"{path}: is not a file; choose another --out")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); choose another --out") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); delete the folder or choose another with --out") from None
    before, now = dict(_flat(stored)), dict(_flat(json.loads(json.dumps(identity))))
    changes = [
        f"{path}: {key} was {json.dumps(before.get(key))}, is now {json.dumps(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise ConfigError([*changes, f"{path.parent} holds another evaluation: choose another --out, or delete it"])


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a JSONL file; a last line without its end is left out. Raises DataError for a line that is not JSON."""
    for record, _, _ in _located_lines(path):
        yield record


def _located_lines(path: Path) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield (record, start, length in bytes) of each whole line."""
    if not path.exists():
        return
    if not path.is_file():
        raise DataError(f"{path}: is not a file")
    start = 0
    with path.open("rb") as source:
        for number, line in enumerate(_lines_of(source, path), start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record: dict[str, Any] = parse_line(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from None
            if not isinstance(record, dict):
                raise DataError(f"{path}:{number}: not an object")
            yield record, start, len(line)
            start += len(line)


def _lines_of(source: BinaryIO, path: Path) -> Iterator[bytes]:
    """The lines of an open file. Raises DataError where the disk does not give them."""
    try:
        yield from source
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    append(path, "".join(_line(record) for record in records))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _drop_cut_line(path: Path) -> None:
    """Cut a last line that has no end, so that the next one does not grow onto it."""
    if not path.exists():
        return
    end = sum(length for _, _, length in _located_lines(path))
    with path.open("r+b") as file:
        file.truncate(end)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_until(
    done: Callable[[], bool],
    progress: Callable[[], int],
    pause_seconds: float,
    stall_seconds: float,
    complaint: str,
) -> None:
    """Wait for ``done``; as long as ``progress`` changes, patience starts anew. Raises DataError(complaint)."""
    seen, since = progress(), time.monotonic()
    while not done():
        time.sleep(pause_seconds)
        now = progress()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > stall_seconds:
            raise DataError(complaint)
