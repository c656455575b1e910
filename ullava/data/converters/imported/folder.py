"""Writes an import as a dataset folder, whole or not at all: descriptor, ``annotations/``, ``images/``, ``masks/``.

A folder that ``ullava data import`` made can get further splits. Its ``import.json`` says, for every split, what was
left out and why.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ullava.config.load import dump_config, load_config
from ullava.config.schema import DatasetConfig, SplitConfig
from ullava.data.converters.imported.items import COPIES, REPORT, Import, Item
from ullava.data.converters.published.source import read_json
from ullava.data.readers.layouts import reader_of
from ullava.errors import DataError

UNSTATED = "not stated; say here under which license images and annotations come before you share them"
_NAME = re.compile(r"[A-Za-z0-9_+-]+")
_FIXED = ("layout", "task", "boxes_only", "ignore_label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an import goes. ``hold_out`` images, drawn by ``seed``, become the split ``val``.

    ``link``: images are symbolic links, not copies. ``command`` is what the descriptor states as its
    source, ``given`` what messages call it.
    """

    out: Path
    split: str = "train"
    hold_out: int = 0
    seed: int = 0
    link: bool = False
    skip_bad: bool = False
    license: str | None = None
    command: str = "ullava data import"
    given: str = "the annotations"


def write_dataset(found: Import, target: Target) -> list[str]:
    """Write the folder and return lines that say what is in it and what was left out.

    Raises DataError, and writes nothing, for faults (unless ``skip_bad``), for nothing usable, for a folder that holds
    something else, a split that is there already, or classes that differ from those of the other splits.
    """
    found.faults.settle(target.skip_bad)
    if not found.items:
        raise DataError([*found.faults.lines(), f"{target.given}: nothing usable was found; nothing was written"])
    splits = _dealt(found.items, target)
    old = _existing(target.out, found, list(splits))
    out = target.out.absolute()
    try:
        _note_copies(found, target.out if old is not None else None)
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            made = Path(temporary) / "dataset"
            made.mkdir()
            counts = {name: _write_split(made, name, items, found, target.link) for name, items in splits.items()}
            config = _config(found, target, counts, old)
            _write_report(made, out, found, target, list(splits))
            (made / "dataset.yaml").write_text(dump_config(config), encoding="utf-8")
            _move(made, out)
    except OSError as error:
        raise DataError(f"{target.out}: cannot be written: {error.strerror or error}") from error
    lines = [
        f"{target.out}: split {name}: {counts[name]} records of {len(items)} images" for name, items in splits.items()
    ]
    return lines + found.faults.lines()


def classes_of(out: Path) -> list[str]:
    """Return the class names of a folder that an import made; none where ``out`` is no such folder."""
    if not (out / "dataset.yaml").is_file() or not (out / REPORT).is_file():
        return []
    return load_config(DatasetConfig, out / "dataset.yaml").classes


def _note_copies(found: Import, out: Path | None) -> None:
    """Note images of equal bytes, also in the splits that ``out`` has. Only those of equal size are read for it."""
    of_size: dict[int, list[tuple[Path, str]]] = {}
    for path in sorted((out / "images").rglob("*")) if out is not None else ():
        if path.is_file():
            of_size.setdefault(path.stat().st_size, []).append((path, path.relative_to(out or path).as_posix()))
    for item in found.items:
        of_size.setdefault(item.image.stat().st_size, []).append((item.image, item.name))
    own = {item.name for item in found.items}
    for files in of_size.values():
        first: dict[bytes, str] = {}
        for path, name in files if any(name in own for _, name in files) and len(files) > 1 else ():
            other = first.setdefault(hashlib.sha256(path.read_bytes()).digest(), name)
            if other != name and name in own:
                found.faults.note(COPIES, name, f"is a copy of {other}")


def _dealt(items: Sequence[Item], target: Target) -> dict[str, list[Item]]:
    if not target.hold_out:
        return {target.split: list(items)}
    if target.split == "val":
        raise DataError("--hold-out makes the split val; give --split another name")
    if not 0 < target.hold_out < len(items):
        raise DataError(f"--hold-out {target.hold_out}: there are {len(items)} images, and some have to stay")
    order = np.random.default_rng(target.seed).permutation(len(items))
    held = set(order[: target.hold_out].tolist())
    return {
        target.split: [item for place, item in enumerate(items) if place not in held],
        "val": [item for place, item in enumerate(items) if place in held],
    }


def _existing(out: Path, found: Import, splits: list[str]) -> DatasetConfig | None:
    """Return the descriptor of a folder that gets a further split, None for a new folder; DataError if it misfits."""
    names = [("--out", out.name), *(("--split", name) for name in splits)]
    problems = [
        f"{key}: '{name}' becomes a name of ours: letters, digits, _, - or +"
        for key, name in names
        if not _NAME.fullmatch(name)
    ]
    if problems:
        raise DataError(problems)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "dataset.yaml").is_file() or not (out / REPORT).is_file():
        raise DataError(f"{out}: exists and was not made by ullava data import; name another folder or remove it")
    old = load_config(DatasetConfig, out / "dataset.yaml")
    _report(out)
    problems += [f"{out}: has a split '{name}' already" for name in splits if name in old.splits]
    for key in _FIXED:
        before, now = getattr(old, key), getattr(found, key)
        if before != now:
            hint = " (--boxes reads boxes alone)" if key == "boxes_only" and before else ""
            problems.append(f"{out}: {key} is {before}, but what is imported has {now}{hint}")
    if not problems and old.classes != found.classes[: len(old.classes)]:
        problems.append(f"{out}: classes is {old.classes}, but what is imported has {found.classes}")
    if problems:
        raise DataError(problems)
    return old


def _write_split(made: Path, name: str, items: Sequence[Item], found: Import, link: bool) -> int:
    """Write images, masks and annotations of a split; return the number of records that its reader will count."""
    records: list[dict[str, Any]] = []
    for item in items:
        image = made / "images" / name / item.name
        image.parent.mkdir(parents=True, exist_ok=True)
        if link:
            image.symlink_to(item.image.resolve())
        else:
            shutil.copyfile(item.image, image)
        where: dict[str, Any] = {"image_path": f"images/{name}/{item.name}"}
        if item.label_png is not None:
            label = f"masks/{name}/{PurePosixPath(item.name).with_suffix('.png')}"
            (made / label).parent.mkdir(parents=True, exist_ok=True)
            (made / label).write_bytes(item.label_png)
            where["label_path"] = label
        size = {"height": item.size_hw[0], "width": item.size_hw[1]}
        records += [where | size | record for record in item.records]
    file = made / "annotations" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    value = _coco(records, found) if reader_of(found.layout).store_kind == "coco" else records
    file.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(records)


def _coco(records: Sequence[dict[str, Any]], found: Import) -> dict[str, Any]:
    """Join records of one image each into COCO's form; annotations get new ids."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, start=1):
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": number, "file_name": record["image_path"]} | size)
        for entry in record["annotations"]:
            annotations.append(entry | {"id": len(annotations) + 1, "image_id": number})
    categories = [{"id": number, "name": name} for number, name in enumerate(found.classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _config(found: Import, target: Target, counts: dict[str, int], old: DatasetConfig | None) -> DatasetConfig:
    splits = {name: SplitConfig(annotations=f"annotations/{name}.json", count=count) for name, count in counts.items()}
    if old is not None:
        source = f"{old.source}; {target.command}"
        return replace(old, splits=old.splits | splits, classes=found.classes, source=source)
    return DatasetConfig(
        name=target.out.name,
        layout=found.layout,
        task=found.task,  # type: ignore[arg-type]
        splits=splits,
        root=".",
        classes=found.classes,
        ignore_label=found.ignore_label,
        boxes_only=found.boxes_only,
        license=target.license or UNSTATED,
        source=target.command,
    )


def _report(out: Path) -> dict[str, Any]:
    """Return what the earlier imports of a folder told; DataError where their report is damaged."""
    known = read_json(out / REPORT)
    if not isinstance(known, dict):
        raise DataError(f"{out / REPORT}: has to be a table of splits; it was not made by ullava data import")
    return known


def _write_report(made: Path, out: Path, found: Import, target: Target, splits: list[str]) -> None:
    known: dict[str, Any] = {}
    if (out / REPORT).is_file():
        known = _report(out)
    known[target.split] = {
        "command": target.command,
        "splits": splits,
        **found.faults.report(),
    }
    (made / REPORT).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _move(made: Path, out: Path) -> None:
    """Put the finished folder in its place, or its files into the folder that is there; the descriptor comes last."""
    if not out.exists():
        made.rename(out)
        return
    for path in sorted(made.rglob("*")):
        place = out / path.relative_to(made)
        if path.is_dir() and not path.is_symlink():
            place.mkdir(exist_ok=True)
        elif path.name != "dataset.yaml":
            os.replace(path, place)
    os.replace(made / "dataset.yaml", out / "dataset.yaml")
