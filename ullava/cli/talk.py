"""A talk in a terminal: questions, and the commands that begin with a slash."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullava.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ullava.inference.batch import Question
    from ullava.inference.predictor import Predictor
    from ullava.structures import Answer

COMMANDS: Mapping[str, str] = {
    "/image PATH": "talk about this image (or several) from now on; what was said before is forgotten",
    "/video PATH": "the same with a video",
    "/new": "forget what was said, and keep the image",
    "/undo": "take back the last question and its answer",
    "/save PATH": "write the talk into a new folder: answers.jsonl with masks, and overlays",
    "/help": "these lines",
    "/quit": "end (as Ctrl-D does)",
}
_NAMES = tuple(line.split()[0] for line in COMMANDS)


class Talk:
    """A model, what the talk is about, and all that was asked and answered since it began.

    ``name``: how the model was named; ``generation``: options of ``Predictor.answer``. Raises UserError for images and
    videos that cannot be read.
    """

    def __init__(
        self, predictor: Predictor, name: str, images: list[Path], videos: list[Path], generation: Mapping[str, Any]
    ) -> None:
        self.predictor = predictor
        self.settings = {"model": name, **generation}
        self.generation = generation
        self.ended = False
        self.turns: list[tuple[Question, Answer]] = []
        self._show(images, videos)

    def say(self, line: str) -> Iterator[str | Answer]:
        """Take one line: a command, or a question ("//..." is one that begins with a slash). Yields what is to be
        printed: the words of an answer as they come, then the answer itself, or what a command has to tell.

        Raises:
            UserError: it cannot be asked or done; the talk is as it was then.
        """
        if line.startswith("/") and not line.startswith("//"):
            yield self._command(line) + "\n"
            return
        question = line.removeprefix("/") if line.startswith("//") else line
        for piece in self.chat.stream(question):
            if not isinstance(piece, str):
                self.turns.append((self._question(question), piece))
            yield piece

    def _command(self, line: str) -> str:
        """Do what a command says; return what is to be told of it."""
        name, _, rest = line.partition(" ")
        doing: dict[str, Callable[[str], str]] = {
            "/image": self._image, "/video": self._video, "/new": self._new, "/undo": self._undo,
            "/save": self._save, "/help": self._help, "/quit": self._quit,
        }  # fmt: skip
        if name not in doing:
            near = did_you_mean(name, _NAMES)
            raise UserError(f"unknown command '{name}'{near if 'mean' in near else ''} (/help lists them)")
        if name in ("/new", "/undo", "/help", "/quit") and rest.strip():
            raise UserError(f"{name}: takes nothing behind it, not '{rest.strip()}'")
        return doing[name](rest.strip())

    def _image(self, rest: str) -> str:
        self._show(_paths("/image", rest), [])
        return f"now about {', '.join(map(str, self.images))}"

    def _video(self, rest: str) -> str:
        self._show([], _paths("/video", rest))
        return f"now about {', '.join(map(str, self.videos))}"

    def _new(self, rest: str) -> str:
        self._show(self.images, self.videos)
        return "what was said is forgotten"

    def _show(self, images: list[Path], videos: list[Path]) -> None:
        self.chat = self.predictor.chat(images, video=videos, **self.generation)
        self.images, self.videos = images, videos

    def _undo(self, rest: str) -> str:
        question = self.chat.undo()
        self.turns.pop()
        return f"taken back: {question}"

    def _save(self, rest: str) -> str:
        from ullava.inference.answer_files import write_answers

        (folder,) = _paths("/save", rest, several=False)
        if not self.turns:
            raise UserError("/save: nothing was answered yet")
        if os.path.lexists(folder):
            raise UserError(f"/save: {folder} is there already; name a new folder")
        write_answers(self.turns, folder, self.settings)
        return f"written: answers.jsonl and overlays in {folder}"

    def _help(self, rest: str) -> str:
        width = max(map(len, COMMANDS))
        return "\n".join(f"{name:<{width}}  {does}" for name, does in COMMANDS.items())

    def _quit(self, rest: str) -> str:
        self.ended = True
        return "bye"

    def _question(self, prompt: str) -> Question:
        from ullava.inference.batch import Question

        return Question(f"turn-{len(self.turns) + 1:02d}", tuple(self.images), prompt, tuple(self.videos))


def _paths(command: str, rest: str, *, several: bool = True) -> list[Path]:
    """Return the files that are named behind a command; quotes hold a name with blanks together, one alone needs none.

    Raises UserError where none is named, or several that must be one.
    """
    if not rest:
        raise UserError(f"{command}: which one? Give its path: {command} PATH")
    if "\0" in rest:
        raise UserError(f"{command}: a path holds no null character")
    whole = _expanded(rest)
    try:
        words = [rest] if os.path.exists(whole) else shlex.split(rest)
    except ValueError:  # a quote that nothing closes is part of the name
        words = [rest]
    paths = [_expanded(word) for word in words]
    if not several and len(paths) != 1:
        raise UserError(f"{command}: takes one path, not {len(paths)} (quotes hold blanks together)")
    return paths


def _expanded(word: str) -> Path:
    """Return the path that ``~`` or ``~name`` begins, of a person whom the system knows; else the word as it is."""
    try:
        return Path(word).expanduser()
    except RuntimeError:
        return Path(word)
