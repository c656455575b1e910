"""Files that are there whole or not at all: written under another name beside their place, then renamed."""

from __future__ import annotations

import json
import os
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
