"""Opens a data set's original files: the first time they are converted, afterwards the converted form is mapped.

The one table of conversions is here. What could not be converted is counted and named in the store's ``facts``.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from ullava.data.annotations.json_stream import Row
from ullava.data.annotations.store import PROGRESS_BYTES, AnnotationStore, cache_path, convert_rows
from ullava.data.converters.published.boxed_refs import boxed_refs_rows
from ullava.data.converters.published.captions import coco_captions_rows
from ullava.data.converters.published.concept_sets import annotators, grounding_suite_rows, sa_co_rows
from ullava.data.converters.published.dialogues import alpaca_rows, scienceqa_rows, sharegpt_rows, tgif_rows
from ullava.data.converters.published.flickr_entities import BOXES, flickr_entities_rows
from ullava.data.converters.published.folders import ade_objects_rows, label_folders_rows, mask_pairs_rows
from ullava.data.converters.published.grandf import (
    grandf_eval_rows,
    grandf_flickr_rows,
    grandf_refcocog_rows,
    grandf_rows,
)
from ullava.data.converters.published.labelme import reasonseg_rows
from ullava.data.converters.published.parquet_sets import (
    groundingme_rows,
    pbench_rows,
    ref_l4_rows,
    refcoco_m_rows,
)
from ullava.data.converters.published.parts import paco_rows, pascal_part_rows
from ullava.data.converters.published.refs import grefs_rows, refs_rows
from ullava.data.converters.published.source import Converted, OriginalSource, Skipped
from ullava.data.converters.published.video_refs import (
    mevis_rows,
    ref_davis_rows,
    ref_youtube_vos_rows,
    revos_rows,
)
from ullava.errors import DataError

CONVERSIONS: dict[str, Callable[[OriginalSource, dict[str, Any], Callable[[int], object]], Converted]] = {
    "refs": refs_rows,
    "grefs": grefs_rows,
    "reasonseg": reasonseg_rows,
    "mask_pairs": mask_pairs_rows,
    "label_folders": label_folders_rows,
    "ade_objects": ade_objects_rows,
    "paco": paco_rows,
    "pascal_part": pascal_part_rows,
    "scienceqa": scienceqa_rows,
    "alpaca": alpaca_rows,
    "sharegpt": sharegpt_rows,
    "tgif_tsv": tgif_rows,
    "boxed_refs": boxed_refs_rows,
    "coco_captions": coco_captions_rows,
    "refcoco_m": refcoco_m_rows,
    "ref_l4": ref_l4_rows,
    "groundingme": groundingme_rows,
    "pbench": pbench_rows,
    "grounding_suite": grounding_suite_rows,
    "sa_co": sa_co_rows,
    "grandf": grandf_rows,
    "grandf_refcocog": grandf_refcocog_rows,
    "grandf_flickr": grandf_flickr_rows,
    "grandf_eval": grandf_eval_rows,
    "flickr_entities": flickr_entities_rows,
    "mevis": mevis_rows,
    "revos": revos_rows,
    "ref_youtube_vos": ref_youtube_vos_rows,
    "ref_davis": ref_davis_rows,
}
FOLDER_KINDS = ("reasonseg", "mask_pairs", "label_folders", "ade_objects", "pascal_part", "flickr_entities")
"""Kinds whose annotations are a folder of files, one for an image."""
PACKED_KINDS = ("refcoco_m", "groundingme", "pbench")
"""Kinds whose annotations are a folder of Parquet files with the images inside; converting writes these out."""
VERSION = 3
SKIPPED_NAMED = 100
_LOG = logging.getLogger(__name__)


def open_original(source: OriginalSource) -> AnnotationStore:
    """Map the converted form of the original files, converting them first if this version of them was not yet.

    ``facts`` of the store hold ``skipped`` (how many records were left out), ``skipped_named`` (the first of them with
    reasons) and, for expressions, ``sentences``; a warning says so on converting. Raises DataError for files that are
    missing or cannot be understood.
    """
    if source.kind in (*FOLDER_KINDS, *PACKED_KINDS):
        if not source.annotations.is_dir():
            raise DataError(f"{source.annotations}: no such folder of annotations")
    elif not source.annotations.is_file():
        raise DataError(f"{source.annotations}: no such annotation file")
    kind = source.kind if source.part is None else f"{source.kind}.{source.part}"
    arrow = cache_path(source.annotations, kind, _fingerprint(source))
    unpacked = source.kind not in PACKED_KINDS or (source.root / source.images).is_dir()
    if arrow.is_file() and unpacked:
        try:
            return AnnotationStore(arrow, source.annotations)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            arrow.unlink(missing_ok=True)
    facts: dict[str, Any] = {}
    convert_rows(source.annotations, arrow, kind, _kept(source, facts), facts)
    store = AnnotationStore(arrow, source.annotations)
    for line in skipped_lines(store.facts):
        _LOG.warning("%s: %s", source.annotations, line)
    return store


def skipped_lines(facts: dict[str, Any]) -> list[str]:
    """Return one line for each way in which records were left out, with how many and the first ones by name."""
    reasons: dict[str, list[str]] = {}
    for name, reason in facts.get("skipped_named", []):
        reasons.setdefault(reason, []).append(name)
    counts: dict[str, int] = facts.get("skipped_by_reason", {})
    return [
        f"{count} left out: {reason} ({', '.join(reasons.get(reason, [])[:3])}{', ...' if count > 3 else ''})"
        for reason, count in counts.items()
    ]


def _kept(source: OriginalSource, facts: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows; count what is left out."""
    named: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    size = source.annotations.stat().st_size if source.annotations.is_file() else 0
    size += source.companion.stat().st_size if source.companion is not None and source.companion.is_file() else 0
    bar = tqdm(
        total=size, unit="B", unit_scale=True, desc=f"reading {source.annotations.name}", disable=size < PROGRESS_BYTES
    )
    with bar:
        for item in CONVERSIONS[source.kind](source, facts, bar.update):
            if isinstance(item, Skipped):
                counts[item.reason] += 1
                if len(named) < SKIPPED_NAMED:
                    named.append((item.name, item.reason))
            else:
                yield item
    facts |= {"skipped": counts.total(), "skipped_named": named, "skipped_by_reason": dict(counts)}


def _fingerprint(source: OriginalSource) -> str:
    """Return a short code of everything but ``annotations`` itself that the conversion depends on."""
    parts = [VERSION, source.root.resolve(), source.images, source.part, source.classes, sorted(source.leave_out)]
    parts += [source.label_offset, source.ignore_label, source.first_text]
    folders = [source.annotations, source.root / source.images] if source.kind in FOLDER_KINDS else []
    folders += [source.annotations] if source.kind in PACKED_KINDS else []
    folders += annotators(source)[1:] if source.kind == "sa_co" else []
    folders += [source.annotations.parent / BOXES] if source.kind == "flickr_entities" else []
    for path in [*folders, *([source.companion] if source.companion is not None else [])]:
        parts.append(_state(path))
    return "|" + hashlib.sha256(repr(parts).encode()).hexdigest()


def _state(path: Path) -> object:
    if path.is_dir():
        return sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in path.iterdir())
    return (str(path), path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (str(path), None)
