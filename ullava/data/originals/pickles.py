"""Pickles of plain data, read without running anything.

``refs(*).p`` of RefCOCO's authors is a pickle (of Python 2) of lists, dicts, strings and numbers. Loading a pickle in
the ordinary way runs whatever it names; here every name is refused, so that only plain values can come out.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

from ullava.errors import DataError

MAX_BYTES = 1 << 30


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every global, persistent id and extension code."""

    def __init__(self, file: BinaryIO) -> None:
        # Python 2 wrote text as bytes; the files hold words in ASCII and a few names in Latin-1.
        super().__init__(file, encoding="latin-1")

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only lists, dicts, text and numbers may be in it")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of it")


def read_plain_pickle(path: Path) -> Any:
    """Return the lists, dicts, strings and numbers of a pickle; nothing in the file is run.

    Raises DataError for a file that is missing, cut off, no pickle, too large, or that names anything to call.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB; expressions take a few dozen")
        with path.open("rb") as file:
            value = _PlainUnpickler(file).load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: refused: {error}") from error
    except (EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: not a pickle that can be read, or cut off ({reason})") from error
    return value
