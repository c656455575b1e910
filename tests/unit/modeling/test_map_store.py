"""Maps on disk: given back as they were, damage noticed, never more than the bound, several processes at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from ullava.errors import UserError
from ullava.modeling.heads.map_store import ENDING, KEPT_SHARE, LEDGER, DamagedEntryError, MapStore

ENTRY_BYTES = 4 * 8 * 8 * 4
"""Of the values of an entry of ``maps``, in float32."""


def maps(value: float, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Two maps, 4 * 8 * 8 values together."""
    return [torch.full((4, 7, 8), value, dtype=dtype), torch.full((4, 1, 8), value + 0.5, dtype=dtype)]


def opened(folder: Path, entries: int = 100, dtype: torch.dtype = torch.float32) -> MapStore:
    """A store with room for so many entries."""
    store = MapStore(folder / "kept", 0, dtype)
    size = len(store._packed("group/0", maps(0.0)))
    store = MapStore(folder / "kept", entries * size, dtype)
    store.open()
    return store


def on_disk(store: MapStore) -> int:
    return sum(path.stat().st_size for path in store.folder.glob(f"*/*{ENDING}"))


def ledger(store: MapStore) -> int:
    return int((store.folder / LEDGER).read_text())


@pytest.mark.parametrize("made", [torch.float32, torch.bfloat16, torch.float16])
def test_maps_come_back_as_they_were(tmp_path: Path, made: torch.dtype) -> None:
    store = opened(tmp_path)
    wanted = [torch.randn(4, 3, 5, dtype=torch.float32).to(made), torch.randn(2, 1, 1).to(made)]
    assert store.read("group/a") is None
    store.write("group/a", wanted)
    found = store.read("group/a")
    assert found is not None and len(found) == 2
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == made and torch.equal(mine, theirs)
    store.write("group/a", maps(1.0))
    assert torch.equal(store.read("group/a")[0], wanted[0]), "what is there stays"
    store.write("group/a", maps(1.0), again=True)
    assert torch.equal(store.read("group/a")[0], maps(1.0)[0])
    assert ledger(store) == on_disk(store)


def test_half_precision_takes_half_of_the_room_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    store = opened(tmp_path, dtype=torch.float16)
    wanted = torch.randn(8, 64, 64)
    store.write("group/a", [wanted])
    assert wanted.nbytes / 2 < on_disk(store) < wanted.nbytes / 2 + 1000
    (found,) = store.read("group/a") or ()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=2**-11, atol=1e-7)
    with pytest.raises(UserError, match=r"mask_cache.dtype float16: the encoder's maps reach 1e\+05; keep them in"):
        store.write("group/b", maps(1e5))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-ENTRY_BYTES // 2] ^= 0x10
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _exchange(path: Path) -> None:
    path.write_bytes(path.with_name(f"b{ENDING}").read_bytes())


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, _exchange])
def test_damage_is_noticed_and_mended_by_writing_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = opened(tmp_path)
    store.write("group/a", maps(1.0))
    store.write("group/b", maps(2.0))
    damage(store.path("group/a"))
    with pytest.raises(DamagedEntryError):
        store.read("group/a")
    store.write("group/a", maps(1.0), again=True)
    assert torch.equal(store.read("group/a")[1], maps(1.0)[1])


def test_what_was_not_read_for_the_longest_time_makes_room(tmp_path: Path) -> None:
    store = opened(tmp_path, entries=20)
    for number in range(20):
        store.write(f"group/{number}", maps(number))
        os.utime(store.path(f"group/{number}"), (number, number))
    assert on_disk(store) == ledger(store) == store.max_bytes
    assert store.read("group/0") is not None
    leftover = store.folder / "group" / f".7{ENDING}.0123"
    leftover.write_bytes(b"of a writer that was killed")
    store.write("other/20", maps(20))
    assert on_disk(store) == ledger(store) <= store.max_bytes
    gone = [number for number in range(20) if not store.path(f"group/{number}").exists()]
    assert gone == [1, 2], f"the oldest, down to {KEPT_SHARE} of the bound, and not the one just read"
    assert store.read("other/20") is not None and not leftover.exists()


def test_a_ledger_that_is_gone_or_damaged_is_made_from_the_files(tmp_path: Path) -> None:
    store = opened(tmp_path, entries=4)
    for content in (None, b"\xff12"):
        for number in range(4):
            store.write(f"group/{number}", maps(number), again=True)
        (store.folder / LEDGER).unlink() if content is None else (store.folder / LEDGER).write_bytes(content)
        store.write("group/more", maps(9), again=True)
        assert on_disk(store) == ledger(store) <= store.max_bytes


def test_a_bound_below_one_entry_is_refused(tmp_path: Path) -> None:
    store = MapStore(tmp_path, 1000, torch.float32)
    store.open()
    with pytest.raises(UserError, match=r"mask_cache.max_gb 1e-06: the maps of one image take 1,\d\d\d bytes"):
        store.write("group/a", maps(1.0))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file, not a folder"):
        MapStore(tmp_path / "file", 1000, torch.float32).open()


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    store = opened(tmp_path)
    store.write("group/a", maps(1.0))
    with full_disk(100), pytest.raises(OSError, match=str(store.path("group/b"))):
        store.write("group/b", maps(2.0))
    assert store.read("group/b") is None and store.read("group/a") is not None
    assert [path.name for path in (store.folder / "group").iterdir()] == [f"a{ENDING}"]


def _work(store: MapStore, worker: int, told: Any) -> None:
    """Write and read the same few entries again and again, more of them than there is room for."""
    read = 0
    try:
        for turn in range(60):
            name = (turn * (3 + 2 * worker)) % 9
            found = store.read(f"group/{name}")
            if found is None or turn % 5 == worker:
                store.write(f"group/{name}", maps(name), again=found is not None)
                continue
            read += 1
            assert all(torch.equal(mine, wanted) for mine, wanted in zip(found, maps(name), strict=True))
            assert on_disk_or_less(store)
        told.put(read)
    except BaseException as error:
        told.put(repr(error))
        raise


def on_disk_or_less(store: MapStore) -> bool:
    """Whether the bound holds, read while the other process removes files."""
    total = 0
    for path in store.folder.glob(f"*/*{ENDING}"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total <= store.max_bytes


def test_two_processes_read_whole_entries_alone_and_keep_the_bound_together(tmp_path: Path) -> None:
    store = opened(tmp_path, entries=6)
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    workers = [context.Process(target=_work, args=(store, number, told)) for number in range(2)]
    for worker in workers:
        worker.start()
    reads = [told.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert all(isinstance(count, int) for count in reads) and sum(reads) > 10, reads  # one may come when all is done
    assert on_disk(store) == ledger(store) <= store.max_bytes
