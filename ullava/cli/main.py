"""The ``ullava`` command: picks the sub-command, turns errors into exit codes.

Exit codes: 0 done, 1 a defect of ours (with traceback), 2 something the user can mend (one line each), 130 interrupted
(Ctrl-C), 143 ended by SIGTERM (``ullava train`` has written a checkpoint).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from ullava import __version__
from ullava.atomic_write import refusal
from ullava.config.renamed import current_arguments
from ullava.errors import Interrupted, UserError, did_you_mean, one_line

COMMANDS: dict[str, str] = {
    "demo": "ullava.cli.demo",
    "predict": "ullava.cli.predict",
    "chat": "ullava.cli.chat",
    "export": "ullava.cli.export",
    "serve": "ullava.cli.serve",
    "label-studio": "ullava.cli.label_studio",
    "train": "ullava.cli.train",
    "eval": "ullava.cli.eval",
    "lmms-eval": "ullava.cli.lmms_eval",
    "vlmeval": "ullava.cli.vlmeval",
    "compare": "ullava.cli.compare",
    "calibrate": "ullava.cli.calibrate",
    "check": "ullava.cli.check",
    "data": "ullava.cli.data",
    "convert": "ullava.cli.convert",
    "bench": "ullava.cli.bench",
    "list": "ullava.cli.list",
    "show": "ullava.cli.show",
}


UNRECOGNIZED = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError with the nearest valid flag, and lets options stand anywhere.

    ``ullava eval RECIPE --model tiny data_root=DIR --out OUT`` has options between positionals, which argparse only
    accepts in its "intermixed" mode.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self._inside_intermixed = False
        self._words: list[str] = []

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting. An unknown flag is named before anything that is missing."""
        unexpected = message.removeprefix(UNRECOGNIZED).split() if message.startswith(UNRECOGNIZED) else []
        flags = [flag for action in self._all_actions() for flag in action.option_strings]
        candidates = [word.split("=")[0] for word in [*unexpected, *self._words] if word.startswith("--")]
        unknown = [word for word in dict.fromkeys(candidates) if len(word) > 2 and word not in flags]
        if unknown:
            message = "unknown option " + ", ".join(f"'{word}'{did_you_mean(word, flags)}" for word in unknown)
        elif unexpected:
            message = f"unexpected argument: {' '.join(unexpected)}"
        raise UserError(f"{message} (see '{self.prog} --help')")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), choices) or f"; known: {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"'{value}' is not a valid choice{hint}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse in the intermixed mode wherever argparse supports it (it does not for parsers of sub-commands)."""
        if self._inside_intermixed or self._has_subcommands():
            return super().parse_known_args(args, namespace)
        self._words = list(args or ())
        self._inside_intermixed = True
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self._inside_intermixed = False

    def _has_subcommands(self) -> bool:
        return any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions)

    def _all_actions(self) -> list[argparse.Action]:
        found = list(self._actions)
        for action in self._actions:
            if action.nargs == argparse.PARSER and isinstance(action.choices, dict):
                for parser in action.choices.values():
                    found.extend(parser._actions)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return the exit code."""
    # Before torch is imported: threads that wait for each other sleep. Where another program holds a core they would
    # spin instead, and a small model then answers sixty times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # at exit Python itself would complain of a full disk
        return status
    except UserError as error:
        for problem in error.problems:
            print(f"error: {one_line(problem)}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`ullava list models | head -1`); Python must not flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if refused := _disk_problem(error):
            print(f"error: {one_line(refused)}", file=sys.stderr)
            return 2
        raise


def _disk_problem(error: Exception) -> str | None:
    """Say which file the system would not read or write, as far as ``error`` is about one; None for other errors."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"'{os.fsdecode(error.filename or '')[:60]}...': the path is too long"
    refused = refusal(error)
    if refused is not None and refused.filename is None:
        return f"a file, or what is printed, cannot be written ({refused.strerror})"
    if refused is not None:
        return f"{os.fsdecode(refused.filename)}: cannot be {_tried(refused)} ({refused.strerror})"
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return None


def _tried(refused: OSError) -> str:
    return "read or written" if refused.errno in (errno.EACCES, errno.EPERM, errno.EIO) else "written"


def load_command(name: str) -> ModuleType:
    """Import the module of a command.

    Raises:
        UserError: there is no such command.
    """
    if name not in COMMANDS:
        raise UserError(f"unknown command '{name}'{did_you_mean(name, COMMANDS)} (see 'ullava --help')")
    return import_module(COMMANDS[name])


def build_parser(name: str) -> Parser:
    """Return the argument parser of one command."""
    module = load_command(name)
    parser = Parser(prog=f"ullava {name}", description=module.HELP)
    module.configure(parser)
    return parser


def overview() -> str:
    """Return what ``ullava --help`` prints."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {load_command(name).HELP}" for name in COMMANDS]
    return "\n".join(
        ["usage: ullava COMMAND ...", "", "Answers in words, masks and boxes.", "", *lines]
        + ["", "'ullava COMMAND --help' explains one command; 'ullava --version' prints the version."]
    )


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"ullava {__version__}")
        return 0
    argv = current_arguments(argv)
    module = load_command(argv[0])
    args = build_parser(argv[0]).parse_args(argv[1:])
    status: int = module.run(args)
    return status
