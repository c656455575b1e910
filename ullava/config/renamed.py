"""Names of before: keys, flags and commands that were renamed, read in this release with a line that names the new one.

``KEYS`` is the one table of keys of YAML files and overrides, ``SAVED_KEYS`` of files that ``save_pretrained`` wrote,
``FLAGS`` and ``COMMANDS`` of command lines. docs/glossary.md lists the words behind them. Files that the program wrote
(saved models) are read without a word: nobody can mend them by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ullava.config.nodes import Node

NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RenamedKey:
    """``old``: the dotted key below a class of ``ullava.config``, its parents by their new names, ``*`` any key.

    ``new``: the last part of its new name; ``values``: values that were renamed with it, by how YAML writes them.
    """

    config: str
    old: str
    new: str
    values: Mapping[str, str] = field(default_factory=lambda: NONE)

    def parents(self) -> tuple[str, ...]:
        """The keys on the way to the renamed one."""
        return tuple(self.old.split(".")[:-1])

    def name(self) -> str:
        """What the key was called."""
        return self.old.rpartition(".")[2]


_VISION = (
    ("aspect", "image_aspect_ratio"),
    ("hidden_layer", "vision_feature_layer"),
    ("merge", "spatial_merge_size"),
    ("slime.gamma", "top_p"),
    ("slime.gamma_floor", "min_top_p"),
    ("slime.tau", "temperature"),
    ("avg.canvases", "image_grid_pinpoints"),
)
_SETTINGS = (
    ("gamma", "top_p"),
    ("gamma_floor", "min_top_p"),
    ("tau", "temperature"),
    ("canvases", "image_grid_pinpoints"),
)
"""Those of a strategy's own table, where it stands by itself."""

KEYS: tuple[RenamedKey, ...] = (
    *(RenamedKey("ModelConfig", f"vision.{old}", new) for old, new in _VISION),
    RenamedKey("DatasetConfig", "licence", "license"),
    RenamedKey("TrainRecipe", "attention", "attn_implementation"),
    RenamedKey("TrainRecipe", "grouping", "group_by_modality_length", {"modality_length": "true", "none": "false"}),
    RenamedKey("TrainRecipe", "tokenised", "pretokenized"),
    RenamedKey("TrainRecipe", "heads", "reinit_heads", {"kept": "none", "fresh": "all", "fresh_box": "box"}),
    RenamedKey("TrainRecipe", "reinit_heads.aspect", "image_aspect_ratio"),
    RenamedKey("TrainRecipe", "optimizer.rates", "learning_rates"),
    *(RenamedKey("TrainRecipe", f"vision.{old}", new) for old, new in _SETTINGS),
    *(RenamedKey("TrainRecipe", f"system.vision.{old}", new) for old, new in _VISION),
    RenamedKey("HeadsConfig", "aspect", "image_aspect_ratio"),
    RenamedKey("EvalRecipe", "force", "overrides"),
    RenamedKey("EvalRecipe", "overrides.gamma", "top_p"),
    RenamedKey("CompareRecipe", "pictures", "images"),
    RenamedKey("CompareRecipe", "contenders.*.force", "overrides"),
    RenamedKey("CompareRecipe", "contenders.*.overrides.gamma", "top_p"),
    RenamedKey("OptimizerConfig", "rates", "learning_rates"),
    RenamedKey("VisionConfig", "aspect", "image_aspect_ratio"),
    RenamedKey("VisionConfig", "hidden_layer", "vision_feature_layer"),
    RenamedKey("VisionConfig", "merge", "spatial_merge_size"),
)

SAVED_KEYS: Mapping[str, str] = {
    "aspect": "image_aspect_ratio",
    "hidden_layer": "vision_feature_layer",
    "merge": "spatial_merge_size",
}
"""Of ``config.json`` and ``processor_config.json``."""
SAVED_TABLES = ("vision_settings", "settings")
"""Tables in those files that hold the settings of a strategy."""

FLAGS: Mapping[str, Mapping[str, str]] = {
    "predict": {"--force": "--override", "--prompts": "--input", "--words": "--classes"},
    "data boxes": {"--words": "--classes"},
    "data import": {"--licence": "--license"},
}
"""First words of a command line -> its flags of before."""
COMMANDS: Mapping[str, str] = {
    "convert front_end": "convert vision_encoder",
    "compare front_ends": "compare vision_encoders",
}
"""Other words of a command line; ``data draw`` stays beside ``data synth``."""
_told: set[str] = set()


def tell(where: str, old: str, new: str) -> None:
    """Print, once for each place, that ``old`` has another name now."""
    line = f"warning: {where}: '{old}' is called '{new}' now; this release still reads the old name"
    if line not in _told:
        _told.add(line)
        print(line, file=sys.stderr)


def current_keys(root: Node, config: str, problems: list[str], *, quiet: bool = False) -> Node:
    """Give the keys of a tree that is meant for the class ``config`` their new names, in place, and tell of each.

    A key that stands there by both names is a problem, and keeps the new one's value. ``quiet``: nobody is told.
    """
    for row in KEYS:
        if row.config == config:
            _rename(root, row, row.parents(), "", None if quiet else problems)
    return root


def _rename(node: Node, row: RenamedKey, parents: Sequence[str], dotted: str, problems: list[str] | None) -> None:
    if not isinstance(node.value, dict):
        return
    if parents:
        for key in list(node.value) if parents[0] == "*" else [parents[0]]:
            if key in node.value:
                _rename(node.value[key], row, parents[1:], f"{dotted}{key}.", problems)
        return
    old = row.name()
    if old not in node.value:
        return
    child = node.value[old]
    if row.new in node.value:
        if problems is not None:
            problems.append(f"{child.where}: {dotted}{old}: is the old name of {row.new}, which is given too")
        node.value.pop(old)
        return
    if problems is not None:
        tell(child.where, f"{dotted}{old}", f"{dotted}{row.new}")
    renamed = {(row.new if key == old else key): value for key, value in node.value.items()}
    renamed[row.new] = _current_value(child, row)
    node.value = renamed


def _current_value(child: Node, row: RenamedKey) -> Node:
    word = child.raw or str(child.value)
    if isinstance(child.value, dict | list) or word not in row.values:
        return child
    new = row.values[word]
    value: Any = {"true": True, "false": False}.get(new, new)
    return Node(child.where, value, new)


def current_override(path: Sequence[str], value: Node, config: str, problems: list[str]) -> tuple[list[str], Node]:
    """Return the keys and the value of one override ``a.b=value`` of the class ``config`` by their new names."""
    root = value
    for key in reversed(path):
        root = Node(value.where, {key: root})
    current_keys(root, config, problems)
    found: list[str] = []
    for _ in path:
        assert isinstance(root.value, dict)
        ((key, root),) = root.value.items()
        found.append(key)
    return found, root


def current_saved(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table that ``save_pretrained`` wrote, config or processor, with the keys that are used now."""
    made = {SAVED_KEYS.get(key, key): value for key, value in table.items()}
    names = dict(_SETTINGS)
    for key in SAVED_TABLES:
        if isinstance(made.get(key), dict):
            made[key] = {names.get(name, name): value for name, value in made[key].items()}
    return made


def current_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line (without the program's name) with the flags and commands that are used now."""
    words = list(arguments)
    for old, new in COMMANDS.items():
        if words[:2] == old.split():
            tell("command line", old, new)
            words[:2] = new.split()
    for place, word in enumerate(words):
        for command, flags in FLAGS.items():
            flag, equals, value = word.partition("=")
            if flag in flags and words[: len(command.split())] == command.split():
                tell("command line", flag, flags[flag])
                words[place] = flags[flag] + equals + value
    return words
