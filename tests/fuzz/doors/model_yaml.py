"""Descriptions of models, through ``ullava check`` and ``show --sizes``."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random

from tests.fuzz.cases import Case
from tests.fuzz.doors.recipes import yaml_text
from tests.fuzz.material import MODEL, shared
from tests.fuzz.mutations import damage_path, damage_text, mutate_tree

SHARE = 9


def prepare(base: Path) -> None:
    """Nothing: the shared model is the sound one."""


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the tree (half of the time one of its parts), its text, or the file."""
    tree = copy.deepcopy(MODEL)
    if rng.random() < 0.3:
        tree |= {
            "weights": str(shared(base, "weights")),
            "notes": "x",
            "head_state": "token",
            "marker_gradient_only": True,
        }
    what = "sound"
    if rng.random() < 0.95:
        part = rng.choice(list(tree))
        if rng.random() < 0.6 and isinstance(tree[part], dict):
            tree[part], what = mutate_tree(rng, tree[part], 1)
            what = f"{part}: {what}"
        else:
            changed, what = mutate_tree(rng, tree)
            tree = changed
    text, how = yaml_text(rng, tree) if rng.random() < 0.5 else (yaml_text(Random(0), tree)[0], "")
    data, more = damage_text(rng, text, 0.05)
    file = folder / "model.yaml"
    file.write_bytes(data)
    if rng.random() < 0.03:
        more = damage_path(rng, file)
    what = "; ".join(filter(None, [what, how, more]))
    argv = rng.choice([["check", "./model.yaml"], ["show", "./model.yaml", "--sizes"], ["show", "./model.yaml"]])
    expected = "accepted" if what == "sound" else "either"
    return Case(argv=argv, what=what, names=("model.yaml",), expected=expected, check=lambda _: check(file, argv))


def check(file: Path, argv: list[str]) -> list[str]:
    """A model that passes the check can be built and counts what it has; one that is shown reads back equal."""
    from ullava.config.load import dump_config, load_config, parse_text
    from ullava.config.schema import ModelConfig
    from ullava.modeling.construction.build import build_model

    config = load_config(ModelConfig, file)
    problems = [] if parse_text(ModelConfig, dump_config(config)) == config else ["what is shown does not read back"]
    if argv[0] == "check":
        model, _ = build_model(config, file.parent)
        if not sum(parameter.numel() for parameter in model.parameters()):
            problems.append("a model without parameters")
    return problems
