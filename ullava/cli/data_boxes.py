"""``ullava data boxes``: a file of boxes by picture, for front-ends that look at objects."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.errors import UserError


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``boxes`` to the subcommands of ``ullava data``."""
    parser = commands.add_parser("boxes", help="make a file of boxes by picture, for front-ends with object tokens")
    parser.add_argument("--published", type=Path, metavar="JSON", help="boxes by annotation: MG-LLaVA's own files")
    parser.add_argument("--annotations", type=Path, metavar="JSON", help="with --published: the file the ids are from")
    parser.add_argument("--instances", type=Path, metavar="JSON", help="the true boxes of a COCO instances file")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="file to write; must not be there")


def run(args: argparse.Namespace) -> int:
    """Write the file and say how many pictures have boxes; 0 where it went well."""
    from ullava.data.boxes import boxes_of_instances, keyed_by_picture

    if (args.published is None) == (args.instances is None):
        raise UserError("say where the boxes come from: --published with --annotations, or --instances")
    if (args.published is None) != (args.annotations is None):
        raise UserError("--published and --annotations go together: boxes by annotation, and the annotations")
    if args.instances is not None:
        print(f"{args.out}: boxes of {boxes_of_instances(args.instances, args.out)} pictures")
        return 0
    found, missing = keyed_by_picture(args.published, args.annotations, args.out)
    print(f"{args.out}: boxes of {found} pictures; {missing} pictures have none")
    return 0
