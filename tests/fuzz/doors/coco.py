"""COCO instance files, through ``ullava data import coco``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tests.fuzz.cases import Case, Printed
from tests.fuzz.material import copy_tree, every_sample, lenient_json, pixels, read_json, write_image
from tests.fuzz.mutations import damage_bytes, damage_path, damage_text, json_text, mutate_tree

from ullava.data.converters.imported.coco_file import id_of

SHARE = 9
SIZES = ((30, 40), (24, 24), (33, 21))


def prepare(base: Path) -> None:
    """Three images; polygons, both forms of run-length code, a crowd."""
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES, start=1):
        write_image(base / "images" / f"{number}.png", pixels(number, height, width))
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[3:9, 4:15] = 1
        code = coco_mask.encode(mask)
        code["counts"] = code["counts"].decode()
        plain: list[int] = []
        flat = np.concatenate([[0], mask.flatten(order="F"), [2]])
        plain = np.diff(
            np.concatenate(
                [
                    [0],
                    np.flatnonzero(np.diff(flat.astype(int))),
                ]
            )
        ).tolist()
        plain[-1] = height * width - sum(plain[:-1])
        outline = [[2.0, 2.0, 12.5, 2.0, 12.0, 10.0, 2.0, 11.0], [14, 12, 18, 12, 18, 17]]
        forms: list[Any] = [outline, code, {"size": [height, width], "counts": plain}]
        for place, form in enumerate(forms):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": 1 + 2 * (place % 2),
                    "segmentation": form, "area": 66, "bbox": [4, 3, 11, 6], "iscrowd": int(place == 2),
                }
            )  # fmt: skip
    categories = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "dog"}]
    value = {"info": {"year": 2026}, "licenses": [], "images": images, "annotations": annotations}
    (base / "instances.json").write_text(json.dumps(value | {"categories": categories}))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the JSON most of the time, else an image."""
    copy_tree(base / "images", folder / "images")
    sound = read_json(base / "instances.json")
    names: tuple[str, ...] = ("instances.json",)
    what = "sound"
    file = folder / "instances.json"
    file.write_text(json_text(sound))
    way = rng.random()
    if way < 0.8:
        tree, what = mutate_tree(rng, sound)
        data, how = damage_text(rng, json_text(tree, ascii_only=rng.random() < 0.5), 0.2)
        file.write_bytes(data)
        what = f"{what}; {how}" if how else what
    elif way < 0.95:
        image = folder / "images" / f"{rng.randint(1, 3)}.png"
        names += (image.name,)
        if rng.random() < 0.5:
            data, what = damage_bytes(rng, image.read_bytes())
            image.write_bytes(data)
        else:
            what = damage_path(rng, image)
    elif way < 0.98:
        what = damage_path(rng, file)
    argv = ["data", "import", "coco", "--images", "images", "--annotations", "instances.json", "--out", "made"]
    argv += rng.choice([[], [], ["--skip-bad"], ["--skip-bad"], ["--hold-out", "1"], ["--link"]])
    expected = "accepted" if what == "sound" else "either"
    return Case(
        argv=argv, what=what, names=names, expected=expected, check=lambda printed: check(folder, printed, argv)
    )


def check(folder: Path, printed: Printed, argv: list[str]) -> list[str]:
    """Every annotation is in the dataset with the same pixels, or named as left out; every sample can be read."""
    made = folder / "made"
    _, problems = every_sample(made / "dataset.yaml")
    told = json.loads((made / "import.json").read_text())["train"]
    left = [
        f"{entry['name']}: {entry['reason']}" for key in ("left_out", "nothing_to_ask_about") for entry in told[key]
    ]
    given = lenient_json(folder / "instances.json")
    files = {id_of(image.get("id")): image["file_name"] for image in given["images"] if "file_name" in image}
    names = {id_of(entry.get("id")): entry.get("name") for entry in given["categories"]}
    wanted: Counter[tuple[str, str, bytes]] = Counter()
    for place, entry in enumerate(given["annotations"]):
        name = str(files.get(id_of(entry.get("image_id"))))
        number = id_of(entry.get("id"))
        label = f"annotations[{place}]" if number is None else f"annotation {number}"
        if any(_is_about(line, name, label) or f" annotations[{place}]: " in line for line in left):
            continue
        parts = entry["segmentation"]
        if isinstance(parts, list):
            parts = [p for n, p in enumerate(parts) if not any(f" {label}: segmentation[{n}]: " in x for x in left)]
        with Image.open(folder / "images" / name) as image:
            mask = _bits(parts, image.height, image.width)
        wanted[(name.removeprefix("./"), same_name(names[id_of(entry["category_id"])]), mask)] += 1
    if any("is there twice" in entry["reason"] for entry in told.get("joined", ())):
        wanted = Counter(dict.fromkeys(wanted, 1))
    got: Counter[tuple[str, str, bytes]] = Counter()
    for path in sorted((made / "annotations").glob("*.json")):
        value = json.loads(path.read_text())
        sizes = {image["id"]: image for image in value["images"]}
        labels = {entry["id"]: same_name(entry["name"]) for entry in value["categories"]}
        for entry in value["annotations"]:
            image = sizes[entry["image_id"]]
            name = image["file_name"].split("/", 2)[2]
            mask = _bits(entry["segmentation"], image["height"], image["width"])
            got[(name, labels[entry["category_id"]], mask)] += 1
    for key in (wanted - got).keys() | (got - wanted).keys():
        problems.append(f"{key[0]}, {key[1]}: {got[key]} in the dataset, {wanted[key]} in the file and not left out")
    return problems


def same_name(name: Any) -> str:
    """What all spellings of a class share."""
    return " ".join(str(name).split()).casefold()


def _is_about(line: str, image: str, label: str) -> bool:
    """Whether a line of the report says that an annotation, or the image that it is on, is left out."""
    if f" {label}: " in line:
        return not line.endswith("the other parts stay")
    return f": {image}: " in line and f": {image}: annotation" not in line


def _bits(segmentation: Any, height: int, width: int) -> bytes:
    """The pixels of a segmentation, decoded without our code."""
    if isinstance(segmentation, list):
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return np.packbits(coco_mask.decode(code)).tobytes()
