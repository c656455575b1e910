"""Mask images, through ``ullava data import masks``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from tests.fuzz.cases import Case
from tests.fuzz.material import copy_tree, every_sample, pixels, write_image
from tests.fuzz.mutations import damage_bytes, damage_path, odd_word

SHARE = 6
SIZES = ((30, 40), (24, 25))
LABELS = {1: "pet", 7: "toy"}
IGNORED = 3


def _values(number: int) -> np.ndarray:
    height, width = SIZES[number]
    values = np.zeros((height, width), np.uint8)
    values[2:9, 3:9] = 1
    values[12:20, 5:21] = 7
    values[20:22] = IGNORED
    return values


def prepare(base: Path) -> None:
    """Two JPEG images and their masks."""
    for number, (height, width) in enumerate(SIZES):
        write_image(base / "images" / f"{number}.jpg", pixels(number, height, width))
        write_image(base / "masks" / f"{number}.png", _values(number))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Another kind of PNG, other values, other sizes, damaged bytes, or odd options."""
    for name in ("images", "masks"):
        copy_tree(base / name, folder / name)
    mask, image = folder / "masks" / "1.png", folder / "images" / "1.jpg"
    labels, ignore, background, more = ["1=pet", "7=toy"], ["3"], ["0"], []
    names: tuple[str, ...] = ("1.png", "1.jpg")
    expected = "either"
    way = rng.choice(["form", "form", "values", "size", "bytes", "bytes", "path", "pair", "options", "image"])
    what = way
    if way == "form":
        what, data, expected = _form(rng, _values(1))
        mask.write_bytes(data)
    elif way == "values":
        values = _values(1)
        value = rng.choice([2, 128, 254, 255])
        values[rng.randrange(24), rng.randrange(25)] = value
        write_image(mask, values)
        what, expected = f"the value {value}", "refused"
    elif way == "size":
        write_image(mask, np.ascontiguousarray(rng.choice([_values(1).T, _values(1)[:-1], _values(1)[:1, :1]])))
        expected = "refused"
    elif way in ("bytes", "image"):
        path = mask if way == "bytes" else image
        data, what = damage_bytes(rng, path.read_bytes())
        path.write_bytes(data)
    elif way == "path":
        what = damage_path(rng, rng.choice([mask, image]))
    elif way == "pair":
        lone = rng.choice([mask, image])
        what, names = f"{lone.name} renamed", ("1.png", "1.jpg", "x.")
        lone.rename(lone.with_stem("x"))
        expected = "refused"
    else:
        labels, ignore, background = (_odd_options(rng, given) for given in (labels, ignore, background))
        what, names = f"--labels {labels} --ignore {ignore} --background {background}", ()
        more = rng.choice([[], ["--salient"], ["--hold-out", rng.choice(["-1", "2", "x", "1"])]])
    argv = ["data", "import", "masks", "--images", "images", "--masks", "masks", "--out", "made", *more]
    argv += ["--labels", *labels, "--ignore", *ignore, "--background", *background]
    judged = way != "options"
    return Case(argv=argv, what=what, names=names, expected=expected, check=lambda _: check(folder, judged))


def _form(rng: Random, values: np.ndarray) -> tuple[str, bytes, str]:
    """The same class numbers in another kind of file."""
    gray = Image.fromarray(values)
    palette = gray.copy()
    palette.putpalette([(7 * n) % 256 for n in range(768)])
    forms = {
        "palette": (palette, "PNG", "accepted"),
        "16 bits": (Image.fromarray(values.astype(np.uint16)), "PNG", "accepted"),
        "32 bits": (Image.fromarray(values.astype(np.int32)), "PNG", "accepted"),
        "colors": (gray.convert("RGB"), "PNG", "refused"),
        "grey and transparency": (gray.convert("LA"), "PNG", "refused"),
        "JPEG by another name": (gray, "JPEG", "refused"),
        "BMP by another name": (gray, "BMP", "refused"),
        "interlaced": (gray, "PNG", "accepted"),
    }
    name = rng.choice(list(forms))
    made, kind, expected = forms[name]
    file = io.BytesIO()
    made.save(file, format=kind)
    return name, file.getvalue(), expected


def _odd_options(rng: Random, given: list[str]) -> list[str]:
    way = rng.choice(["same", "same", "odd", "none", "twice"])
    if way == "odd":
        odd = rng.choice(
            ["1=", "=pet", "x=pet", "256=pet", "-1=pet", "1=pet=x", "٣=pet", "1.5=pet", odd_word(rng), "9" * 5000]
        )
        return [*given[:-1], odd.replace("\x00", "").encode("utf-8", "replace").decode()]
    return {"same": given, "none": [], "twice": given * 2}[way]


def check(folder: Path, judged: bool) -> list[str]:
    """The written masks hold the given ones, renumbered; every sample can be read."""
    made = folder / "made"
    _, problems = every_sample(made / "dataset.yaml")
    if not judged:
        return problems
    told = json.loads((made / "import.json").read_text())["train"]
    named = str(told["left_out"]) + str(told["nothing_to_ask_about"])
    numbers = {value: place for place, value in enumerate(LABELS, start=1)} | {IGNORED: 255, 0: 0}
    for number in (0, 1):
        path = made / "masks" / "train" / f"{number}.png"
        if not path.is_file() and f"{number}.png" in named:
            continue
        given = np.asarray(Image.open(folder / "masks" / f"{number}.png"))
        wanted = np.vectorize(numbers.__getitem__)(given)
        if not np.array_equal(np.asarray(Image.open(path)), wanted):
            problems.append(f"masks/train/{number}.png does not hold what was given")
    return problems
