"""A built wheel holds exactly the package and the three folders of YAML, and works without the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("models", "datasets", "configs")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*-cache", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout, built from a copy, so that no build folder is left behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("ullava", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, ignore=LEFT_OUT)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "pip", "wheel", ".", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    subprocess.run(line, cwd=source, check=True, capture_output=True, timeout=300)
    built = list(out.glob("ullava-*.whl"))
    assert len(built) == 1
    return built[0]


def _below(folder: Path) -> set[str]:
    hidden = {"__pycache__"}
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and not any(
            part in hidden or part.startswith(".") or part.endswith("-cache") for part in path.relative_to(folder).parts
        )
    }


def test_the_wheel_holds_what_the_checkout_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"ullava/{name}" for name in _below(ROOT / "ullava")}
    for folder in FOLDERS:
        expected |= {f"ullava/_resources/{folder}/{name}" for name in _below(ROOT / folder)}
    expected = {name for name in expected if not re.search("/models/photo/(language|tower)/", name)}  # of the set-up
    assert len(expected) >= 80
    assert packed == expected


def test_an_unpacked_wheel_finds_its_models_datasets_and_configs(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    environment.pop("ULLAVA_RESOURCES", None)

    def ullava(*arguments: str) -> str:
        line = [sys.executable, "-m", "ullava", *arguments]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for kind in FOLDERS:
        names = ullava("list", kind).split()
        assert (
            names
            == subprocess.run(
                [sys.executable, "-m", "ullava", "list", kind], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.split()
        )
    assert str(tmp_path / "site") in ullava("show", "tiny").splitlines()[0]
    assert "all valid" in ullava("check")


def test_the_license_travels_with_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        licenses = [name for name in archive.namelist() if name.endswith("LICENSE")]
        assert len(licenses) == 1
        assert archive.read(licenses[0]) == (ROOT / "LICENSE").read_bytes()
