"""The commands of ``ullava chat``, driven through its standard input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.inference.test_chat_command import BASE, typed
from tests.unit.inference.test_ecosystem import drawn

import ullava
from ullava.cli.talk import COMMANDS
from ullava.errors import UserError

Command = Callable[..., tuple[int, str, str]]
SHORT = (*BASE, "--max-new-tokens", "32")


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "red.png", tmp_path / "a blue one.png"
    for path, color in zip(paths, ("red", "blue"), strict=True):
        drawn(color).save(path)
    return paths


def test_a_talk_is_undone_turned_to_another_image_and_saved(
    command: Command, monkeypatch: pytest.MonkeyPatch, images: tuple[Path, Path], tmp_path: Path
) -> None:
    red, blue = images
    saved = tmp_path / "a talk"
    typed(
        monkeypatch, "What is in the image?", "/undo", "Segment the circle.", f"/image {blue}", "Segment the circle.",
        "/new", f"/save {saved}", "/quit", "Never asked.",
    )  # fmt: skip
    code, printed, errors = command("chat", *SHORT, "--image", str(red))
    # a name with blanks needs quotes where nothing of that name is there yet
    assert code == 2 and "/save: takes one path, not 2" in errors and not saved.exists()
    typed(
        monkeypatch, "What is in the image?", "/undo", "Segment the circle.", f"/image {blue}", "Segment the circle.",
        "/new", f"/save '{saved}'", "/quit", "Never asked.",
    )  # fmt: skip
    code, printed, errors = command("chat", *SHORT, "--image", str(red))
    assert code == 0, errors
    told = printed.splitlines()
    assert "taken back: What is in the image?" in told and f"now about {blue}" in told and told[-1] == "bye"
    assert f"written: answers.jsonl and overlays in {saved}" in told and "what was said is forgotten" in told
    records = [json.loads(line) for line in (saved / "answers.jsonl").read_text().splitlines()]
    predictor = ullava.load("tiny", device="cpu")
    for record, path in zip(records, images, strict=True):
        answer = predictor.answer(path, "Segment the circle.", max_new_tokens=32)
        assert (record["images"], record["text"]) == ([str(path)], answer.text)
        assert record["objects"] == answer.to_dict()["objects"]
    assert sorted(path.name for path in (saved / "overlays").iterdir()) == ["turn-01.png", "turn-02.png"]
    code, told_again, errors = command("export", str(saved), "--to", "coco-results")
    assert code == 0 and "2 images, 2 objects" in told_again, errors


def test_what_cannot_be_done_is_one_line_and_the_talk_goes_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, images: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    typed(
        monkeypatch, "/imge x.png", "/image", "/image none.png", f"/image {broken}", f"/video {broken}", "/undo",
        f"/save {tmp_path / 'talk'}", "/help me", "/image 'open", "What is it?", f"/save {tmp_path}", "/save",
        "/nothing_like_it", "/image ~nobody-of-this-name/a.png", "/save a\0b", "/image \0",
    )  # fmt: skip
    code, printed, errors = command("chat", *SHORT, "--image", str(images[0]))
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(printed.splitlines()) == 1 and "Traceback" not in errors
    expected = [
        "unknown command '/imge'; did you mean '/image'? (/help lists them)",
        "/image: which one? Give its path: /image PATH",
        "none.png: no such image",
        "broken.png: ",
        "broken.png: ",
        "nothing was answered yet that could be undone",
        "/save: nothing was answered yet",
        "/help: takes nothing behind it, not 'me'",
        "'open: no such image",
        "is there already; name a new folder",
        "/save: which one?",
        "unknown command '/nothing_like_it' (/help lists them)",
        "~nobody-of-this-name/a.png: no such image",
        "/save: a path holds no null character",
        "/image: a path holds no null character",
    ]
    assert len(told) == len(expected)
    for line, words in zip(told, expected, strict=True):
        assert words in line
    assert not (tmp_path / "talk").exists()


def test_help_lists_the_commands_and_two_slashes_are_a_question(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "/help", "//help")
    code, printed, _ = command("chat", *BASE, "--max-new-tokens", "3")
    lines = printed.splitlines()
    assert code == 0 and [line.split("  ")[0] for line in lines[: len(COMMANDS)]] == list(COMMANDS)
    said = ullava.load("tiny", device="cpu").answer("/help", max_new_tokens=3)
    assert lines[len(COMMANDS) :] == [said.text]


def test_a_chat_forgets_what_is_undone(images: tuple[Path, Path]) -> None:
    chat = ullava.load("tiny", device="cpu").chat(images[0], max_new_tokens=8)
    first = chat.ask("What is in the image?")
    chat.ask("Segment the circle.")
    assert chat.undo() == "Segment the circle." and chat.history == [("What is in the image?", first.text)]
    assert chat.undo() == "What is in the image?" and chat.ask("What is in the image?") == first
    chat.undo()
    with pytest.raises(UserError, match="nothing was answered yet"):
        chat.undo()
