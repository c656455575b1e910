"""Files that are there whole or not at all: written under another name beside their place, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the name to write under; what stands there at the end becomes ``path``, unless there was an error.

    Readers see the old file or the new one, and two writers do not meet.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write ``content``, text as UTF-8, to ``path``."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as indented JSON and return ``path``. NaN is refused with ValueError (it is not JSON)."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give the empty folder to write into, which becomes ``folder`` at the end, unless there was an error.

    What stands there before stays until the new one is complete. What a killed process left unfinished is removed.
    """
    drafts, replaced = f".{folder.name}.new.", f".{folder.name}.old."
    _remove(folder.parent, drafts)
    draft = folder.with_name(drafts + uuid.uuid4().hex)
    draft.mkdir(parents=True)
    try:
        yield draft
        if folder.exists():
            os.replace(folder, folder.with_name(replaced + uuid.uuid4().hex))
        os.replace(draft, folder)
        _remove(folder.parent, replaced)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove(parent: Path, prefix: str) -> None:
    for path in list(parent.iterdir()) if parent.is_dir() else []:
        if path.name.startswith(prefix):
            shutil.rmtree(path)
