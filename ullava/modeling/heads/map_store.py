"""A folder of maps, an entry for each image, that several processes read and write at the same time.

An entry is one safetensors file, which is there whole or not at all. Its header says what type the maps had and the
checksum of their bytes, so that a damaged entry is noticed before it is used. The folder never holds more than its
bound: ``LEDGER`` is locked (flock) by whoever writes, and says how many bytes there are. An entry whose bytes would be
too many first makes room: what was not read for the longest time goes. A file's time of change tells that, and reading
sets it, because file systems seldom note when a file was read.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ullava.atomic_write import make_folder, write_whole
from ullava.errors import ConfigError, UserError

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl: Any = None  # type: ignore[no-redef]

LEDGER = ".bytes"
"""Name of the file that is locked; it holds the number of bytes of all entries."""
ENDING = ".maps.safetensors"
KEPT_SHARE = 0.9
"""Of the bound that is left when room was made, so that not every entry has to look through the folder."""
MADE = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
"""Name of a type that an encoder's maps may have -> the type."""
Maps = tuple[torch.Tensor, ...]
"""Maps [C, h, w] of one image, in the order in which its encoder makes them."""


class DamagedEntryError(Exception):
    """An entry is there and not what was written."""


@dataclass(frozen=True, slots=True)
class MapStore:
    """Entries below ``folder``, at most ``max_bytes`` of them together, held in ``dtype``."""

    folder: Path
    max_bytes: int
    dtype: torch.dtype

    def open(self) -> None:
        """Make the folder. Raises UserError where it cannot be written, ConfigError where files cannot be locked."""
        if _fcntl is None:
            raise ConfigError(f"mask_cache.dir {self.folder}: this system has no flock, by which writers take turns")
        make_folder(self.folder)
        try:
            with self._ledger():
                pass
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"mask_cache.dir {self.folder}: files cannot be locked there ({reason})") from None

    def path(self, name: str) -> Path:
        """Where the entry ``name`` (``group/entry``) lies."""
        return self.folder / f"{name}{ENDING}"

    def read(self, name: str) -> Maps | None:
        """The maps of an entry in the type that they had, or None where there are none.

        Raises DamagedEntryError.
        """
        path = self.path(name)
        try:
            content = path.read_bytes()  # at once: another process may take the file away between two openings
            found = load(content)
            kept = [found[key] for key in sorted(found, key=int)]
            told = _metadata(content)
            made = MADE[told["made"]]
            whole = told["entry"] == name and int(told["checksum"]) == _checksum(kept)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DamagedEntryError(str(path)) from error
        if not whole:
            raise DamagedEntryError(str(path))
        with suppress(OSError):  # another process may have taken it away meanwhile
            os.utime(path)
        return tuple(plane.to(made) for plane in kept)

    def write(self, name: str, maps: Sequence[torch.Tensor], *, again: bool = False) -> None:
        """Keep the maps of an entry; one that is there already stays, unless it is to be written ``again``.

        Raises UserError where the bound holds not even this one, or the type not its values; OSError of the disk.
        """
        content = self._packed(name, maps)
        if len(content) > self.max_bytes:
            raise UserError(
                f"mask_cache.max_gb {self.max_bytes / 1000**3:g}: the maps of one image take {len(content):,} bytes"
            )
        path = self.path(name)
        with self._ledger() as ledger:
            before = path.stat().st_size if path.exists() else 0
            if before and not again:
                return
            held, more = _read_total(ledger), len(content) - before
            if held is None or held + more > self.max_bytes:
                path.unlink(missing_ok=True)
                held, more = self._make_room(len(content)), len(content)
            total = held + more
            # Before the entry: a writer that is killed leaves too high a number, and room is made early, never late.
            _write_total(ledger, total)
            path.parent.mkdir(exist_ok=True)
            write_whole(path, content)

    def _packed(self, name: str, maps: Sequence[torch.Tensor]) -> bytes:
        held = [plane.detach().to("cpu", self.dtype).contiguous() for plane in maps]
        for plane, kept in zip(maps, held, strict=True):
            if not bool(kept.isfinite().all()) and bool(plane.isfinite().all()):
                raise UserError(
                    f"mask_cache.dtype {str(self.dtype).removeprefix('torch.')}: the encoder's maps reach "
                    f"{float(plane.abs().max()):.3g}; keep them in float32"
                )
        told = {
            "entry": name,
            "made": str(maps[0].dtype).removeprefix("torch."),
            "checksum": str(_checksum(held)),
        }
        return save({str(place): plane for place, plane in enumerate(held)}, told)

    @contextmanager
    def _ledger(self) -> Iterator[BinaryIO]:
        """The open ledger, locked."""
        with os.fdopen(os.open(self.folder / LEDGER, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            _fcntl.flock(file, _fcntl.LOCK_EX)
            try:
                yield file
            finally:
                file.flush()
                # Closing would do, but for a loader's worker that was forked meanwhile and holds the file, too.
                _fcntl.flock(file, _fcntl.LOCK_UN)

    def _make_room(self, size: int) -> int:
        """Remove the entries that were not read for the longest time; return how many bytes the others have.

        The ledger is locked, so nobody writes: what a killed writer left unfinished goes, too.
        """
        entries = []
        for path in self.folder.glob(f"*/*{ENDING}*"):
            with suppress(FileNotFoundError):
                if path.name.startswith("."):
                    path.unlink()
                    continue
                found = path.stat()
                entries.append((found.st_mtime_ns, found.st_size, path))
        total = sum(length for _, length, _ in entries)
        wanted = min(int(self.max_bytes * KEPT_SHARE), self.max_bytes - size)
        for _, length, path in sorted(entries):
            if total <= wanted:
                break
            path.unlink(missing_ok=True)
            total -= length
        return total


def _metadata(content: bytes) -> dict[str, str]:
    """What a safetensors file tells beside its tensors; its header is JSON after eight bytes of length."""
    end = 8 + int.from_bytes(content[:8], "little")
    told: dict[str, str] = json.loads(content[8:end]).get("__metadata__", {})
    return told


def _checksum(maps: Sequence[torch.Tensor]) -> int:
    """CRC-32 of the bytes of all maps."""
    value = 0
    for plane in maps:
        value = zlib.crc32(plane.numpy().data, value)
    return value


def _read_total(ledger: BinaryIO) -> int | None:
    """The number of bytes that the ledger tells; None where it was begun just now, or is damaged."""
    ledger.seek(0)
    text = ledger.read().decode("ascii", "replace")
    return int(text) if text.isdecimal() else None


def _write_total(ledger: BinaryIO, total: int) -> None:
    ledger.seek(0)
    ledger.truncate()
    ledger.write(str(total).encode("ascii"))
    ledger.flush()
