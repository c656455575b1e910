"""Command lines themselves: options left out, repeated, swapped, misspelt, with odd values."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.fuzz.cases import Case
from tests.fuzz.material import copy_tree, pixels, shared, write_image
from tests.fuzz.mutations import odd_word

SHARE = 7


def prepare(base: Path) -> None:
    """One image."""
    write_image(base / "given" / "one.png", pixels(1, 30, 40))


def _sound(rng: Random, base: Path) -> list[str]:
    model, world = str(shared(base, "weights")), str(shared(base, "world"))
    return rng.choice([
        ["predict", "--model", model, "--image", "given/one.png", "--prompt", "A?", "--max-new-tokens=2", "--out", "o"],
        ["predict", "--model", model, "--prompt", "What?", "--max-new-tokens=2", "--batch-size=2", "--json"],
        ["check", "shapes", f"data_root={world}"],
        ["show", "tiny", "--sizes"],
        ["show", "shapes"],
        ["list", "models"],
        ["list"],
        ["data", "draw", "--out", "drawn", "--images", "2", "--seed", "1", "--split", "seen"],
        ["data", "draw", "--out", "drawn", "--videos", "1", "--seed", "1"],
        ["data", "stats", "shapes", f"data_root={world}"],
        ["data", "tokenizer", "--world", world, "--vocabulary", "300", "--out", "words"],
        ["data", "import", "masks", "--images", "given", "--masks", "given", "--labels", "1=a", "--out", "made"],
        ["data", "boxes", "--instances", f"{world}/annotations/instances.json", "--out", "boxes.json"],
        ["convert", "sam", "--from", "given/one.png", "--out", "sam"],
        ["convert", "merge", "--from", "given", "--out", "merged"],
        ["eval", "shapes", "--model", model, "--out", "o", "dataset={shapes_res: {limit: 1}}", f"data_root={world}"],
        ["compare", "vision_encoders", "--out", "o"],
        ["train", "ci", "--out", "o", "data_root=nowhere"],
        ["demo", "--out", "o", "--model", "nothing"],
        ["bench", "--out", "o", "--help"],
    ])  # fmt: skip


def make(rng: Random, folder: Path, base: Path) -> Case:
    """One or two changes to a sound command line."""
    copy_tree(base / "given", folder / "given")
    argv = _sound(rng, base)
    sound = list(argv)
    for _ in range(rng.randint(1, 2)):
        place = rng.randrange(1, len(argv)) if len(argv) > 1 else 0
        way = rng.choice(["drop", "odd", "twice", "swap", "typo", "cut", "more", "number"])
        if way == "drop":
            argv = argv[:place] + argv[place + 1 :] or ["list"]
        elif way == "odd":
            argv[place] = odd_word(rng).replace("\x00", "")
        elif way == "number":
            argv[place] = rng.choice(["-1", "0", "nan", "1e9", "99999999999999999999", "١", "0x10", " 3", "2.0", "1_0"])
        elif way == "twice":
            argv.insert(place, argv[place])
        elif way == "swap":
            other = rng.randrange(len(argv))
            argv[place], argv[other] = argv[other], argv[place]
        elif way == "typo":
            argv[place] = argv[place][:-1] + rng.choice("xsé-")
        elif way == "cut":
            argv = argv[:place] or ["check", "x"]
        else:
            argv.append(rng.choice(["--help", "--hepl", "x=y", "--", "-", "x", "--out", "--json", "--seed=1", "-v"]))
    writes = ("o", "drawn", "words", "made", "runs", "boxes.json", "sam", "merged")
    refused_at_once = argv[:1] in (["predict"], ["data"], ["convert"], ["check"], ["show"], ["list"])
    return Case(argv=argv, what=f"{sound[:3]} changed", writes=() if refused_at_once else writes)
