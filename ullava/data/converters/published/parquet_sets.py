"""Evaluation sets that their authors publish as Parquet: RefCOCO-M, Ref-L4, GroundingME and PBench.

The fields are those of the cards and programs of the authors: huggingface.co/datasets/moondream/refcoco-m,
github.com/JierunChen/Ref-L4, github.com/lirang04/GroundingME (and its task in lmms-eval), github.com/tiiuae/
Falcon-Perception and the card of tiiuae/PBench.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ullava.data.converters.published.parquet import fields_of, parquet_records, run_lengths, said_of, unpacked_image
from ullava.data.converters.published.source import Converted, OriginalSource, Skipped, row
from ullava.data.readers.record import are_numbers
from ullava.errors import DataError

SMALL_BELOW, LARGE_ABOVE = 128.0, 256.0
"""Ref-L4's sizes: the root of width times height, in pixels."""
REJECTION = "Rejection"
"""GroundingME's kind of descriptions that fit nothing in the image."""
_SAME_CLASS = (
    "1:1 2:47 3:6 4:59 5:115 6:56 7:117 8:66 9:22 10:41 11:177 13:128 14:250 15:25 16:56 17:140 18:93 19:79 20:100 "
    "21:97 22:145 23:296 24:179 25:181 27:39 28:40 31:13 32:44 33:194 34:220 35:119 36:174 38:155 39:138 40:114 "
    "41:146 42:147 43:205 44:9 46:36 47:11 48:89 49:85 50:94 51:26 52:113 53:83 54:266 55:104 56:142 57:153 58:235 "
    "59:144 60:151 61:98 62:3 63:51 64:26 65:76 67:98 70:154 72:37 73:74 74:116 75:133 76:107 77:62 78:164 79:135 "
    "80:278 81:82 82:134 84:19 85:95 86:31 87:170 88:70 89:328 90:227 "
)
"""Which class of COCO is which one of Objects365 when Ref-L4 averages over classes; 37 has none and stands alone."""
OBJECTS365_OF = {f"refcoco_{coco}": f"o365_{other}" for coco, other in (p.split(":") for p in _SAME_CLASS.split())}


def refcoco_m_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``refer`` record for each instance of an image: its expressions, its mask, its box."""
    facts["sentences"] = 0
    for where, value in parquet_records(source, ("image", "samples")):
        with fields_of(f"{source.annotations}: {where}"):
            shown = _shown(source, where, value["image"])
            if isinstance(shown, Skipped):
                yield shown
                continue
            name, size = shown
            for place, thing in enumerate(value["samples"]):
                here = f"{where}: samples[{place}]"
                mask = run_lengths(here, thing["mask"], size)
                said = [said_of(here, text) for text in thing["sentences"]]
                yield from (text for text in said if isinstance(text, Skipped))
                kept = [text for text in said if isinstance(text, str)]
                if isinstance(mask, Skipped):
                    yield mask
                elif kept:
                    facts["sentences"] += len(kept)
                    record = _head(name, size) | {
                        "sentences": kept,
                        "category": thing["category"],
                        "segmentation": mask,
                    }
                    yield row(record | {"bbox": [float(side) for side in thing["bbox"]]}, name)


def ref_l4_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``refer`` record with a box for each caption; its group is the size, its class what is averaged over.

    ``file_name`` is the name of an image in the authors' images.tar.gz, unpacked in the folder of images.
    """
    facts["sentences"] = 0
    wanted = ("id", "caption", "bbox", "height", "width", "file_name", "ori_category_id")
    for where, value in parquet_records(source, wanted):
        with fields_of(f"{source.annotations}: {where}"):
            here = f"id {value['id']}"
            caption = said_of(here, value["caption"])
            if isinstance(caption, Skipped):
                yield caption
                continue
            if not are_numbers(value["bbox"], 4):
                yield Skipped(here, "a box that is not four numbers")
                continue
            side = math.sqrt(max(value["bbox"][2] * value["bbox"][3], 0.0))
            size = "small" if side < SMALL_BELOW else "large" if side > LARGE_ABOVE else "medium"
            facts["sentences"] += 1
            name = source.image(value["file_name"])
            record = _head(name, (value["height"], value["width"])) | {"sentences": [caption], "bbox": value["bbox"]}
            kind = str(value["ori_category_id"])
            record |= {"category": caption, "groups": [size], "average_over": OBJECTS365_OF.get(kind, kind)}
            yield row(record, name)


def groundingme_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``grefer`` record with one box, or none, for each description; its groups are the two levels of skill.

    ``bbox`` is x0, y0, x1, y1 in pixels and means nothing where the description is to be rejected.
    """
    facts["sentences"] = 0
    for where, value in parquet_records(source, ("image", "description", "bbox", "subtask_l1", "subtask_l2")):
        with fields_of(f"{source.annotations}: {where}"):
            asked = _asked(source, where, value["image"], value["description"])
            if not isinstance(asked, tuple):
                yield from asked
                continue
            name, size, said = asked
            skill, part = str(value["subtask_l1"]), str(value["subtask_l2"])
            absent = skill == REJECTION
            things = []
            if not absent:
                if not are_numbers(value["bbox"], 4):
                    yield Skipped(where, "a box that is not four numbers")
                    continue
                x0, y0, x1, y1 = value["bbox"]
                things = [{"bbox": [x0, y0, x1 - x0, y1 - y0], "category": said, "box_only": True}]
            facts["sentences"] += 1
            record = _head(name, size) | {"sentences": [said], "no_target": absent, "annotations": things}
            yield row(record | {"groups": [skill, f"{skill}/{part}"]}, name)


def pbench_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``grefer`` record for each expression: a mask for every instance, or none."""
    facts["sentences"] = 0
    for where, value in parquet_records(source, ("image", "expression", "masks")):
        with fields_of(f"{source.annotations}: {where}"):
            asked = _asked(source, where, value["image"], value["expression"])
            if not isinstance(asked, tuple):
                yield from asked
                continue
            name, size, said = asked
            masks = [run_lengths(where, mask, size) for mask in value["masks"] or ()]
            faults = [mask for mask in masks if isinstance(mask, Skipped)]
            if faults:  # without one of its things the question would have another answer
                yield faults[0]
                continue
            facts["sentences"] += 1
            things = [{"segmentation": mask, "category": said} for mask in masks]
            yield row(_head(name, size) | {"sentences": [said], "no_target": not things, "annotations": things}, name)


def _asked(
    source: OriginalSource, where: str, image: Any, text: Any
) -> tuple[str, tuple[int, int], str] | list[Skipped]:
    """Return an image's name and (height, width) with what is said of it; else what is wrong with either."""
    shown, said = _shown(source, where, image), said_of(where, text)
    if isinstance(shown, Skipped) or isinstance(said, Skipped):
        return [fault for fault in (shown, said) if isinstance(fault, Skipped)]
    return (*shown, said)


def _shown(source: OriginalSource, where: str, image: Any) -> tuple[str, tuple[int, int]] | Skipped:
    try:
        return unpacked_image(source, image)
    except DataError as error:
        return Skipped(where, str(error))


def _head(name: str, size_hw: tuple[int, int]) -> dict[str, Any]:
    return {"image_path": name, "height": size_hw[0], "width": size_hw[1]}
