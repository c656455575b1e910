"""One run at a time in a folder: a lock that the system frees when its process ends, however it ends.

The file ``.ullava.lock`` of the folder is locked by the system (flock) and says who holds it. A run that finds it held
is refused by name; one that finds it left behind, by a process that was killed, takes it over. Between machines that
share a network file system flock may see its own machine alone. There, and where it does not work at all, what the file
says decides: an owner on another machine, or one that still lives on this one, is respected. If such an owner was
killed, delete the file.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ullava.atomic_write import make_folder, writing
from ullava.errors import UserError

try:
    import fcntl as _fcntl
except ImportError:  # Windows has no flock: what the file says decides
    _fcntl: Any = None  # type: ignore[no-redef]

LOCK = ".ullava.lock"
NETWORK = ("nfs", "cifs", "smb", "lustre", "ceph", "gpfs", "beegfs", "9p", "afs", "virtiofs", "fuse.")
"""File systems, by the beginning of their name, that several machines may have mounted."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_COMMAND_SHOWN = 160
_SETTLE_S = 0.05
_SAME_START_S = 0.05
_held: set[int] = set()


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a lock. ``started``: when it began, in seconds since 1970, so that
    another one of its number is told apart.
    """

    host: str
    pid: int
    started: float | None
    since: str
    command: str

    @classmethod
    def here(cls) -> Owner:
        """Return this process."""
        program = Path(sys.argv[0])
        name = program.parent.name if program.name == "__main__.py" else program.name
        command = " ".join(shlex.join([name, *sys.argv[1:]]).split())[:_COMMAND_SHOWN]
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()), since, command)

    @classmethod
    def read(cls, fd: int) -> Owner | None:
        """Return whom the open lock file names; None where it names nobody."""
        try:
            owner = cls(**json.loads(_text_of(fd)))
        except (ValueError, TypeError):
            return None
        return owner if isinstance(owner.pid, int) and isinstance(owner.host, str) else None

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def lives(self) -> bool:
        """Whether the process is there still. Of this machine only."""
        if not psutil.pid_exists(self.pid):
            return False
        started = _started(self.pid)  # None: another person's
        return self.started is None or started is None or abs(started - self.started) < _SAME_START_S

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since} ({self.command})"


@contextmanager
def hold(folder: Path, *, beside: bool = False, wait_s: float = 0.0) -> Iterator[None]:
    """Keep other runs out of ``folder``, which is made if need be and removed again if nothing came into it.

    ``beside``: the lock is ``.<name>.lock`` in the parent, for a folder or file that must not be there yet. Several
    processes of one run take it once, in the first of them. ``wait_s``: how long to wait for another one.

    Raises:
        UserError: another process holds it, or nothing can be written there.
    """
    place = folder.absolute().parent if beside else folder.absolute()
    missing = [path for path in (place, *place.parents) if not path.exists()]
    file = place / (f".{folder.absolute().name}.lock" if beside else LOCK)
    fd = -1
    try:
        try:
            make_folder(folder.parent if beside else folder)
            with writing(folder, file):
                fd = _take(file, folder, time.monotonic() + wait_s)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
        yield
    finally:
        if fd >= 0:
            _give_back(file, fd)
        with suppress(OSError):  # what something came into stays
            for path in missing:
                path.rmdir()


def _take(file: Path, folder: Path, until: float) -> int:
    """Return the open lock file, locked and naming this process. Raises UserError where it is another's ``until``."""
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        taken = False
        try:
            trusted = _lock(fd) and not _is_network(fd)
            owner = Owner.read(fd)
            if owner is not None and not trusted and (not owner.is_here or owner.lives):
                raise UserError(_in_use(folder, file, owner))
            taken = _is_still(file, fd) and _sign(file, fd, trusted)
            if taken:
                return fd
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(_SETTLE_S)
                continue
            raise UserError(_in_use(folder, file, _patiently_read(fd))) from None
        finally:
            if not taken:
                _close(fd)


def _give_back(file: Path, fd: int) -> None:
    """Remove the lock file, which is still open: nobody can take it in between."""
    with suppress(OSError):
        if _is_still(file, fd):
            if _fcntl is None:
                os.ftruncate(fd, 0)  # Windows removes no open file, and one that stays must not name this process
            file.unlink()
    _close(fd)
    if _fcntl is None:
        with suppress(OSError):  # refused there while another process has it open, as it should be
            file.unlink()


def _text_of(fd: int) -> bytes:
    """Return the beginning of an open file, which holds what an owner is."""
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, 65536)


def _close(fd: int) -> None:
    _held.discard(fd)
    os.close(fd)


def _lock(fd: int) -> bool:
    """Lock an open file; False where the file system cannot. Raises BlockingIOError where another process has."""
    if _fcntl is None:
        return False
    try:
        _fcntl.flock(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    _held.add(fd)
    return True


def _sign(file: Path, fd: int, trusted: bool) -> bool:
    """Write this process into the file; where the lock is worth nothing, see whether another wrote over it."""
    mine = Owner.here()
    try:
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, (json.dumps(asdict(mine)) + "\n").encode())
    except OSError:
        file.unlink(missing_ok=True)
        raise
    if not trusted:
        time.sleep(_SETTLE_S)
    return trusted or Owner.read(fd) == mine


def _is_still(file: Path, fd: int) -> bool:
    """Whether the open file is the one that has the name: who held it before may have removed it."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(fd))
    except FileNotFoundError:
        return False


def _patiently_read(fd: int) -> Owner | None:
    """Return whom a locked file names; it may have been locked a moment ago."""
    for _ in range(10):
        if owner := Owner.read(fd):
            return owner
        time.sleep(_SETTLE_S)
    return None


def _in_use(folder: Path, file: Path, owner: Owner | None) -> str:
    who = "another process" if owner is None else str(owner)
    gone = "" if owner is None or owner.is_here else f"; if that has ended, delete {file}"
    return f"{folder}: in use by {who}; wait for it, or name another place with --out{gone}"


def _is_network(fd: int) -> bool:
    """Whether the open file lies where other machines may have it mounted; as far as /proc tells."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = [line.partition(" - ")[2].split(" ")[0] for line in mounts if line.split(" ")[2] == number]
    return any(kind.startswith(NETWORK) and kind != "fuse.fuse-overlayfs" for kind in kinds)


def _started(pid: int) -> float | None:
    """Return when a process began, in seconds since 1970; None where the system does not tell."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _leave_to_parent() -> None:
    """Close the locks in a forked child: a loader's worker that outlives its killed parent must not hold them."""
    for fd in _held:
        with suppress(OSError):
            os.close(fd)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
