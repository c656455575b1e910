"""What Windows and macOS do not have: no module needs it to be imported, and no call reaches for it unguarded."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "ullava").rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE
    if path.name != "__main__.py"
]
NOT_ON_WINDOWS = (
    "crypt", "curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty",
)  # fmt: skip
"""Modules of the standard library that Python's documentation calls "Availability: Unix"."""

ATTRIBUTES = {
    "os": """
        O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC chown fchdir fchmod fchown fork forkpty getegid geteuid
        getgid getgroups getloadavg getpgid getpgrp getpriority getsid getuid killpg lchown major makedev minor mkfifo
        mknod nice pipe2 pread preadv pwrite pwritev readv register_at_fork sched_getaffinity sched_setaffinity
        sched_yield sendfile setpgid setpriority setsid setuid statvfs sync sysconf uname wait wait3 wait4 waitid writev
    """,
    "signal": """
        SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 alarm pause pthread_kill setitimer
        sigwait
    """,
    "socket": "AF_UNIX SO_REUSEPORT",
    "time": "tzset",
    "mmap": "MADV_DONTNEED MADV_FREE MAP_PRIVATE MAP_SHARED PROT_READ PROT_WRITE",
}
GUARDED = {
    ("modeling/loading/mapped.py", "mmap.MADV_DONTNEED"),  # nothing is mapped where the system is not Linux
    ("run_lock.py", "os.major"),  # where flock has locked the file
    ("run_lock.py", "os.minor"),
    ("run_lock.py", "os.register_at_fork"),  # asked for by hasattr
}
IMPORTS = """
import builtins, importlib, sys
import accelerate, datasets, peft, torch, transformers  # what they import themselves is theirs
importlib.import_module("transformers.pipelines")
hidden, names = set(sys.argv[1].split(",")), sys.argv[2].split(",")
real = builtins.__import__

def without(name, globals=None, locals=None, fromlist=(), level=0):
    if name.split(".")[0] in hidden and str((globals or {}).get("__name__", "")).split(".")[0] == "ullava":
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = without
bad = []
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        bad.append(f"{name}: {error.name or error}")
    except BaseException as error:
        bad.append(f"{name}: {error!r}")
print(*bad, sep="\\n")
from ullava import run_lock
from ullava.benchmarks import timing
assert run_lock._fcntl is None and timing._resource is None
assert timing.cpu_seconds() > 0 and timing.cpu_seconds_of(1) >= 0
"""
EXTRAS = {
    "ullava.benchmarks.serving", "ullava.plugins.cvat", "ullava.plugins.fiftyone", "ullava.plugins.lmms_eval_model",
    "ullava.plugins.lmms_eval_run", "ullava.plugins.vlmeval", "ullava.serving",
}  # fmt: skip
"""Modules, and packages with what they hold, that need an extra to be imported."""


def test_the_whole_tree_imports_without_the_modules_of_unix() -> None:
    assert len(MODULES) >= 300
    line = [sys.executable, "-c", IMPORTS, ",".join(NOT_ON_WINDOWS), ",".join(MODULES)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    bad = [said for said in done.stdout.splitlines() if said]
    of_extras = [said for said in bad if any(f"{said.split(':')[0]}.".startswith(f"{name}.") for name in EXTRAS)]
    assert [said for said in bad if said not in of_extras] == []
    assert [said for said in of_extras if said.split(": ")[1].split(".")[0] in NOT_ON_WINDOWS] == []


def test_no_call_reaches_for_what_only_unix_has() -> None:
    table = {module: set(names.split()) for module, names in ATTRIBUTES.items()}
    used: set[tuple[str, str]] = set()
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.attr in table.get(node.value.id, ()):
                    used.add((path.relative_to(ROOT / "ullava").as_posix(), f"{node.value.id}.{node.attr}"))
    assert used == GUARDED


def test_no_text_is_read_in_the_encoding_of_the_system() -> None:
    """On Windows that is not UTF-8."""
    text_mode = re.compile(r"""open\([^)\n]*"[rwa]t?"\)|\.(read|write)_text\((?!"utf-8")""")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in PACKAGE
        for line in path.read_text(encoding="utf-8").splitlines()
        if text_mode.search(line) and "encoding=" not in line
    ]
    assert found == []
