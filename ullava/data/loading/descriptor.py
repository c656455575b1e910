"""``datasets/<id>/dataset.yaml`` and an entry of a recipe, brought together: which files, which split, which words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from ullava.config.load import load_config, place
from ullava.config.nodes import shortened
from ullava.config.schema import DatasetConfig, DatasetEntry, OriginalConfig, OriginalSplit
from ullava.data.annotations.file_names import find_from
from ullava.data.annotations.shards import are_shards
from ullava.data.converters.published.source import OriginalSource
from ullava.data.readers.layouts import CLASS_READERS, layout_names, reader_of, tasks_of
from ullava.errors import ConfigError, did_you_mean
from ullava.resources import find
from ullava.structures import Task
from ullava.text.phrases import name_fault

KIND_LAYOUTS: dict[str, str] = {
    "refs": "refer",
    "grefs": "grefer",
    "reasonseg": "refer",
    "label_folders": "label_png",
    "mask_pairs": "salient_png",
    "ade_objects": "regions",
    "paco": "regions",
    "pascal_part": "regions",
    "scienceqa": "llava_json",
    "alpaca": "llava_json",
    "sharegpt": "llava_json",
    "tgif_tsv": "llava_json",
    "boxed_refs": "grefer",
    "coco_captions": "llava_json",
    "refcoco_m": "refer",
    "ref_l4": "refer",
    "groundingme": "grefer",
    "pbench": "grefer",
    "grounding_suite": "refer",
    "sa_co": "grefer",
    "grandf": "grounded_captions",
    "grandf_refcocog": "grounded_captions",
    "grandf_flickr": "grounded_captions",
    "grandf_eval": "grounded_captions",
    "flickr_entities": "grounded_captions",
    "mevis": "refer_video",
    "revos": "refer_video",
    "ref_youtube_vos": "refer_video",
    "ref_davis": "refer_video",
}
"""Which layout the records of each kind of original files have."""
Form = Literal["reworked", "original"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A dataset's part in a recipe with everything decided and every path made whole; nothing was opened yet.

    ``original`` is there where the authors' own files are read; ``other`` is where they would be, where they are not.
    ``count`` records (or ``about`` so many) and ``sentences`` expressions are expected.
    """

    id: str
    config: DatasetConfig
    split: str
    task: Task
    annotations: Path
    image_root: Path
    template: str | None
    original: OriginalSource | None = None
    count: int | None = None
    sentences: int | None = None
    about: int | None = None
    other: Path | None = None


def load_descriptor(dataset_id: str) -> tuple[str, DatasetConfig]:
    """Return the dataset's own id (``refcoco+`` is ``refcoco_plus``) and its descriptor; raises UserError."""
    path = find("datasets", dataset_id)
    config = load_config(DatasetConfig, path)
    if config.layout not in layout_names():
        unknown = f"no layout '{shortened(config.layout)}'{did_you_mean(config.layout, layout_names())}"
        raise ConfigError(f"{place(path, 'layout')}: layout: {unknown}")
    tasks = tasks_of(config.layout)
    problems = [] if config.task in tasks else [f"task: {_unfit(config.layout, config.task)}"]
    if config.boxes_only and config.task != "rec":
        problems.append(f"task: boxes_only serves rec, not {config.task}")
    made = KIND_LAYOUTS[config.original.kind] if config.original else config.layout
    if made != config.layout:
        problems.append(f"original.kind: makes records of layout {made}, but the layout is {config.layout}")
    named = [*((f"classes[{place}]", name) for place, name in enumerate(config.classes)), ("name", config.name)]
    problems += [f"{key}: {name!r:.60} {fault}" for key, name in named if (fault := name_fault(name))]
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    if config.root is not None:
        config = replace(config, root=str(path.parent / config.root))
    return path.parent.name, config


def locate(dataset_id: str, entry: DatasetEntry, data_root: Path) -> Located:
    """Decide form, split, task, template and paths; raises ConfigError for what does not fit together.

    The split is the entry's, else ``train``, else the only one there is. ``entry.data_root`` wins over the dataset's
    own ``root``, and that over ``data_root``; ``entry.annotations`` and ``images`` over all. The form is the entry's,
    else the one whose annotations are there.
    """
    own_id, config = load_descriptor(dataset_id)
    split, problems = _choose_split(own_id, config, entry)
    problems = [*_entry_problems(config, entry), *problems]
    if problems:
        raise ConfigError([f"dataset {dataset_id}: {problem}" for problem in problems])
    root = Path(entry.data_root or config.root or data_root)
    task = cast(Task, entry.task or config.task)
    reader = reader_of(config.layout, task)
    # A descriptor's templates word the questions of its own task; another reader's are worded in another way.
    own_template = config.template if reader is reader_of(config.layout, config.task) else None
    template = entry.template or own_template or reader.default_template
    if entry.annotations is not None:
        return Located(
            id=own_id,
            config=config,
            split=split,
            task=task,
            annotations=find_from(Path(), entry.annotations),
            image_root=find_from(Path(), entry.images or "."),
            template=template,
        )
    given = config.splits.get(split) if entry.form != "original" else None
    original = config.original.splits.get(split) if config.original and entry.form != "reworked" else None
    if config.original and original and (given is None or _only_original(root, given.annotations, original)):
        source = _source(config, config.original, original, root)
        return Located(
            id=own_id,
            config=config,
            split=split,
            task=task,
            annotations=source.annotations,
            image_root=root,
            template=template,
            original=source,
            count=original.count,
            sentences=original.sentences,
        )
    reworked = config.splits[split]
    return Located(
        id=own_id,
        config=config,
        split=split,
        task=task,
        annotations=find_from(root, reworked.annotations),
        image_root=find_from(root, reworked.images),
        template=template,
        count=reworked.count,
        about=reworked.about,
        other=find_from(root, original.annotations) if original else None,
    )


def _choose_split(own_id: str, config: DatasetConfig, entry: DatasetEntry) -> tuple[str, list[str]]:
    """Return the split that ``entry`` means, and what is wrong with it."""
    known = _splits(config, entry.form)
    split = entry.split or ("train" if "train" in known else next(iter(known), ""))
    if entry.form is not None and not known:
        return split, [f"form: {own_id} has no {entry.form} files{_other_form(entry.form)}"]
    if split not in known:
        return split, [f"split: no split '{split}'{did_you_mean(split, known)}"]
    if entry.split is None and split != "train" and len(known) > 1:
        return split, [f"split: say which one; known: {', '.join(known)}"]
    return split, []


def _splits(config: DatasetConfig, form: Form | None) -> list[str]:
    """Return the names of the splits in the files of ``form``, or in either."""
    reworked = list(config.splits) if form != "original" else []
    original = list(config.original.splits) if config.original is not None and form != "reworked" else []
    return list(dict.fromkeys([*reworked, *original]))


def _other_form(form: Form) -> str:
    return f"; it has {'original' if form == 'reworked' else 'reworked'} ones"


def _only_original(root: Path, reworked: str, original: OriginalSplit) -> bool:
    given = find_from(root, reworked)
    return not given.exists() and not are_shards(given) and find_from(root, original.annotations).exists()


def _source(config: DatasetConfig, files: OriginalConfig, split: OriginalSplit, root: Path) -> OriginalSource:
    return OriginalSource(
        kind=files.kind,
        root=root,
        annotations=find_from(root, split.annotations),
        images=split.images,
        companion=find_from(root, split.companion) if split.companion else None,
        part=split.part,
        first_text=split.first_text,
        classes=tuple(config.classes) if files.kind == "label_folders" else (),
        label_offset=config.label_offset,
        ignore_label=config.ignore_label,
        leave_out=frozenset(files.leave_out),
    )


def _entry_problems(config: DatasetConfig, entry: DatasetEntry) -> Collection[str]:
    problems = []
    if entry.task is not None and entry.task not in tasks_of(config.layout):
        problems.append(f"task: {_unfit(config.layout, entry.task)}")
    elif entry.task is not None and entry.task != "rec" and config.boxes_only:
        problems.append(f"task: this dataset has boxes and no masks; it serves rec, not '{entry.task}'")
    if entry.images is not None and entry.annotations is None:
        problems.append("images: means nothing without annotations")
    if entry.annotations is not None and (entry.form == "original" or entry.data_root is not None):
        problems.append("annotations: names the file itself; leave form and data_root out")
    if entry.turns < 0:
        problems.append("turns: has to be 0 (all) or more")
    if entry.limit is not None and entry.limit < 1:
        problems.append("limit: has to be 1 or more")
    if entry.group == "image" and not reader_of(config.layout).grouped:
        able = ", ".join(name for name in layout_names() if reader_of(name).grouped)
        problems.append(f"group: 'image' is for the layouts {able}; this is {config.layout}")
    return [*problems, *_class_problems(config, entry)]


def _class_problems(config: DatasetConfig, entry: DatasetEntry) -> list[str]:
    """Return why ``min_area``, ``absent`` and ``absent_as`` of an entry mean nothing for the dataset."""
    task = entry.task or config.task
    given = [name for name in ("min_area", "absent") if getattr(entry, name) is not None]
    if task in tasks_of(config.layout) and given and not reader_of(config.layout, task).names_classes:
        able = ", ".join(f"{reader.layout} ({' and '.join(reader.tasks)})" for reader in CLASS_READERS)
        return [f"{name}: is for questions about classes: {able}; this is {config.layout} ({task})" for name in given]
    if entry.absent_as is not None:
        reader = reader_of(config.layout, task)
        if not reader.speaks_of_absent or (reader.names_classes and not entry.absent):
            return ["absent_as: no question of this entry is about what is not there (absent: 0.25 asks such)"]
        if entry.absent_as == "empty_mask" and task != "res":
            return [f"absent_as: an empty mask answers questions of the task 'res', and this is '{task}'"]
    if entry.absent and not config.exhaustive:
        return ["absent: the annotations leave things out (exhaustive: false), so nothing can be said to be absent"]
    return []


def _unfit(layout: str, task: str) -> str:
    return f"layout {layout} serves {', '.join(tasks_of(layout))}, not '{task}'"
