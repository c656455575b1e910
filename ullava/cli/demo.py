"""``ullava demo``: the built-in models on photographs and scenes that they never saw, with a report to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.cli.loading_flags import add_device

HELP = "ask the built-in models about photographs and drawn scenes, write a report with images and figures"
DEFAULT_OUT = Path("runs/demo")
PHOTO_MODEL, NO_PHOTOS = "photo", "none"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help=f"where the report goes (default: {DEFAULT_OUT})"
    )
    parser.add_argument(
        "--model", default="tiny", metavar="NAME", help="for scenes: a name, a folder or a Hub id (default: tiny)"
    )
    parser.add_argument(
        "--photo-model",
        metavar="NAME",
        help=f"for photographs, '{NO_PHOTOS}' for none of them (default: {PHOTO_MODEL}, where set-up made its parts)",
    )
    parser.add_argument(
        "--images", type=int, default=12, metavar="N", help="scenes, and clips, of each split (default: 12)"
    )
    parser.add_argument(
        "--seed", type=int, default=2024, metavar="S", help="another seed, other scenes (default: 2024)"
    )
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where the report is."""
    from ullava.inference.load import weights_folder
    from ullava.run_lock import hold

    weights_folder(args.model)
    photo_model = _photo_model(args.photo_model)
    with hold(args.out):
        from ullava.demo.command import demonstrate

        table = demonstrate(args.model, args.out, args.images, args.seed, args.device, photo_model)
    rows = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nreport:  {args.out / 'report.html'}\nfigures: {args.out / 'metrics.json'}")
    return 0


def _photo_model(given: str | None) -> str | None:
    """Return what answers about photographs. Without a wish of the user it may be missing, which is said."""
    from ullava.errors import UserError
    from ullava.inference.load import weights_folder
    from ullava.modeling.construction.language_base import find_base, lacks_language, read_note

    if given == NO_PHOTOS:
        return None
    try:
        folder = weights_folder(given or PHOTO_MODEL)
        if lacks_language(folder):
            find_base(read_note(folder), folder)
    except UserError as error:
        if given is not None:
            raise
        print(f"photographs are left out: {error}")
        return None
    return given or PHOTO_MODEL
