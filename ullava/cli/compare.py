"""``ullava compare``: several models through one evaluation, quality beside visual tokens and seconds."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "evaluate several models alike: quality against visual tokens and seconds, as table and plot"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava compare``."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe of configs/compare: its name or its path")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values of the recipe to replace")
    parser.add_argument("--out", metavar="DIR", type=Path, help="results (default: runs/<recipe name>)")
    parser.add_argument("--only", nargs="+", default=[], metavar="LABEL", help="measure these contenders now")


def run(args: argparse.Namespace) -> int:
    """Measure, write the report, print its table. Raises UserError."""
    from ullava import resources
    from ullava.config.comparison import CompareRecipe
    from ullava.config.load import load_config

    path = resources.find("configs", args.recipe)
    recipe = load_config(CompareRecipe, path, args.overrides)
    out: Path = args.out if args.out is not None else Path("runs") / path.stem

    from ullava.experiments.comparison import compare
    from ullava.experiments.comparison_report import FIGURE, REPORT, TABLE, table_of

    rows = compare(recipe, out, only=args.only)
    print(table_of(rows))
    written = ", ".join(str(out / name) for name in (REPORT, TABLE, FIGURE))
    print(f"{len(rows)} of {len(recipe.contenders)} contenders: {written}")
    return 0
