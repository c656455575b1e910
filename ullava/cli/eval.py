"""``ullava eval``: measure a model on the data sets of a recipe."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ullava.cli.loading_flags import add_quantize

HELP = "evaluate a model by a recipe of configs/eval"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava eval``."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe: its name below configs/, or its path")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values of the recipe to replace")
    parser.add_argument("--model", help="a name, a folder with weights or a Hub id (instead of the recipe's)")
    add_quantize(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="results (default: runs/eval/<recipe name>)")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of the table")


def run(args: argparse.Namespace) -> int:
    """Evaluate; process 0 prints the results. Raises UserError."""
    from ullava.cli.recipes import read_recipe, translation
    from ullava.config.schema import EvalRecipe

    overrides = [*args.overrides, *([f"model={json.dumps(args.model)}"] if args.model else [])]
    overrides += [f"quantize={args.quantize}"] if args.quantize else []
    recipe, path = read_recipe(EvalRecipe, args.recipe, overrides)
    out: Path = args.out if args.out is not None else Path("runs") / "eval" / path.stem

    if (became := translation(recipe, path)) and not args.json:
        print(became)

    from ullava.evaluation.run import evaluate_recipe
    from ullava.evaluation.table import result_table

    metrics = evaluate_recipe(recipe, out)
    if metrics is None:
        return 0
    if args.json:
        print(json.dumps(metrics, indent=2))
    else:
        print(result_table(metrics))
        print(f"\nwritten: {out / 'metrics.json'}, {out / 'predictions.jsonl'}")
    return 0
