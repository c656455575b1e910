"""``ullava data``: draw our own world of shapes, or say what a recipe's data yields."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "draw the shapes world, or report what a recipe's data yields"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands ``draw`` and ``stats``."""
    commands = parser.add_subparsers(dest="data_command", metavar="{draw,stats}", required=True)
    draw = commands.add_parser("draw", help="write a drawn world in the formats of the real datasets")
    draw.add_argument("--out", type=Path, required=True, help="folder to make; must not hold anything yet")
    draw.add_argument("--images", type=int, required=True, help="how many pictures")
    draw.add_argument("--seed", type=int, default=0, help="another seed, another world (default 0)")
    draw.add_argument(
        "--split",
        default="train",
        metavar="{train,seen,unseen}",
        help="seen: like train, other pictures; unseen: colour-shape pairs that train never shows (default train)",
    )
    draw.add_argument("--workers", type=int, default=1, help="processes that draw (default 1)")
    stats = commands.add_parser("stats", help="counts, ratios, lengths and bad samples of a recipe's mixture")
    stats.add_argument("recipe", help="recipe name or path of its YAML")
    stats.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")


def run(args: argparse.Namespace) -> int:
    """Carry out the subcommand; 0 where it went well."""
    if args.data_command == "draw":
        return _draw(args)
    from ullava.data.stats import run_stats

    run_stats(args.recipe, args.overrides)
    return 0


def _draw(args: argparse.Namespace) -> int:
    from ullava.data.shapes.write import draw_world

    out = draw_world(args.out, args.images, args.seed, args.split, workers=args.workers)
    print(f"{out}: {args.images} pictures of the shapes world, split {args.split}, seed {args.seed}")
    return 0
