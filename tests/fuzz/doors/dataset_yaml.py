"""Descriptions of datasets, through ``ullava check``."""

from __future__ import annotations

from pathlib import Path
from random import Random

import yaml
from tests.fuzz.cases import Case
from tests.fuzz.doors import coco, masks
from tests.fuzz.doors.recipes import yaml_text
from tests.fuzz.material import copy_tree, every_sample
from tests.fuzz.mutations import damage_path, damage_text, mutate_tree

SHARE = 6


def prepare(base: Path) -> None:
    """Import two datasets."""
    from ullava.cli.main import main

    for door in (coco, masks):
        (base / door.__name__).mkdir()
        door.prepare(base / door.__name__)
    images = ["--images", str(base / coco.__name__ / "images")]
    given = ["--annotations", str(base / coco.__name__ / "instances.json")]
    assert main(["data", "import", "coco", *images, *given, "--out", str(base / "things")]) == 0
    folder = base / masks.__name__
    given = ["--images", str(folder / "images"), "--masks", str(folder / "masks"), "--labels", "1=pet", "7=toy"]
    assert main(["data", "import", "masks", *given, "--ignore", "3", "--out", str(base / "pets")]) == 0


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the tree, its text, or the file."""
    copy_tree(base / rng.choice(["things", "pets"]), folder / "made")
    file = folder / "made" / "dataset.yaml"
    tree, what = yaml.safe_load(file.read_text()), "sound"
    if rng.random() < 0.95:
        tree, what = mutate_tree(rng, tree)
    text, how = yaml_text(rng, tree)
    data, more = damage_text(rng, text, 0.1)
    file.write_bytes(data)
    if rng.random() < 0.04:
        more = damage_path(rng, file)
    what = "; ".join(filter(None, [what, how, more]))
    argv = ["check", rng.choice(["./made", "made/dataset.yaml"])]
    names = ("dataset.yaml", "made")
    expected = "accepted" if what == "sound" else "either"
    return Case(argv=argv, what=what, names=names, expected=expected, check=lambda _: every_sample(file)[1])
