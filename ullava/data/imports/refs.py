"""Referring expressions in the form of ``refs(*).p`` (or the same as JSON) with ``instances.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ullava.data.file_names import find_below
from ullava.data.imports.items import Faults, Import, Item, upright_size_hw
from ullava.data.originals.pickles import read_plain_pickle
from ullava.data.originals.refs import grefs_rows, refs_rows
from ullava.data.originals.source import OriginalSource, Skipped, read_json
from ullava.errors import DataError
from ullava.geometry import segmentation_to_mask


def read_refs(images: Path, refs: Path, instances: Path, part: str | None = None) -> Import:
    """Read expressions (``part``: of this split alone), their masks and pictures.

    A pickle is read without running anything in it. Entries whose ``ann_id`` is a list are expressions for several
    objects or none. Faults: pictures that are missing, unreadable or of another size, and masks that cannot be used.
    Raises DataError, naming every one, for entries that are malformed or whose ids ``instances.json`` does not have.
    """
    for path in (refs, instances):
        if not path.is_file():
            raise DataError(f"{path}: no such annotation file")
    entries = read_plain_pickle(refs) if refs.suffix == ".p" else read_json(refs)
    first = entries[0] if isinstance(entries, list) and entries else {}
    several = isinstance(first, dict) and isinstance(first.get("ann_id"), list)
    source = OriginalSource(
        kind="grefs" if several else "refs", root=images, annotations=refs, companion=instances, part=part
    )
    if several and refs.suffix == ".p":
        raise DataError(f"{refs}: expressions for several objects are read from JSON")
    faults = Faults()
    by_picture: dict[str, list[dict[str, Any]]] = {}
    for made in (grefs_rows if several else refs_rows)(source, {}, lambda _: None):
        if isinstance(made, Skipped):
            faults.add(made.name, made.reason)
            continue
        record = json.loads(made.record)
        by_picture.setdefault(record.pop("image_path"), []).append(record)
    items = [item for name, records in by_picture.items() if (item := _item(images, refs, name, records, faults))]
    return Import(layout="grefer" if several else "refer", task="res", items=items, faults=faults)


def _item(images: Path, refs: Path, name: str, records: list[dict[str, Any]], faults: Faults) -> Item | None:
    with faults.noting(f"{refs}: {name}"):
        picture = find_below(images, name)
        size = upright_size_hw(picture)
        kept = [record for record in records if _usable(record, size, f"{refs}: ref_id {record['ref_id']}", faults)]
        if not kept:
            raise DataError("no usable expression is left on this picture")
        return Item(picture=picture, name=picture.relative_to(images).as_posix(), size_hw=size, records=tuple(kept))
    return None


def _usable(record: dict[str, Any], size_hw: tuple[int, int], where: str, faults: Faults) -> bool:
    before = len(faults.found)
    with faults.noting(where):
        if (record["height"], record["width"]) != size_hw:
            raise DataError(
                f"the picture has {size_hw[1]} x {size_hw[0]} pixels (width x height), but instances.json says "
                f"{record['width']} x {record['height']}"
            )
        for part in record.get("annotations", [record]):
            if not segmentation_to_mask(part.get("segmentation"), *size_hw).any():
                raise DataError("the mask has no pixel")
    return len(faults.found) == before
