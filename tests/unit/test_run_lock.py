"""One run at a time in a folder, whatever became of the one before."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ullava import run_lock
from ullava.errors import UserError
from ullava.run_lock import LOCK, Owner, hold

HOLDER = """
import sys, time
from pathlib import Path
from ullava.run_lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(folder: Path, program: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``folder``."""
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def owner(**changes: object) -> str:
    mine = Owner.here()
    return json.dumps({name: changes.get(name, getattr(mine, name)) for name in Owner.__slots__})


def test_a_folder_is_made_and_nothing_is_left(tmp_path: Path) -> None:
    with hold(tmp_path / "runs" / "a"):
        found = json.loads((tmp_path / "runs" / "a" / LOCK).read_text())
        assert found["pid"] == os.getpid() and found["host"] and found["command"]
    assert not (tmp_path / "runs").exists()
    with hold(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a" / "result").touch()
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["result"]


def test_a_lock_beside_leaves_the_place_free(tmp_path: Path) -> None:
    with hold(tmp_path / "new" / "world", beside=True):
        assert [path.name for path in (tmp_path / "new").iterdir()] == [".world.lock"]
        with (
            pytest.raises(UserError, match=r"world: in use by process \d+ on "),
            hold(tmp_path / "new/world", beside=True),
        ):
            pass
    assert not (tmp_path / "new").exists()


def test_another_run_is_refused_by_name(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        with pytest.raises(UserError) as refused, hold(tmp_path):
            pass
        (line,) = refused.value.problems
        assert line.startswith(f"{tmp_path}: in use by process {process.pid} on ") and "--out" in line
        assert "since 2" in line and "-c" in line
    with hold(tmp_path):
        pass


def test_a_killed_run_leaves_the_folder_free(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK).is_file()
        with hold(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_forked_worker_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    program = """
import os, sys, time
from pathlib import Path
from ullava.run_lock import hold
with hold(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    time.sleep(0.2)
    print("held", flush=True)
    time.sleep(60)
"""
    with held_elsewhere(tmp_path, program) as process:
        process.kill()
        process.wait()
        with hold(tmp_path):
            pass


def test_one_waits_for_another_where_it_is_told(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, HOLDER.replace("sleep(60)", "sleep(0.5)")):
        started = time.monotonic()
        with hold(tmp_path, wait_s=20.0):
            assert time.monotonic() - started < 10


def test_threads_of_one_process_meet_too(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} "), hold(tmp_path):
        pass


@pytest.fixture(params=["network", "no flock"])
def weak(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose locks say nothing of other machines, or that has none."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if request.param == "network":
        monkeypatch.setattr(run_lock, "_is_network", lambda fd: True)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("weak")
def test_without_trusted_locks_the_file_decides(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(owner(host="elsewhere", pid=7))
    with (
        pytest.raises(UserError, match=rf"process 7 on elsewhere, .* if that has ended, delete .*{LOCK}"),
        hold(tmp_path),
    ):
        pass
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"
    (tmp_path / LOCK).write_text(owner())
    with pytest.raises(UserError, match=f"process {os.getpid()} on "), hold(tmp_path):
        pass
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for left in (
        owner(pid=child.pid, started=1),
        owner(started=1),
        "",
        "{torn",
    ):  # gone, another of that number, cut off
        (tmp_path / LOCK).write_text(left)
        with hold(tmp_path):
            assert Owner(**json.loads((tmp_path / LOCK).read_text())).pid == os.getpid()
        assert not (tmp_path / LOCK).exists()


def test_where_no_open_file_is_removed_one_that_stays_names_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: no flock, and a file that somebody has open stays."""

    removed = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == LOCK:
            raise PermissionError(errno.EACCES, "in use", str(path))
        removed(path, missing_ok)

    monkeypatch.setattr(run_lock, "_fcntl", None)
    folder = tmp_path / "run"
    with monkeypatch.context() as windows:
        windows.setattr(Path, "unlink", refuse)
        with hold(folder):
            assert str(os.getpid()) in (folder / LOCK).read_text(encoding="utf-8")
            with pytest.raises(UserError, match=f"in use by process {os.getpid()} "), hold(folder):
                pass
        assert (folder / LOCK).read_bytes() == b""
    with hold(folder):
        pass
    assert not (folder / LOCK).exists()


def test_on_a_disk_of_its_own_the_system_knows_better(tmp_path: Path) -> None:
    """Another host's name is that of a container that was here before."""
    (tmp_path / LOCK).write_text(owner(host="elsewhere"))
    with hold(tmp_path):
        pass


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="a file, not a folder"), hold(place):
            pass

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_lock.os, "ftruncate", full)
    with pytest.raises(UserError, match=r"new: cannot be written \(No space left on device\)"), hold(tmp_path / "new"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
