"""``ullava list``: the names of the models, datasets and configs that there are."""

from __future__ import annotations

import argparse

from ullava import resources

HELP = "list the models, datasets or configs that there are"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava list``."""
    parser.add_argument("kind", choices=resources.KINDS, help="what to list")


def run(args: argparse.Namespace) -> int:
    """Print one name per line."""
    for name in resources.names(args.kind):
        print(name)
    return 0
