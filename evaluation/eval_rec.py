"""Evaluate by a recipe: the same code and results as ``ullava eval``."""

from __future__ import annotations

import argparse

from ullava.cli.main import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--cfg_path", default="eval/eval_rec", help="recipe: its path, or its name below configs/")
    arguments, rest = parser.parse_known_args()
    raise SystemExit(main(["eval", arguments.cfg_path, *rest]))
