"""``ullava chat``: talk with a model about images and videos in a terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ullava.cli.generation_flags import add_generation, generation_of
from ullava.cli.loading_flags import add_loading, loading_of
from ullava.cli.talk import Talk
from ullava.errors import UserError, one_line

if TYPE_CHECKING:
    from ullava.structures import Answer

HELP = "talk with a model about an image or a video, question after question"
PROMPT = "> "


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", default="tiny", metavar="NAME", help="a name, a folder or a Hub id (default: tiny)")
    parser.add_argument(
        "--image", action="extend", nargs="+", default=[], type=Path, metavar="FILE",
        help="what the talk is about; several are seen together",
    )  # fmt: skip
    parser.add_argument(
        "--video", action="extend", nargs="+", default=[], type=Path, metavar="FILE", help="a video (mp4, avi, gif)"
    )
    add_loading(parser)
    add_generation(parser)


def run(args: argparse.Namespace) -> int:
    """Take each line of the input until it ends; what cannot be asked or done is one line, and the talk goes on.

    Exit code 2 where something was refused that nobody could say again, since it came from a file.
    """
    from ullava.inference.load import load, weights_folder

    weights_folder(args.model)
    generation = generation_of(args)
    predictor = load(args.model, **loading_of(args))
    predictor.check_length(args.max_new_tokens)
    talk = Talk(predictor, args.model, args.image, args.video, generation)
    in_person = sys.stdin.isatty()
    if in_person:
        print("one question on each line; /help lists commands; Ctrl-D ends", file=sys.stderr)
    refused = False
    while not talk.ended and (line := _next_line(in_person)) is not None:
        if not line.strip():
            continue
        try:
            _print_said(talk, line.strip())
        except UserError as error:
            refused = True
            for problem in error.problems:
                print(f"error: {one_line(problem)}", file=sys.stderr)
        except KeyboardInterrupt:
            if not in_person:
                raise
            print(" ... (stopped)")
    return 2 if refused and not in_person else 0


def _print_said(talk: Talk, line: str) -> None:
    for piece in talk.say(line):
        print(piece if isinstance(piece, str) else _told(piece, len(talk.images) > 1), end="", flush=True)


def _next_line(in_person: bool) -> str | None:
    """The next line of the input; None at its end."""
    if in_person:
        print(PROMPT, end="", flush=True)
    try:
        return sys.stdin.readline() or None
    except UnicodeDecodeError as error:
        raise UserError(f"the input is no UTF-8 text: {error.reason}") from error


def _told(answer: Answer, several: bool) -> str:
    """What is printed behind the words of an answer: a line for each object."""
    from ullava.cli.predict import object_lines
    from ullava.inference.export import answer_to_json

    lines = object_lines(answer_to_json(answer), several)
    return "".join(f"\n{line}" for line in lines) + "\n"
