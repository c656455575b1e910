"""The steps of shells/docker/Dockerfile without Docker: what they copy is there, what they run exists."""

from __future__ import annotations

import argparse
import ast
import fnmatch
import json
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from ullava.cli import serve

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "shells" / "docker" / "Dockerfile"
IGNORED = DOCKERFILE.with_name("Dockerfile.dockerignore")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STEPS = [
    tuple(line.split(" ", 1))
    for line in DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def told(word: str) -> list[str]:
    return [text for step, text in STEPS if step == word]


def is_sent(name: str) -> bool:
    """Whether Docker sends a file of the checkout: the last line that fits decides."""
    sent = True
    for line in IGNORED.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = [name, *map(str, Path(name).parents)]
        ends = pattern.removeprefix("**/")
        fits = any(part != "." and (part == pattern or pattern == "*") for part in parts)
        if fits or (ends != pattern and any(fnmatch.fnmatch(Path(part).name, ends) for part in parts)):
            sent = line.startswith("!")
    return sent


def test_what_is_copied_is_there_and_is_sent() -> None:
    copied = [name for text in told("COPY") for name in text.split()[:-1]]
    assert len(copied) >= 8
    for name in copied:
        assert (ROOT / name).exists() and is_sent(name), name
    needed = {"requirements.txt", "pyproject.toml", "setup.py", "shells", "ullava", "models"}  # of shells/setup.sh
    assert needed <= set(copied)
    assert (ROOT / PROJECT["readme"]).name in copied and set(PROJECT["license-files"]) <= set(copied)


@pytest.mark.parametrize(
    "name", [".git/config", "runs/x/model.safetensors", "data/x.jpg", "models/photo/tower/model.safetensors",
             "tests/conftest.py", "ullava/__pycache__/x.pyc", ".venv/bin/python"],
)  # fmt: skip
def test_what_is_ours_alone_stays_here(name: str) -> None:
    assert not is_sent(name)
    assert is_sent("models/tiny/weights/model.safetensors")


def test_the_set_up_is_that_of_a_machine() -> None:
    first = told("RUN")[0].split()[0]
    assert first == "shells/setup.sh" and os.access(ROOT / first, os.X_OK)
    image = next(re.fullmatch(r"python:([\d.]+)-slim AS base", text) for text in told("FROM") if "python:" in text)
    assert image is not None and SpecifierSet(PROJECT["requires-python"]).contains(f"{image.group(1)}.0")


def test_every_device_is_a_stage_and_every_extra_there_is() -> None:
    stages = [text.split(" AS ")[1] for text in told("FROM") if " AS " in text]
    assert stages == ["base", "cpu", "cuda"] and told("FROM")[-1] == "${DEVICE}"
    assert told("ARG")[0] == "DEVICE=cpu"
    named = [name for text in told("RUN") for name in re.findall(r"\.\[([a-z]+)\]", text)]
    assert named == ["quantize"] and set(named) <= PROJECT["optional-dependencies"].keys()


def test_it_serves_as_the_command_line_says() -> None:
    (entry,), (command,) = told("ENTRYPOINT"), told("CMD")
    assert json.loads(entry) == [".venv/bin/ullava"] and PROJECT["scripts"].keys() == {"ullava"}
    word, *flags = json.loads(command)
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    args = parser.parse_args(flags)
    assert word == "serve" and args.host == "0.0.0.0" and str(args.port) == told("EXPOSE")[0]
    (health,) = told("HEALTHCHECK")
    *_, code = json.loads(health[health.index("[") :])
    ast.parse(code)
    assert f":{args.port}/health'" in code
    for text in told("RUN"):
        shlex.split(text)  # quotes are closed
