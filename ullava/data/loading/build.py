"""From the names in a recipe to datasets and mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ullava.config.schema import DatasetEntry
from ullava.data.annotations.shards import CATEGORIES, ShardStore, are_shards
from ullava.data.annotations.store import AnnotationStore
from ullava.data.converters.published.convert import open_original, skipped_lines
from ullava.data.loading.descriptor import Located, locate
from ullava.data.readers.base import Origin, Reader, TaskDataset
from ullava.data.readers.boxes import BoxedDataset, BoxFile
from ullava.data.readers.layouts import reader_of
from ullava.data.readers.templates import find_templates
from ullava.data.sampling.mixture import Mixture
from ullava.errors import ConfigError, DataError, UserError
from ullava.media.images import FOREGROUND_ABOVE, WHITE_ALONE


def build_dataset(dataset_id: str, entry: DatasetEntry, data_root: Path) -> TaskDataset:
    """Open one split of one dataset. The first time, its annotations are converted (see
    ``ullava.data.annotations.store``).

    Raises ConfigError for an entry that does not fit its descriptor, DataError for annotations that are missing, not
    JSON, or empty. Single wrong records are found when they are read.
    """
    located = locate(dataset_id, entry, data_root)
    kind = reader_of(located.config.layout, located.task)
    store = open_store(located)
    if not len(store):
        raise DataError([f"{located.annotations}: holds no records", *skipped_lines(store.facts)])
    images = located.image_root / located.original.images if located.original else located.image_root
    image_root = image_root_of(located, store)
    if isinstance(store, ShardStore) and store.holds_images:
        images = image_root
        if entry.boxes is not None:
            raise ConfigError(f"dataset {dataset_id}: boxes: are found by the files of images, and these lie in shards")
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of images (dataset {dataset_id})")
    templates = None
    if located.template is not None:
        templates = find_templates(located.template, with_phrase=kind.has_phrase, may_point=kind.points)
    foreground = entry.foreground or located.config.foreground
    origin = Origin(
        id=located.id,
        split=located.split,
        task=located.task,
        store=store,
        image_root=image_root,
        templates=templates,
        turns=entry.turns,
        by_image=entry.group == "image",
        limit=entry.limit,
        frames=entry.frames,
        classes=frozenset(name.lower() for name in located.config.classes if not located.config.classes_open),
        class_names=_class_names(located),
        min_area=entry.min_area or 0.0,
        absent=entry.absent or 0.0,
        absent_as=entry.absent_as or "words",
        label_offset=located.config.label_offset,
        exhaustive=located.config.exhaustive,
        ignore_label=located.config.ignore_label,
        foreground_above=WHITE_ALONE if foreground == "white" else FOREGROUND_ABOVE,
    )
    reader = kind(origin)
    if entry.boxes is None:
        return reader
    return BoxedDataset(reader, BoxFile(Path(entry.data_root or data_root) / entry.boxes), located.image_root)


def _class_names(located: Located) -> tuple[str, ...]:
    """Return the descriptor's classes without those that nobody asks for."""
    files = located.config.original
    left_out = files.leave_out if files is not None else []
    return tuple(name for name in located.config.classes if name not in left_out)


def open_store(located: Located) -> AnnotationStore:
    """Open the annotations of a split, converting them if that was not done yet; see ``build_dataset`` for errors."""
    if located.original is not None:
        return open_original(located.original)
    reader = reader_of(located.config.layout)
    if are_shards(located.annotations):
        return _open_shards(located.annotations, reader)
    if located.other is not None and not located.annotations.exists():
        raise DataError(
            f"{located.annotations}: no such annotation file, and neither is the original one, {located.other}"
        )
    return AnnotationStore.open(located.annotations, reader.store_kind)


def _open_shards(pattern: Path, reader: type[Reader]) -> ShardStore:
    store = ShardStore.open_shards(pattern, reader.image_field)
    if reader.store_kind == "coco" and "categories" not in store.facts:
        raise DataError(
            f"{store.folder / CATEGORIES}: no such file; records of {reader.layout} name categories by number"
        )
    return store


def image_root_of(located: Located, store: AnnotationStore) -> Path:
    """Return the folder below which the records of ``store`` name their files, which may lie in its shards."""
    return store.folder if isinstance(store, ShardStore) and store.holds_images else located.image_root


def build_datasets(entries: Mapping[str, DatasetEntry], data_root: Path) -> list[TaskDataset]:
    """Open every entry; raises one error with the problems of all of them."""
    datasets: list[TaskDataset] = []
    problems: list[str] = []
    for name, entry in entries.items():
        try:
            datasets.append(build_dataset(entry.dataset or name, entry, data_root))
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(problems)
    return datasets


def build_mixture(
    entries: Mapping[str, DatasetEntry], data_root: Path, seed: int, shuffle_block: int | None = None
) -> Mixture:
    """Open every entry and mix them; see ``ullava.data.sampling.mixture``."""
    return Mixture(build_datasets(entries, data_root), list(entries.values()), seed, shuffle_block)
