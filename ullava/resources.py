"""Where ``models/``, ``datasets/`` and ``configs/`` are: in a checkout, in a wheel, or where the user says.

Looked up in this order, first hit wins: the folders named in ``$ULLAVA_RESOURCES`` (separated like ``$PATH``), the
checkout that this package lies in, ``ullava/_resources`` of an installed wheel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ullava.errors import UserError, did_you_mean
from ullava.given_files import check_plain

Kind = Literal["models", "datasets", "configs"]

KINDS: tuple[Kind, ...] = ("models", "datasets", "configs")
ENVIRONMENT = "ULLAVA_RESOURCES"
_STRAY_NAMES = (".DS_Store", "Thumbs.db", "desktop.ini")
_MAIN_FILE: dict[Kind, str] = {"models": "model.yaml", "datasets": "dataset.yaml"}


def checkout() -> Path | None:
    """Return the root of the source tree that this package was imported from, or None when it was installed."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "models").is_dir() else None


def roots() -> list[Path]:
    """Return the folders that are searched, in order; each may hold ``models/``, ``datasets/`` and ``configs/``."""
    named = [Path(part) for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
    return [*named, _builtin()]


def folder(kind: Kind) -> Path:
    """Return the folder of ``kind`` that comes with ullava itself (``folder("datasets") / "templates"``)."""
    return _builtin() / kind


def names(kind: Kind) -> list[str]:
    """Return every name that ``find(kind, name)`` knows, sorted. Configs are named by their path below ``configs/``."""
    found: set[str] = set()
    for root in roots():
        found.update(_names_below(root / kind, kind))
    return sorted(found)


def find(kind: Kind, name: str) -> Path:
    """Return the absolute path of the YAML file that ``name`` means.

    A value with ``/`` or ending in ``.yaml`` is a path (for a model or a dataset also its folder); a path that is not
    there is tried below the searched folders, so that ``configs/eval/shapes.yaml`` works from anywhere. Anything else
    is a name: ``models/<name>/model.yaml``, ``datasets/<name>/dataset.yaml`` (``+`` is read as ``_plus``) or a file
    ``<name>.yaml`` below ``configs/``.

    Raises:
        UserError: nothing of that name, or a config name that fits several files; says where it looked.
    """
    tried: list[str] = []
    for candidate in _candidates(kind, name):
        if candidate.is_file():
            return candidate.resolve()
        if candidate.exists() and not candidate.is_dir():
            check_plain(candidate, error=UserError)
        tried.append(str(candidate))
    if kind == "configs" and not _is_path(name):
        return _find_config_by_stem(name, tried)
    raise UserError(_not_found(kind, name, tried))


def is_stray(path: Path) -> bool:
    """Whether macOS or Windows put this file beside people's own: ``._a.jpg``, ``.DS_Store``, ``Thumbs.db``."""
    return path.name.startswith("._") or path.name in _STRAY_NAMES or "__MACOSX" in path.parts


def dataset_id(name: str) -> str:
    """Return the folder name of a dataset: ``refcoco+`` is ``refcoco_plus``."""
    return name.replace("+", "_plus")


def _builtin() -> Path:
    return checkout() or Path(__file__).resolve().parent / "_resources"


def _is_path(name: str) -> bool:
    return "/" in name or os.sep in name or name.endswith((".yaml", ".yml"))


def _candidates(kind: Kind, name: str) -> Iterator[Path]:
    """Yield the files that ``name`` could mean, most likely first."""
    if not name or "\0" in name:
        return
    if not _is_path(name):
        for root in roots():
            if kind == "configs":
                yield root / kind / f"{name}.yaml"
            else:
                own = dataset_id(name) if kind == "datasets" else name
                yield root / kind / own / _MAIN_FILE[kind]
        return
    path = Path(name).expanduser()
    bases = [Path.cwd()] if path.is_absolute() else [Path.cwd(), *roots(), *(root / kind for root in roots())]
    for base in bases:
        yield from _file_or_folder(kind, base / path)


def _file_or_folder(kind: Kind, path: Path) -> Iterator[Path]:
    if path.suffix in (".yaml", ".yml"):
        yield path
    elif kind == "configs":
        yield path.with_name(path.name + ".yaml")
    else:
        yield path / _MAIN_FILE[kind]


def _find_config_by_stem(name: str, tried: list[str]) -> Path:
    matches = [known for known in names("configs") if known.rsplit("/", 1)[-1] == name]
    if len(matches) == 1:
        return find("configs", f"{matches[0]}.yaml")
    if matches:
        raise UserError(f"config '{name}' could be any of: {', '.join(matches)}; write one of these")
    raise UserError(_not_found("configs", name, tried))


def _names_below(base: Path, kind: Kind) -> Iterator[str]:
    if kind == "configs":
        for path in base.glob("**/*.yaml"):
            if is_stray(path):
                continue
            yield path.relative_to(base).with_suffix("").as_posix()
    else:
        for path in base.glob(f"*/{_MAIN_FILE[kind]}"):
            yield path.parent.name


def _not_found(kind: Kind, name: str, tried: list[str]) -> str:
    known = names(kind)
    bare = name.removeprefix(f"{kind}/").removesuffix(".yaml")
    stems = [other.rsplit("/", 1)[-1] for other in known] if kind == "configs" and "/" not in bare else []
    hint = did_you_mean(bare, [*known, *stems])
    return f"no {kind[:-1]} '{name}'{hint} (looked for {', '.join(tried) or 'nothing'})"
