"""Pickles of plain data, read without running anything.

``refs(*).p`` of RefCOCO's authors is a pickle (of Python 2) of lists, dicts, strings and numbers. Loading a pickle in
the ordinary way runs whatever it names; here every name is refused, so that only plain values can come out. The numbers
of numpy that people's own files hold are read by code of ours; numpy is not asked.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

from ullava.errors import DataError
from ullava.given_files import open_plain

MAX_BYTES = 1 << 30
SUFFIXES = (".p", ".pkl", ".pickle")
_WAY_OUT = "write it again as JSON, with json.dump(entries, file, default=lambda value: value.tolist())"


class _StandIn:
    """Stands in the place of something that a pickle names: can be called, and nothing about it can be changed."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes what it names")


class _Encode(_StandIn):
    """What ``_codecs.encode`` is for older protocols: they write bytes as text in Latin-1."""

    __slots__ = ()

    def __call__(self, text: object, name: object = "latin1") -> bytes:
        if not isinstance(text, str) or name not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("it names _codecs.encode for something else than bytes")
        return text.encode("latin-1")


class _Kind(_StandIn):
    """What ``numpy.dtype`` is: the kind of a number, as numpy writes it (``i8``)."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            self.order = "<" if state[1] == "|" else state[1]


class _MakeKind(_StandIn):
    __slots__ = ()

    def __call__(self, code: object, *_: object) -> _Kind:
        if not isinstance(code, str) or not _KINDS.fullmatch(code):
            raise pickle.UnpicklingError(f"it holds numpy values of the kind {code!r:.20}; {_WAY_OUT}")
        return _Kind(code)


class _Scalar(_StandIn):
    """What ``numpy.core.multiarray.scalar`` is: a number or text of a kind, made of its bytes."""

    __slots__ = ()

    def __call__(self, kind: object, raw: object = b"") -> Any:
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(kind, _Kind) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError(f"it holds a numpy value that is no number; {_WAY_OUT}")
        if kind.code.startswith("U"):
            return raw.decode("utf-32-le" if kind.order == "<" else "utf-32-be").rstrip("\0")
        (value,) = struct.unpack(kind.order + _KIND_CODES[kind.code], raw)
        return value


_KIND_CODES = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
_KINDS = re.compile("|".join(_KIND_CODES) + r"|U\d{1,5}")
_STAND_INS: dict[tuple[str, str], _StandIn] = {
    ("_codecs", "encode"): _Encode(),
    ("numpy", "dtype"): _MakeKind(),
    ("numpy.core.multiarray", "scalar"): _Scalar(),
    ("numpy._core.multiarray", "scalar"): _Scalar(),
}


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every global, persistent id and extension code; numpy's numbers are read by code of ours."""

    def __init__(self, file: BinaryIO) -> None:
        # Python 2 wrote text as bytes; the files hold words in ASCII and a few names in Latin-1.
        super().__init__(file, encoding="latin-1")

    def find_class(self, module: str, name: str) -> Any:
        known = _STAND_INS.get((module, name))
        if known is not None:
            return known
        if module.split(".")[0] == "numpy":
            raise pickle.UnpicklingError(f"it names {module}.{name}: it holds numpy arrays; {_WAY_OUT}")
        raise pickle.UnpicklingError(
            f"it names {module}.{name}; only lists, dicts, text and numbers may be in it; {_WAY_OUT}"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of it")


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle: by its name, or by the first byte that all but the oldest begin with."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with open_plain(path) as file:
            return file.read(1) == b"\x80"
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_plain_pickle(path: Path) -> Any:
    """Return the lists, dicts, strings and numbers of a pickle; nothing in the file is run.

    Raises DataError for a file that is missing, cut off, no pickle, too large, or that names anything to call.
    """
    try:
        with open_plain(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB; expressions take a few dozen")
            value = _PlainUnpickler(file).load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: refused: {error}") from error
    except (ValueError, TypeError, AttributeError, LookupError, EOFError, OverflowError, MemoryError, struct.error,
            RecursionError) as error:  # fmt: skip
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: not a pickle that can be read, or cut off ({reason})") from error
    return value
