"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Reproducible examples, and no time limit for one: what else the machine does must not decide a test.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Leave what the imports made out of every later garbage collection: each takes a third of a second otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference material beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with reference material is not here")
    return folder


@pytest.fixture(scope="session")
def accelerator() -> Any:
    """The torch device beside the CPU (CUDA, MPS); tests that need one are skipped where there is none."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        pytest.skip("torch finds no accelerator here")
    return found


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """A function that writes a text file below the test's own folder and returns its path."""

    def write_text(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """A function that lets no file grow beyond so many bytes for now: the system refuses, as where a disk is full."""

    @contextmanager
    def limit(bytes_: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs one ``ullava`` command line in this process: (exit code, stdout, stderr)."""
    from ullava.cli.main import main

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(argv))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
