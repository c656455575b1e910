"""``ullava chat`` on lines of a file, and the flags that say how answers are chosen."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.unit.inference.test_ecosystem import drawn

import ullava

Command = Callable[..., tuple[int, str, str]]
BASE = ("--model", "tiny", "--device", "cpu")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    drawn().save(tmp_path / "a.png")
    return tmp_path / "a.png"


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_lines_are_answered_with_all_that_was_said(
    command: Command, monkeypatch: pytest.MonkeyPatch, image: Path
) -> None:
    typed(monkeypatch, "What is in the image?", "", "Segment the circle.")
    code, printed, errors = command("chat", *BASE, "--image", str(image))
    chat = ullava.load("tiny", device="cpu").chat(image)
    first, second = chat.ask("What is in the image?"), chat.ask("Segment the circle.")
    assert code == 0, errors
    assert printed.startswith(f"{first.text}\n{second.text}\n  1. ")
    assert len(printed.splitlines()) == 2 + len(second.objects) and ", mask" in printed


def test_what_cannot_be_asked_is_one_line_and_the_talk_goes_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "say [SEG]", "half \udce4 a character", "Hi", "word " * 600)
    code, printed, errors = command("chat", *BASE, "--max-new-tokens", "3")
    assert code == 2 and len(printed.splitlines()) == 1
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 3 and "Traceback" not in errors
    assert "special token [SEG]" in told[0] and "nothing is cut" in told[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "-1"], "temperature: expected a number of 0 or more"),
        (["--top-p", "2"], "top_p: expected a number above 0 and up to 1"),
        (["--seed", "3"], "seed: nothing is drawn"),
        (["--stop", ""], "stop: expected a text or several"),
        (["--temprature", "1"], "did you mean '--temperature'"),
    ],
)
def test_wrong_flags_are_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    typed(monkeypatch, "Hi")
    for name in (["chat"], ["predict", "--prompt", "Hi", "--json"]):
        code, printed, errors = command(*name, *BASE, *options)
        assert (code, printed) == (2, "") and message in errors and len(errors.splitlines()) == 1


def test_a_seed_is_part_of_the_record(command: Command) -> None:
    line = [
        "predict",
        *BASE,
        "--prompt",
        "Hi",
        "--json",
        "--temperature",
        "3",
        "--top-p",
        "0.9",
        "--max-new-tokens",
        "8",
    ]
    records: list[dict[str, Any]] = [json.loads(command(*line, "--seed", seed)[1]) for seed in ("1", "1", "2")]
    assert records[0] == records[1] != records[2]
    assert (records[0]["temperature"], records[0]["top_p"], records[0]["seed"]) == (3.0, 0.9, 1)


def test_a_streamed_prediction_writes_the_same_files(command: Command, image: Path, tmp_path: Path) -> None:
    line = ["predict", *BASE, "--image", str(image), "--prompt", "Segment the circle."]
    assert command(*line, "--out", str(tmp_path / "one"))[0] == 0
    code, printed, _ = command(*line, "--out", str(tmp_path / "two"), "--stream")
    records = [json.loads((tmp_path / name / "answer.json").read_text()) for name in ("one", "two")]
    assert code == 0 and records[0] == records[1]
    assert printed.startswith(f"{records[0]['text']}\n  1. red circle")
    overlays = [Image.open(tmp_path / name / "overlay.png").tobytes() for name in ("one", "two")]
    assert overlays[0] == overlays[1]
    for extra in (["--json"], ["--boxes", str(image)], ["--image", str(image)]):
        code, _, errors = command(*line, "--stream", *extra)
        assert code == 2 and "--stream" in errors
