"""``datasets/<id>/dataset.yaml`` and an entry of a recipe, brought together: which files, which split, which words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ullava.config.load import load_config
from ullava.config.schema import DatasetConfig, DatasetEntry
from ullava.errors import ConfigError, did_you_mean
from ullava.resources import find
from ullava.structures import Task

LAYOUT_TASKS: dict[str, tuple[Task, ...]] = {
    "refer": ("res", "rec"),
    "grefer": ("res", "rec"),
    "regions": ("res", "rec"),
    "label_png": ("semantic",),
    "coco_instances": ("instance",),
    "salient_png": ("salient",),
    "llava_json": ("text", "caption", "vqa"),
}
LAYOUT_TEMPLATES: dict[str, str | None] = {
    "refer": "SEG.json",
    "grefer": "SEG.json",
    "regions": "SEG.json",
    "label_png": "CLS.json",
    "coco_instances": "INST.json",
    "salient_png": "SS.json",
    "llava_json": None,
}
GROUPED_LAYOUTS = ("refer", "grefer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A dataset's part in a recipe with everything decided and every path made whole; nothing was opened yet."""

    id: str
    config: DatasetConfig
    split: str
    task: Task
    annotations: Path
    image_root: Path
    template: str | None


def load_descriptor(dataset_id: str) -> tuple[str, DatasetConfig]:
    """Return the dataset's own id (``refcoco+`` is ``refcoco_plus``) and its descriptor; raises UserError."""
    path = find("datasets", dataset_id)
    config = load_config(DatasetConfig, path)
    if config.task not in LAYOUT_TASKS[config.layout]:
        raise ConfigError(f"{path}: task: {_unfit(config.layout, config.task)}")
    return path.parent.name, config


def locate(dataset_id: str, entry: DatasetEntry, data_root: Path) -> Located:
    """Decide split, task, template and paths for ``entry``; raises ConfigError for what does not fit together.

    The split is the entry's, else ``train``, else the only one there is. ``entry.data_root`` wins over ``data_root``.
    """
    own_id, config = load_descriptor(dataset_id)
    problems = list(_entry_problems(config, entry))
    split = entry.split or ("train" if "train" in config.splits else next(iter(config.splits), ""))
    if split not in config.splits:
        problems.append(f"split: no split '{split}'{did_you_mean(split, config.splits)}")
    elif entry.split is None and split != "train" and len(config.splits) > 1:
        problems.append(f"split: say which one; known: {', '.join(config.splits)}")
    if problems:
        raise ConfigError([f"dataset {dataset_id}: {problem}" for problem in problems])
    root = Path(entry.data_root) if entry.data_root else data_root
    return Located(
        id=own_id,
        config=config,
        split=split,
        task=cast(Task, entry.task or config.task),
        annotations=root / config.splits[split].annotations,
        image_root=root / config.splits[split].images,
        template=entry.template or config.template or LAYOUT_TEMPLATES[config.layout],
    )


def _entry_problems(config: DatasetConfig, entry: DatasetEntry) -> Collection[str]:
    problems = []
    if entry.task is not None and entry.task not in LAYOUT_TASKS[config.layout]:
        problems.append(f"task: {_unfit(config.layout, entry.task)}")
    if entry.turns < 0:
        problems.append("turns: has to be 0 (all) or more")
    if entry.limit is not None and entry.limit < 1:
        problems.append("limit: has to be 1 or more")
    if entry.group == "image" and config.layout not in GROUPED_LAYOUTS:
        problems.append(f"group: 'image' is for the layouts {', '.join(GROUPED_LAYOUTS)}; this is {config.layout}")
    return problems


def _unfit(layout: str, task: str) -> str:
    return f"layout {layout} serves {', '.join(LAYOUT_TASKS[layout])}, not '{task}'"
