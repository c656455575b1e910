"""A page for every command of ``ullava``, made of the parsers that read its command lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

from markdown_text import as_markdown, code, row, table

from ullava.cli.main import COMMANDS, build_parser, load_command

DEPTH = 2
"""The pages lie in reference/commands/."""
USAGE_WIDTH = 96


def command_pages() -> dict[str, str]:
    """Return the path of every page on the site -> its Markdown; the list of all commands first."""
    pages = {f"reference/commands/{name}.md": command_page(name) for name in COMMANDS}
    return {"reference/commands/README.md": commands_page(), **pages}


def commands_page() -> str:
    """Return the page that lists the commands."""
    rows = [row(f"[ullava {name}]({name}.md)", as_markdown(load_command(name).HELP, DEPTH)) for name in COMMANDS]
    words = (
        "Each command explains itself with `--help`; these pages are made of the same parsers. Exit codes: 0 done, "
        "1 a defect of ours, 2 something that you can mend (one line each), 130 interrupted, 143 ended by SIGTERM."
    )
    return f"# Commands\n\n{words}\n\n{table(('command', 'does'), rows)}"


def command_page(name: str) -> str:
    """Return the page of one command: what it does, its usage, and a table of every group of its arguments."""
    return f"# ullava {name}\n\n" + "\n".join(_parts(build_parser(name), load_command(name).HELP, 2))


def _parts(parser: argparse.ArgumentParser, says: str, level: int) -> Iterator[str]:
    parser.formatter_class = partial(argparse.HelpFormatter, width=USAGE_WIDTH)
    yield f"{_sentence(as_markdown(says, DEPTH))}\n"
    yield f"```text\n{parser.format_usage().strip()}\n```\n"
    below: list[argparse._SubParsersAction[argparse.ArgumentParser]] = []
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if _is_shown(action)]
        below += [action for action in shown if isinstance(action, argparse._SubParsersAction)]
        rows = [_argument(action, parser) for action in shown if not isinstance(action, argparse._SubParsersAction)]
        if rows:
            yield table((_singular(group.title or "arguments"), "says"), rows)
    for commands in below:
        yield from _commands_below(commands, level)


def _commands_below(commands: argparse._SubParsersAction[argparse.ArgumentParser], level: int) -> Iterator[str]:
    """Yield the sections of sub-commands, each under its first name."""
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    told: list[argparse.ArgumentParser] = []
    for name, parser in commands.choices.items():
        if any(parser is other for other in told):
            continue  # by another name of before
        told.append(parser)
        yield f"{'#' * level} {parser.prog}\n"
        yield from _parts(parser, helps.get(name) or parser.description or "", level + 1)


def _argument(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    says = []
    if action.help:
        values = {**vars(action), "prog": parser.prog}
        says.append(_sentence(as_markdown(action.help % values, DEPTH)))
    if action.required and action.option_strings:
        says.append("Required.")
    if _has_default(action) and "default" not in (action.help or ""):
        says.append(f"Default: {code(_shown(action.default))}.")
    return row(_name(action), " ".join(says))


def _name(action: argparse.Action) -> str:
    value = _value(action)
    if not action.option_strings:
        return code(value)
    return ", ".join(code(f"{flag} {value}".strip()) for flag in action.option_strings)


def _value(action: argparse.Action) -> str:
    """Return what stands for the value of an argument in its usage."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    choices = "{" + ",".join(str(choice) for choice in action.choices) + "}" if action.choices is not None else ""
    plain = action.dest.upper() if action.option_strings else action.dest
    word = action.metavar or choices or plain
    return f"{word} ..." if action.nargs in ("*", "+") or isinstance(action.nargs, int) else word


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)


def _has_default(action: argparse.Action) -> bool:
    """Whether leaving an argument out means a value that is worth telling."""
    nothing = action.default in (None, False, argparse.SUPPRESS) or action.default == []
    return not nothing and action.nargs != 0 and not action.required


def _shown(default: object) -> str:
    return " ".join(str(part) for part in default) if isinstance(default, list | tuple) else str(default)


def _singular(title: str) -> str:
    return {"positional arguments": "argument", "options": "option"}.get(title, title)


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".!?" else f"{text}."
