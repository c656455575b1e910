"""``ullava eval``: measure a model on the data sets of a recipe."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ullava.cli.loading_flags import add_quantize
from ullava.errors import UserError

HELP = "evaluate a model by a recipe of configs/eval"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava eval``."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe: its name below configs/, or its path")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values of the recipe to replace")
    parser.add_argument("--model", help="a name, a folder with weights or a Hub id (instead of the recipe's)")
    add_quantize(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="results (default: runs/eval/<recipe name>)")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="PATH",
        help="score finished masks of clips in the place of a model: a .jsonl, or <clip>/<expression>/<frame>.png",
    )
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="DIR",
        help="also write the answers as mask images, as the servers of MeViS and Refer-YouTube-VOS take them",
    )
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of the table")


def run(args: argparse.Namespace) -> int:
    """Evaluate; process 0 prints the results. Raises UserError."""
    from ullava.cli.recipes import read_recipe, translation
    from ullava.config.schema import EvalRecipe

    overrides = [*args.overrides, *([f"model={json.dumps(args.model)}"] if args.model else [])]
    overrides += [f"quantize={args.quantize}"] if args.quantize else []
    if args.results is not None and args.model:
        raise UserError("--results: take the place of a model; leave --model out")
    recipe, path = read_recipe(EvalRecipe, args.recipe, overrides)
    out: Path = args.out if args.out is not None else Path("runs") / "eval" / path.stem

    if (became := translation(recipe, path)) and not args.json:
        print(became)

    from ullava.evaluation.run import evaluate_recipe
    from ullava.evaluation.table import result_table

    metrics = evaluate_recipe(recipe, out, results=args.results, submission=args.submission)
    if metrics is None:
        return 0
    if args.json:
        print(json.dumps(metrics, indent=2))
    else:
        print(result_table(metrics))
        more = [] if args.submission is None else [args.submission]
        print(f"\nwritten: {', '.join(map(str, [out / 'metrics.json', out / 'predictions.jsonl', *more]))}")
    return 0
