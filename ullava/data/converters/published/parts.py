"""Parts of objects: PACO-LVIS (COCO's form with ``mug:handle`` as a category) and Pascal-Part (VOC 2010, MATLAB)."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ullava.data.annotations.coco_rows import coco_rows
from ullava.data.converters.published.source import Converted, OriginalSource, Skipped, files_in, row
from ullava.errors import DataError
from ullava.geometry import rle_encode

_PART_FIELDS = ("segmentation", "bbox")
_DIRECTION = "left, right, front, back, upper and lower"
_NAMES = {
    "ear": "ear", "eye": "eye", "ebrow": "eyebrow", "horn": "horn", "wing": "wing", "mirror": "mirror",
    "hand": "hand", "foot": "foot", "leg": "leg", "arm": "arm", "uarm": "arm", "uleg": "leg", "lleg": "leg",
    "larm": "arm", "fleg": "leg", "bleg": "leg", "fpa": "paw", "bpa": "paw", "fuleg": "leg", "flleg": "leg",
    "buleg": "leg", "blleg": "leg", "fho": "hoof", "bho": "hoof",
}  # fmt: skip
_WHOLE = {
    "fwheel": "wheel", "bwheel": "wheel", "chainwheel": "chainwheel", "fliplate": "license plate",
    "bliplate": "license plate", "frontside": "front side", "backside": "back side", "leftside": "left side",
    "rightside": "right side", "roofside": "roof", "leftmirror": "mirror", "rightmirror": "mirror",
    "hfrontside": "front side", "hleftside": "left side", "hrightside": "right side", "hbackside": "back side",
    "hroofside": "roof", "cfrontside": "coach front side", "cleftside": "coach left side",
    "crightside": "coach right side", "cbackside": "coach back side", "croofside": "coach roof",
}  # fmt: skip
UNKNOWN = " (?)"
_PLAIN = frozenset(
    "body stern tail engine wheel saddle handlebar headlight head beak torso neck cap door window nose muzzle mouth "
    "hair pot plant coach screen".split()
)


def paco_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``regions`` record for each image: every object and part that is no crowd region.

    PACO writes ``mug:handle``, and an underscore for a blank. Images with nothing but crowd regions do not occur in
    ``coco_rows``; crowd regions beside others are left out and named.
    """
    known, rows = coco_rows(source.annotations, on_read)
    names = {int(number): name.replace("_", " ") for number, name in known["categories"].items()}
    for made in rows:
        image = json.loads(made.record)
        size = {"height": image["height"], "width": image["width"]}
        classes: list[str] = []
        regions: list[dict[str, Any]] = []
        for annotation in image["annotations"]:
            where = f"{source.annotations.name}: annotation {annotation['id']}"
            if annotation.get("category_id") not in names:
                raise DataError(
                    f"{source.annotations}:{made.line}: {where}: unknown category_id {annotation.get('category_id')}"
                )
            if annotation.get("iscrowd"):
                yield Skipped(where, "a crowd region is nobody's instance")
                continue
            classes.append(names[annotation["category_id"]])
            regions.append(size | {key: annotation[key] for key in _PART_FIELDS if key in annotation})
        shown = source.image(image["image_path"])
        yield row({"image_path": shown, "classes": classes, "annotations": regions}, shown, made.line)


def pascal_part_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``regions`` record for each ``.mat`` of the folder: objects (``dog``) and their parts (``dog:ear``).

    ``companion`` is the list of image names of the split (VOC's ``ImageSets/Main/train.txt``). Left and right, front
    and back, upper and lower parts of a kind share its name, so one question asks for all of them.
    """
    wanted = source.listed()
    files = files_in(source.annotations, (".mat",))
    for stem, path in tqdm(
        files.items(), desc=f"reading {source.annotations.name}", unit="img", disable=len(files) < 500
    ):
        if wanted is not None and stem not in wanted:
            continue
        names: list[str] = []
        regions: list[dict[str, Any]] = []
        try:
            found = list(_mat_regions(path))
        except DataError as error:
            yield Skipped(path.name, str(error).removeprefix(f"{path}: "))
            continue
        for name, mask in found:
            if name.endswith(UNKNOWN):
                yield Skipped(f"{path.name} {name.removesuffix(UNKNOWN)}", "a part code that is not known")
                continue
            if not mask.any():
                yield Skipped(f"{path.name} {name}", "the mask has no pixel")
                continue
            names.append(name)
            height, width = mask.shape
            regions.append({"height": height, "width": width, "segmentation": rle_encode(mask)})
        image = source.image(f"{stem}.jpg")
        if not (source.root / image).is_file():
            yield Skipped(path.name, "no image of this name")
            continue
        if names:
            yield row({"image_path": image, "classes": names, "annotations": regions}, image)
        else:
            yield Skipped(path.name, "no object with a mask")
    missing = sorted(set(wanted or ()) - set(files))
    for stem in missing:
        yield Skipped(stem, f"listed, but {source.annotations.name} has no annotation of it")


def part_name(code: str) -> str:
    """Return the readable name of a part of Pascal-Part: ``lfuleg`` is ``leg``, ``wheel_2`` is ``wheel``.

    The codes are those of the authors' ``part2ind.m``: an optional l/r, f/b and u/l, a short word, a number. Raises
    ValueError for a code that is not among them.
    """
    bare = re.sub(r"_\d+$", "", code)
    if bare in _PLAIN:
        return bare
    if bare in _WHOLE:
        return _WHOLE[bare]
    if bare[:1] in ("l", "r") and bare[1:] in _NAMES:
        return _NAMES[bare[1:]]
    raise ValueError(f"part '{code}' is not known (after {_DIRECTION} are taken off)")


def _named(code: str) -> str:
    """Return the readable name of a part, or the code itself, marked as unknown."""
    try:
        return part_name(code)
    except ValueError:
        return code + UNKNOWN


def _mat_regions(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and mask (bool [H, W]) of each object of a file and of each of its parts; DataError names the file."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        value = loadmat(path, squeeze_me=True, struct_as_record=False)["anno"]
        for thing in np.atleast_1d(value.objects):
            kind = str(thing.__dict__["class"])
            yield kind, np.asarray(thing.mask) > 0
            for part in np.atleast_1d(thing.parts):
                yield f"{kind}:{_named(str(part.part_name))}", np.asarray(part.mask) > 0
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except (MatReadError, zlib.error, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: not a file of Pascal-Part, or cut off ({error})") from error
