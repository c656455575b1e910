"""``ullava demo``: the built-in model on scenes that it has never seen, with a report to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "draw unseen scenes, let the model answer, write a report with images and figures"
DEFAULT_OUT = Path("runs/demo")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help=f"where the report goes (default: {DEFAULT_OUT})"
    )
    parser.add_argument("--model", default="tiny", metavar="NAME", help="a name, a folder or a Hub id (default: tiny)")
    parser.add_argument(
        "--images", type=int, default=12, metavar="N", help="scenes, and clips, of each split (default: 12)"
    )
    parser.add_argument(
        "--seed", type=int, default=2024, metavar="S", help="another seed, other scenes (default: 2024)"
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 ... (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where the report is."""
    from ullava.inference.load import weights_folder
    from ullava.run_lock import hold

    weights_folder(args.model)
    with hold(args.out):
        from ullava.demo.command import demonstrate

        table = demonstrate(args.model, args.out, args.images, args.seed, args.device)
    rows = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nreport:  {args.out / 'report.html'}\nfigures: {args.out / 'metrics.json'}")
    return 0
