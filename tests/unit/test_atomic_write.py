"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ullava import atomic_write
from ullava.atomic_write import append, check_folder, refusal, whole, whole_folder, write_json, write_whole
from ullava.errors import UserError


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_whole(path, "one")
    with whole(path) as unfinished:
        unfinished.write_text("zwei ä", encoding="utf-8")
        assert path.read_text() == "one"
    assert path.read_text(encoding="utf-8") == "zwei ä"
    write_whole(path, b"three")
    assert path.read_bytes() == b"three" and [item.name for item in tmp_path.iterdir()] == ["text"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answer.json"
    write_whole(path, "old")
    with pytest.raises(KeyboardInterrupt), whole(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt

    def refuse(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(atomic_write.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert [item.name for item in tmp_path.iterdir()] == ["answer.json"]
    assert path.read_text() == "old"


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"a": "ä"})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ä"}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_folders_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is a file"):
        check_folder(file)
    with pytest.raises(UserError, match="lies below a file"):
        check_folder(file / "deeper" / "out")
    check_folder(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def refuse(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=r"new: cannot be written \(Read-only file system\)"):
        check_folder(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def limited(program: str, folder: Path, limit: int = 2000) -> subprocess.CompletedProcess[str]:
    """Run a program in which no file may grow beyond ``limit`` bytes: to it, the disk is full."""

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=set_limit, timeout=120)


WRITERS = """
import sys
from pathlib import Path
import numpy, pyarrow, torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from ullava.atomic_write import append, refusal, whole, whole_folder

folder, tensors = Path(sys.argv[1]), {"a": torch.zeros(5000)}
words = Tokenizer(models.BPE(vocab={str(number): number for number in range(999)}, merges=[]))
noise = Image.fromarray(numpy.random.randint(0, 255, (90, 90, 3), dtype=numpy.uint8))

def arrow(path):
    with pyarrow.OSFile(str(path), "wb") as sink:
        sink.write(b"0" * 5000)

writers = {
    "python": lambda path: path.write_text("x" * 5000),
    "torch": lambda path: torch.save(tensors, path),
    "safetensors": lambda path: save_file(tensors, str(path)),
    "tokenizers": lambda path: words.save(str(path)),
    "numpy": lambda path: numpy.save(path.open("wb"), numpy.zeros(5000)),
    "pillow": lambda path: noise.save(path, format="PNG"),
    "pyarrow": arrow,
}
for name, write in writers.items():
    (folder / name).write_text("old")
    try:
        with whole(folder / name) as unfinished:
            write(unfinished)
    except OSError as error:
        print(name, error.filename == str(folder / name), error.errno)
    try:
        with whole_folder(folder / f"{name}-folder") as unfinished:
            write(unfinished / "file")
    except OSError as error:
        print(name, error.filename in (str(folder / f"{name}-folder"), str(unfinished / "file")), error.errno)
try:
    append(folder / "python", "x" * 5000)
except OSError as error:
    print("append", error.filename == str(folder / "python"), error.errno)
"""


def test_a_full_disk_leaves_the_old_files_whoever_writes(tmp_path: Path) -> None:
    done = limited(WRITERS, tmp_path)
    told = [line.split() for line in done.stdout.splitlines()]
    names = ["python", "torch", "safetensors", "tokenizers", "numpy", "pillow", "pyarrow"]
    assert [line[0] for line in told] == [name for name in names for _ in range(2)] + ["append"], done.stderr
    assert all(line[1] == "True" for line in told)
    assert {int(line[2]) for line in told} <= {errno.EFBIG, errno.EIO}
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert all((tmp_path / name).read_text() == "old" for name in names if name != "python")


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (
            RuntimeError("[enforce fail at inline_container.cc:626] . PytorchStreamWriter failed writing file"),
            errno.EIO,
        ),
        (RuntimeError("RANK 0: OSError: [Errno 122] Disk quota exceeded"), errno.EDQUOT),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), errno.EIO),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
        (ValueError("about (os error 2)"), None),
        (KeyError("x"), None),
    ],
)
def test_what_a_disk_refuses_is_told_from_other_errors(error: Exception, number: int | None) -> None:
    found = refusal(error)
    assert (found and found.errno) == number


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as draft:
        (draft / "one").touch()
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "model") as draft:
        (draft / "two").touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (tmp_path / "model" / "one").is_file()


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    def missing(path: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "source.jpg")

    def other(path: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", "source.jpg")

    writers: list[tuple[Callable[[Path], None], str]] = [(missing, "source.jpg"), (other, "source.jpg")]
    for write, named in writers:
        with pytest.raises(OSError) as raised, whole(tmp_path / "a") as unfinished:
            write(unfinished)
        assert raised.value.filename == named
    append(tmp_path / "a", "one\n")
    append(tmp_path / "a", "zwei ä\n")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "one\nzwei ä\n"
