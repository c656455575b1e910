"""Reading weights from disk. Safetensors only; pickles are opened nowhere but in ``ullava convert``."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ullava.errors import WeightsError
from ullava.given_files import open_plain, read_plain

T = TypeVar("T")

SAFE_FILE = "model.safetensors"
SAFE_INDEX = "model.safetensors.index.json"
PICKLED_INDEX = "pytorch_model.bin.index.json"
PICKLED_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
FOREIGN_STARTS = {
    b"<": "a web page or XML, not weights; was the address of the download wrong?",
    b"version https://git-lfs": "a pointer of Git LFS, not the weights; fetch them with `git lfs pull`",
    b"{": "JSON, not weights",
}
"""What else is found under the names of weights -> what it is."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read name -> tensor (on the CPU) from a ``.safetensors`` file or a folder of them (single or with an index).

    Raises:
        WeightsError: nothing there, a damaged or incomplete set of files, or pickled weights.
    """
    files = weight_files(path)
    pickled = [file for file in files if file.suffix in PICKLED_SUFFIXES]
    if pickled:
        raise WeightsError(
            f"{pickled[0]}: pickled weights can run code when they are opened; "
            "turn them into safetensors once with `ullava convert checkpoint`"
        )
    return _merge({file: _read_safetensors(file) for file in files})


def read_pickled_or_safe(path: Path) -> dict[str, Tensor]:
    """Read like ``read_state_dict``, and also ``.pth`` / ``.bin`` files that hold nothing but tensors.

    A pickle is opened with PyTorch's restricted reader. One that needs any other class or function is refused; there
    is no second, unrestricted attempt. A state dict may be wrapped in a dict under ``state_dict``, ``model`` or
    ``module``.

    Raises:
        WeightsError: as ``read_state_dict``, a pickle that is not plain tensors, or tensors that hold NaN or infinity.
    """
    parts = {}
    for file in weight_files(path):
        parts[file] = _read_pickled(file) if file.suffix in PICKLED_SUFFIXES else _read_safetensors(file)
    problems = [f"{file}: {name} {why}" for file, tensors in parts.items() for name, why in _not_numbers(tensors)]
    if problems:
        raise WeightsError(problems)
    return _merge(parts)


def prefix_hint(names: Collection[str]) -> str:
    """Say which prefix all names have in common, as wrappers of a model put before them; '' where there is none."""
    parts = [name.split(".") for name in names]
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    if len(parts) < 2 or not shared:
        return ""
    return (
        f"all {len(parts)} names begin with '{'.'.join(shared)}.'; if a wrapper put that before them "
        "(DistributedDataParallel, Lightning), save the weights without it"
    )


def weight_files(path: Path) -> list[Path]:
    """Return the weight files at ``path``: itself, the single file of a folder, or the shards that its index names.

    Raises:
        WeightsError: no such path, no weights in the folder, a broken index, or shards missing.
    """
    if path.is_file():
        if path.suffix not in (".safetensors", *PICKLED_SUFFIXES):
            raise WeightsError(f"{path}: not a weight file; known endings: .safetensors {' '.join(PICKLED_SUFFIXES)}")
        return [path]
    if not path.is_dir():
        raise WeightsError(f"{path}: no such file or folder")
    for single, index in ((SAFE_FILE, SAFE_INDEX), ("pytorch_model.bin", PICKLED_INDEX)):
        if (path / single).is_file():
            return [path / single]
        if (path / index).is_file():
            return _shards(path / index)
    raise WeightsError(f"{path}: no {SAFE_FILE} and no {SAFE_INDEX} in this folder")


def read_table(file: Path) -> dict[str, Any]:
    """Read a JSON object, e.g. the ``config.json`` beside weights.

    Raises:
        WeightsError: it is missing, damaged or no object.
    """
    if not os.path.lexists(file):
        raise WeightsError(f"{file}: is not there; it has to lie beside the weights")
    content = read_plain(file, error=WeightsError)
    try:
        table = json.loads(content.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise WeightsError(f"{file}:{error.lineno}: cannot be read as JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise WeightsError(f"{file}: cannot be read as JSON: not UTF-8 text (byte {error.start})") from error
    except (RecursionError, ValueError) as error:
        raise WeightsError(f"{file}: cannot be read as JSON: {short_reason(error)}") from error
    if not isinstance(table, dict):
        raise WeightsError(f"{file}: is no JSON object")
    return table


def write_table(file: Path, table: Mapping[str, Any]) -> None:
    """Write a JSON object as ``read_table`` reads it."""
    file.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class Stored(NamedTuple):
    """One tensor of a file, by its header: shape, safetensors' word for its type, and the file."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


def read_shapes(path: Path) -> dict[str, Stored]:
    """Read name -> what the headers of safetensors say, of a file or a folder of them.

    Empty for pickled weights, which have no header.

    Raises:
        WeightsError: as ``read_state_dict``, and where the index names another file for a tensor than the one it is in.
    """
    files = weight_files(path)
    found = {file: _header(file) for file in files if file.suffix not in PICKLED_SUFFIXES}
    index = path / SAFE_INDEX
    if found and path.is_dir() and files != [path / SAFE_FILE]:
        stored = {name: file.name for file, tensors in found.items() for name in tensors}
        named = read_table(index)["weight_map"]
        problems = [f"{index}: weight_map.{name}: it is not in {file}" for name, file in named.items()
                    if stored.get(name) != file]  # fmt: skip
        problems += [f"{index}: weight_map: {name} of {stored[name]} is missing" for name in stored.keys() - named]
        if problems:
            raise WeightsError(sorted(problems))
    return _merge(found)


def _header(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(str(file), framework="pt") as stream:
            views = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118 - no mapping
            return {name: Stored(tuple(view.get_shape()), view.get_dtype(), file) for name, view in views.items()}
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_table(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: not an index of shards (a JSON object with weight_map)") from error
    if not names:
        raise WeightsError(f"{index}: weight_map: names no shard")
    foreign = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if foreign:
        raise WeightsError([f"{index}: shard {name!r} is not a file of the same folder" for name in foreign])
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise WeightsError([f"{index}: shard {name} is not there" for name in absent])
    return [index.parent / name for name in names]


def _merge(parts: Mapping[Path, Mapping[str, T]]) -> dict[str, T]:
    merged: dict[str, T] = {}
    problems = []
    for file, tensors in parts.items():
        problems += [f"{file}: {name} is in another shard too" for name in tensors if name in merged]
        merged.update(tensors)
    if problems:
        raise WeightsError(problems)
    return merged


def _not_numbers(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Name the tensors of a run that failed; masks of attention are infinite on purpose."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        if bool(tensor.isnan().any()):
            yield name, "holds NaN (not a number): these weights are of a run that failed"
        elif not name.endswith("mask") and bool(tensor.isinf().any()):
            yield name, "holds infinity: these weights are of a run that failed"


def _refuse_foreign(file: Path) -> None:
    """Name what lies in the place of weights: nothing, a web page, a pointer, a file that was cut off."""
    with open_plain(file, error=WeightsError) as stream:
        start = stream.read(64).lstrip()
    if not file.stat().st_size:
        raise WeightsError(f"{file}: is empty")
    for sign, what in FOREIGN_STARTS.items():
        if start.startswith(sign):
            raise WeightsError(f"{file}: is {what}")
    if start.startswith(b"PK") and not zipfile.is_zipfile(file):
        raise WeightsError(f"{file}: is cut off: the end of the archive is missing; copy or download it again")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    _refuse_foreign(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: BaseException) -> WeightsError:
    if "not fully covered" in str(error):
        return WeightsError(f"{file}: is cut off: its end is missing; copy or download it again")
    return WeightsError(f"{file}: cannot be read as safetensors: {short_reason(error)}")


def _read_pickled(file: Path) -> dict[str, Tensor]:
    _refuse_foreign(file)
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{file}: refused, opening it would need to run code: {short_reason(error)}") from error
    except (RuntimeError, EOFError, OSError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{file}: cannot be read: {short_reason(error)}") from error
    while isinstance(content, dict):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{file}: holds {type(content).__name__}, not a dict of tensors")
    foreign = [name for name, tensor in content.items() if not isinstance(tensor, Tensor) or not isinstance(name, str)]
    if foreign:
        raise WeightsError([f"{file}: {name!r} is not a tensor" for name in foreign])
    return dict(content)


def short_reason(error: BaseException) -> str:
    """A library's message, which may run over many lines, in one of 300 characters at most."""
    return " ".join(str(error).split())[:300] or type(error).__name__
