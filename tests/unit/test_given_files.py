from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ullava.errors import ConfigError, DataError
from ullava.given_files import open_plain, read_plain, read_plain_text


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_plain(path, what="list")
    (line,) = caught.value.problems
    assert "\n" not in line
    return line


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfsome \xc3\xa4")
    os.symlink(tmp_path / "a", tmp_path / "link")
    with open_plain(tmp_path / "a") as file:
        assert file.read(3) == b"\xef\xbb\xbf"
    assert read_plain(tmp_path / "link") == b"\xef\xbb\xbfsome \xc3\xa4"
    assert read_plain_text(tmp_path / "a") == "some \u00e4"


def test_what_is_no_plain_file_is_refused_by_name(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'}: no such list"
    assert refusal(tmp_path) == f"{tmp_path}: is a folder, not a file"
    assert refusal(Path("/dev/null")) == "/dev/null: is a device, not a file"
    (tmp_path / "a").write_text("a")
    assert refusal(tmp_path / "a" / "b") == f"{tmp_path / 'a' / 'b'}: cannot be read (Not a directory)"
    assert refusal(tmp_path / ("x" * 300)).endswith("cannot be read (File name too long)")
    assert refusal(tmp_path / "a\0b").endswith("a\\0b: cannot be read (embedded null byte)")
    assert "cannot be read" in refusal(tmp_path / "\ud800")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_and_a_socket_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == f"{tmp_path / 'pipe'}: is a named pipe, not a file"
    monkeypatch.chdir(tmp_path)  # a socket's path has at most a hundred characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert refusal(Path("socket")) == "socket: is a socket, not a file"


def test_the_kind_of_error_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        read_plain(tmp_path / "none", what="recipe", error=ConfigError)
    (tmp_path / "a").write_bytes(b"a\xff")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 1\)"):
        read_plain_text(tmp_path / "a", error=ConfigError)


def test_a_file_that_fails_while_it_is_read_is_named() -> None:
    path = Path("/proc/self/mem")  # opens, and has no first page
    with open_plain(path) as file, pytest.raises(DataError, match=r"/proc/self/mem: cannot be read \(Input/output"):
        file.read(16)
    with pytest.raises(DataError, match=r"/proc/self/mem: cannot be read \(Input/output"):
        read_plain(path)
