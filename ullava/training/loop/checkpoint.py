"""Whether a checkpoint can be taken up: every file there as long as it was written, readable, every number finite.

``files.json`` of a checkpoint names its files with their sizes. It is written when all processes are through, so what
is cut off or gone later is found before anything is loaded. Checkpoints without it are judged by what they have.
What was not written to its end lies elsewhere (``RunFolder.drafts``).
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ullava.atomic_write import write_json
from ullava.errors import UserError, WeightsError
from ullava.modeling.loading.weight_files import weight_files
from ullava.training.distributed.sharded_checkpoint import OPTIMIZER_FOLDER
from ullava.training.loop.finite import is_finite, tensors_in
from ullava.training.reporting.folder import RunFolder

FILES = "files.json"
STATE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.pt"
NEEDED = (f"{OPTIMIZER_FILE}|{OPTIMIZER_FOLDER}|global_step*", "scheduler.pt|global_step*", "rng_state*.pth")
"""What a run needs to go on, beside its weights; DeepSpeed keeps optimizer and schedule in ``global_step<N>/``."""


class DamageError(Exception):
    """What is wrong with a checkpoint, in words."""


@dataclass(frozen=True)
class Found:
    """The newest usable checkpoint of a run (None: there is none), its step, and a line for each newer one."""

    checkpoint: Path | None
    step: int
    passed_over: tuple[str, ...]


def seal(checkpoint: Path) -> None:
    """Note the files of a checkpoint that all processes have written, when they are on the disk.

    Older checkpoints are removed afterwards, and a machine that loses its power then must have this one.
    """
    files = _files(checkpoint)
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    noted = write_json(checkpoint / FILES, {"files": sizes})
    for path in (*files, noted):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def newest_usable(folder: RunFolder) -> Found:
    """Return the newest checkpoint that is whole. Raises UserError where there are only damaged ones."""
    passed_over: list[str] = []
    for step, checkpoint in folder.checkpoints_newest_first():
        try:
            check(checkpoint, step)
        except DamageError as damage:
            passed_over.append(f"{checkpoint}: {damage}")
        except OSError as error:
            raise UserError(f"{error.filename or checkpoint}: cannot be read: {error.strerror or error}") from error
        else:
            return Found(checkpoint, step, tuple(passed_over))
    if passed_over:
        last = f"no other checkpoint to go on from; remove {folder.checkpoints} to begin again from step 0"
        raise UserError([*passed_over, last])
    return Found(None, 0, ())


def check(checkpoint: Path, step: int) -> None:
    """Raise DamageError where ``checkpoint`` of ``step`` is not whole, OSError where it cannot be read."""
    read_state(checkpoint, step)
    noted = checkpoint / FILES
    sizes = _json(noted).get("files") if noted.is_file() else {}
    for name, size in sizes.items() if isinstance(sizes, dict) else ():
        path = checkpoint / name
        if not path.is_file():
            raise DamageError(f"{name} is missing")
        if path.stat().st_size != size:
            raise DamageError(f"{name} has {path.stat().st_size:,} bytes of {size:,}")
    files = _files(checkpoint)
    for path in files:
        if path.suffix == ".json":
            _json(path)
        elif path.suffix in (".pt", ".pth"):
            _check_archive(path)
    for path in _weights(checkpoint):
        _check_numbers(path, _safe_tensors(path))
    if (checkpoint / OPTIMIZER_FILE).is_file():
        _check_numbers(checkpoint / OPTIMIZER_FILE, _optimizer_tensors(checkpoint / OPTIMIZER_FILE))
    if not noted.is_file() and not has_weights_alone(checkpoint):
        for names in NEEDED:
            if not _has(checkpoint, names):
                raise DamageError(f"{names.split('|')[0]} is missing")


def read_state(checkpoint: Path, step: int) -> dict[str, Any]:
    """Return the content of trainer_state.json. Raises DamageError."""
    path = checkpoint / STATE
    if not path.is_file():
        raise DamageError(f"{STATE} is missing")
    state = _json(path)
    if state.get("global_step") != step:
        raise DamageError(f"{STATE} is of step {state.get('global_step')}")
    return state


def has_weights_alone(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written to be used, not to go on from (``training.save_only_model``)."""
    return not any(_has(checkpoint, names) for names in NEEDED)


def _has(checkpoint: Path, names: str) -> bool:
    return any(any(checkpoint.glob(name)) for name in names.split("|"))


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != FILES)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = "is empty" if path.stat().st_size == 0 else f"is not JSON ({error})"
        raise DamageError(f"{path.name} {reason}") from error
    if not isinstance(content, dict):
        raise DamageError(f"{path.name} is no JSON object")
    return content


def _weights(checkpoint: Path) -> list[Path]:
    """Return the files of weights. DeepSpeed may have them in a format of its own, which its loader judges."""
    try:
        return weight_files(checkpoint)
    except WeightsError as error:
        if any(checkpoint.glob("global_step*")):
            return []
        raise DamageError(str(error).removeprefix(f"{checkpoint}: ")) from error


def _safe_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as stream:
            for name in stream.keys():
                yield name, stream.get_tensor(name)
    except SafetensorError as error:
        raise DamageError(f"{path.name} is damaged ({error})") from error


def _check_archive(path: Path) -> None:
    """Read what torch.save wrote, a zip archive with checksums, to its end."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DamageError(f"{path.name} is damaged ({error})") from error
    if broken is not None:
        raise DamageError(f"{path.name} is damaged (checksum of {broken})")


def _optimizer_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise DamageError(f"{path.name} is damaged ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise DamageError(f"{path.name} holds no optimizer")
    yield from tensors_in(content, "optimizer")


def _check_numbers(path: Path, tensors: Iterator[tuple[str, Any]]) -> None:
    for name, value in tensors:
        if not is_finite(value):
            raise DamageError(f"{path.name} has numbers that are not finite ({name})")
