"""Save a system before its first step: ``python evaluation/untrained.py --model models/photo --out OUT``.

Its pretrained parts are what they are, all else is random: ``ullava eval RECIPE --model OUT`` then tells how well the
plain language model does on words (perplexity and accuracy of task ``text``), in the same form as the trained system.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ullava import resources
from ullava.config.load import load_config
from ullava.config.schema import ModelConfig
from ullava.errors import UserError
from ullava.modeling.construction.build import build_model
from ullava.training.loop.save import save_model


def save_untrained(model: str, out: Path) -> None:
    path = resources.find("models", model)
    torch.manual_seed(0)
    save_model(*build_model(load_config(ModelConfig, path), path.parent), out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        save_untrained(arguments.model, arguments.out)
    except UserError as error:
        sys.exit("\n".join(f"error: {problem}" for problem in error.problems))
