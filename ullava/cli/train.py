"""``ullava train RECIPE``: trains a model; one process, torchrun, accelerate or deepspeed alike."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ullava.cli.recipes import read_recipe, translation
from ullava.config.schema import TrainRecipe
from ullava.errors import Interrupted

HELP = "train a model as a recipe says"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava train``."""
    parser.add_argument("recipe", help="a recipe of 'ullava list configs', or the path of a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to lay over the recipe")
    parser.add_argument("--out", type=Path, help="run folder (default: what the recipe says, else runs/<its name>)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the run folder")


def run(args: argparse.Namespace) -> int:
    """Train; the run folder is described in ullava.training.reporting.folder."""
    recipe, path = read_recipe(TrainRecipe, args.recipe, args.overrides)
    out = args.out or (Path(recipe.output) if recipe.output else Path("runs") / path.stem)
    if (became := translation(recipe, path)) and os.environ.get("RANK", "0") == "0":
        print(became)
    from ullava.training.loop.run import train

    try:
        train(recipe, recipe_path=path, out=out, resume=args.resume)
    except Interrupted as stop:
        if recipe.sharding != "none":
            from ullava.training.distributed.sharding import end_process

            print(stop, file=sys.stderr)
            end_process(stop.exit_code)
        raise
    if recipe.sharding != "none":
        from ullava.training.distributed.sharding import end_process

        end_process()
    return 0
