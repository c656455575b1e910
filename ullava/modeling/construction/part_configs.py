"""``config:`` tables of a ``model.yaml`` -> configs of transformers that a network can be made of.

transformers keeps any key that a config is given, and finds many wrong values only when it multiplies. So each table
is checked here before a weight is made: names, types, signs and sizes of the values, then the network itself, built
without memory and run once on nothing (on the meta device). A problem names file, line and key.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import CONFIG_MAPPING, PreTrainedConfig

from ullava.config.nodes import shortened
from ullava.config.schema import LanguageConfig, PartConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, did_you_mean
from ullava.hub import find_folder
from ullava.modeling.construction.trial import LANGUAGES, LIBRARY_ERRORS, TrialError, reason_of, try_network
from ullava.modeling.loading.language_layers import COUNT, first_layers
from ullava.modeling.loading.pretrained import read_config

MAX_SIZE = 1 << 27
"""Larger than any width, vocabulary or number of positions there is."""
MAX_COUNT = 1 << 10
"""Larger than any number of layers there is: each is an object of Python, even without memory for its weights."""
_COUNTS = re.compile(r"(^|_)(layers?|depths?|stages?|levels?|points|outputs|experts|point_embeddings)($|_)")
_SHARES = re.compile(r"(dropout|drop_?path|layerdrop)")
_SMALL_AND_POSITIVE = re.compile(r"(_eps|_epsilon|rope_theta)$")
_PLACES = re.compile(r"(indexes|indices|_ids?|attention_blocks|top_down_levels)$")
_WIDTHS_AND_HEADS = (
    ("hidden_size", "num_attention_heads"),
    ("d_model", "encoder_attention_heads"),
    ("d_model", "decoder_attention_heads"),
)
_MAY_BE_ZERO = {"window_size", "chunk_size_feed_forward", "num_multimask_outputs"}
_FREE = {"dtype", "attn_implementation"}

_SOUND: set[str] = set()
"""Tables whose keys and values were found right before in this process, each with the kind of its config."""

Path_ = tuple[str, ...]
Build = Callable[[Mapping[str, Any]], PreTrainedConfig]


def part_config(
    part: PartConfig,
    folder: Path,
    site: Site,
    kinds: Sequence[type[PreTrainedConfig]] = (),
    among: Collection[str] = CONFIG_MAPPING,
) -> PreTrainedConfig:
    """Return the transformers config of one part; ``model_type`` says which of ``kinds`` it is (the first by default).

    Without ``kinds`` it has to name one of ``among``.

    With a path, ``part.config`` changes single values of what lies there.

    Raises ConfigError, which names ``site``, for a path that is not there, for keys that the kind does not have, and
    for values that no network can be made of.
    """
    if part.path:
        path = find_folder(part.path, folder, str(site.of("path")), revision=part.revision, weights=False)
        stored = _in_float32(read_config(path, kinds))
        if not kinds and stored.model_type not in among:
            raise ConfigError(f"{site.of('path')}: {_unknown_kind(stored.model_type, among)}")
        if not part.config:
            return stored
        base, found = stored.to_dict(), type(stored)
        if part.config.get("model_type", found.model_type) != found.model_type:
            given = shortened(str(part.config["model_type"]))
            raise ConfigError(f"{site.of('config.model_type')}: '{given}', but {path} holds a '{found.model_type}'")
        return _checked(found, part.config, site.of("config"), lambda table: found(**{**base, **table}))
    table = dict(part.config)
    known = [kind.model_type for kind in kinds] or among
    name = table.pop("model_type", kinds[0].model_type if kinds else None)
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{site.of('config.model_type')}: {_unknown_kind(name, known)}")
    kind = next((kind for kind in kinds if kind.model_type == name), None) or CONFIG_MAPPING[name]
    return _checked(kind, table, site.of("config"), lambda table: kind(**table))


def language_config(part: LanguageConfig, folder: Path, site: Site) -> PreTrainedConfig:
    """The config of the language part (see ``part_config``), of its first ``num_layers`` layers where that is set.

    Raises ConfigError as ``part_config``, and at ``site``'s ``num_layers`` for more layers than the part has.
    """
    config = part_config(part, folder, site, among=LANGUAGES)
    if part.dtype != "float32":
        config.dtype = part.dtype
    if part.num_layers is None:
        return config
    found = getattr(config, COUNT, None)
    if not isinstance(found, int) or part.num_layers > found:
        has = f"the part has {found}" if isinstance(found, int) else f"a '{config.model_type}' does not say {COUNT}"
        raise ConfigError(f"{site.of('num_layers')}: {part.num_layers} layers, but {has}")
    return first_layers(config, part.num_layers)


def _in_float32(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config without the type that its weights are stored in: models are built, and trained, in float32."""
    config.dtype = None
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            _in_float32(value)
    return config


def _unknown_kind(name: Any, known: Collection[str]) -> str:
    return f"unknown '{shortened(str(name))}'{did_you_mean(str(name), known)}"


def _checked(kind: type[PreTrainedConfig], table: dict[str, Any], site: Site, build: Build) -> PreTrainedConfig:
    """Return the config that ``build`` makes of ``table``, or raise ConfigError for all that is wrong with it."""
    known = f"{kind.__module__}.{kind.__qualname__} {table!r}"
    if known not in _SOUND:
        problems = _key_problems(kind, table, site)
        for check in (_value_problems, _pair_problems):
            if not problems:
                problems = [f"{site.of('.'.join(path))}: {why}" for path, why in check(table, kind)]
        if problems:
            raise ConfigError(problems)
        _SOUND.add(known)
    try:
        return _tried(build, table)
    except TrialError as error:
        raise ConfigError(f"{site.of(error.key) if error.key else site}: {error}") from error
    except LIBRARY_ERRORS as error:
        raise ConfigError(_blame(build, table, site, error)) from error


def _tried(build: Build, table: dict[str, Any]) -> PreTrainedConfig:
    config = build(copy.deepcopy(table))
    try_network(config)
    return config


def _blame(build: Build, table: dict[str, Any], site: Site, error: BaseException) -> str:
    """Say which keys do not go together: those without which there is a network."""
    guilty = []
    for path, _ in _leaves(table):
        try:
            _tried(build, _without(table, path))
        except LIBRARY_ERRORS:
            continue
        guilty.append(path)
    if not guilty:
        return f"{site}: no network can be made of these values ({reason_of(error)})"
    named = ", ".join(f"{'.'.join(path)} {shortened(str(_at(table, path)))}" for path in guilty[1:6])
    beside = f"does not go with {named}" if named else "no network can be made with it"
    return f"{site.of('.'.join(guilty[0]))}: {shortened(str(_at(table, guilty[0])))}: {beside} ({reason_of(error)})"


def _key_problems(kind: type[PreTrainedConfig], table: Mapping[str, Any], site: Site) -> list[str]:
    """Refuse keys that the kind does not have, in the table and in the tables within it."""
    defaults = kind()
    known = set(defaults.to_dict()) | _FREE
    problems = [f"{site.of(key)}: unknown key{did_you_mean(key, known)}" for key in table if key not in known]
    for key, value in table.items():
        nested = getattr(defaults, key, None)
        if not isinstance(nested, PreTrainedConfig):
            continue
        if not isinstance(value, dict):
            problems.append(f"{site.of(key)}: expected keys with values, got {shortened(str(value))}")
            continue
        name = value.get("model_type", nested.model_type)
        if name != nested.model_type and (not isinstance(name, str) or name not in CONFIG_MAPPING):
            problems.append(f"{site.of(key).of('model_type')}: {_unknown_kind(name, CONFIG_MAPPING)}")
            continue
        problems += _key_problems(_kind_of(nested, value), value, site.of(key))
    return problems


def _kind_of(nested: PreTrainedConfig, table: Mapping[str, Any]) -> type[PreTrainedConfig]:
    """The class of a table within; parts of SAM have no name of their own in transformers 5.17."""
    name = table.get("model_type", nested.model_type)
    found: type[PreTrainedConfig] = type(nested) if name == nested.model_type else CONFIG_MAPPING[name]
    return found


def _value_problems(table: Mapping[str, Any], kind: type[PreTrainedConfig]) -> list[tuple[Path_, str]]:
    """Say which single values cannot be, beside the default of the same key."""
    defaults = kind()
    problems: list[tuple[Path_, str]] = []
    for key, value in table.items():
        default = getattr(defaults, key, None)
        if isinstance(default, PreTrainedConfig) and isinstance(value, dict):
            inner = _value_problems(value, _kind_of(default, value))
            problems += [((key, *path), why) for path, why in inner]
            continue
        why = _range_problem(key, value, default) or _type_problem(kind, key, value)
        if why:
            problems.append(((key,), why))
    return problems


def _pair_problems(table: Mapping[str, Any], kind: type[PreTrainedConfig]) -> list[tuple[Path_, str]]:
    """Say which numbers of heads do not divide a width, and which lists by stage are not equally long."""
    defaults = kind()
    problems: list[tuple[Path_, str]] = []

    def value(key: str) -> Any:
        return table.get(key, getattr(defaults, key, None))

    for width, heads in _WIDTHS_AND_HEADS:
        # Where a head's width has a default of its own, as in Gemma, heads need not divide the model's.
        own = table.get("head_dim", getattr(kind, "head_dim", None))
        free = own is not None and (width, heads) == _WIDTHS_AND_HEADS[0]
        sizes = value(width), value(heads)
        if (width in table or heads in table) and not free and all(isinstance(size, int) for size in sizes):
            if sizes[0] % sizes[1]:
                key = heads if heads in table else width
                problems.append(((key,), f"{sizes[1]} heads do not divide {width} {sizes[0]}"))
    stages = value("depths")
    for key in ("num_heads", "hidden_sizes", "strides", "kernel_sizes", "expand_ratios"):
        if isinstance(stages, list) and isinstance(value(key), list) and len(stages) != len(value(key)):
            at = key if key in table else "depths"
            if at in table:
                problems.append(((at,), f"{len(value(key))} {key} for {len(stages)} depths"))
    for key, inner in table.items():
        nested = getattr(defaults, key, None)
        if isinstance(nested, PreTrainedConfig) and isinstance(inner, dict):
            problems += [((key, *path), why) for path, why in _pair_problems(inner, _kind_of(nested, inner))]
    return problems


def _type_problem(kind: type[PreTrainedConfig], key: str, value: Any) -> str:
    """Ask transformers about the type of one value; what it says of the value beside the defaults does not count."""
    try:
        kind(**{key: copy.deepcopy(value)})
    except StrictDataclassFieldValidationError as error:
        return reason_of(error)
    except LIBRARY_ERRORS:
        return ""
    return ""


def _range_problem(key: str, value: Any, default: Any) -> str:
    """Say why a number, or one of a list, cannot be the value of ``key``."""
    if isinstance(value, dict):
        found = (_range_problem(inner, item, None) for inner, item in value.items())
        return next((why for why in found if why), "")
    if isinstance(value, list | tuple):
        if len(value) > MAX_COUNT:
            return f"a list of {len(value)} values"
        like = default[0] if isinstance(default, list | tuple) and default else None
        return next((why for why in (_range_problem(key, item, like) for item in value) if why), "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not abs(value) <= sys.float_info.max:  # isfinite fails on whole numbers beyond it
        return f"has to be a finite number, not {value}"
    largest = MAX_COUNT if _COUNTS.search(key) else MAX_SIZE
    if abs(value) > largest and not (isinstance(value, float) and _SMALL_AND_POSITIVE.search(key)):
        return f"{value} is too large: {largest} at most"
    if _SHARES.search(key) and not 0 <= value < 1:
        return f"has to be 0 or more and below 1, not {value}"
    if _SMALL_AND_POSITIVE.search(key) and value <= 0:
        return f"has to be above 0, not {value}"
    if isinstance(default, bool) or not isinstance(default, int | float) or _PLACES.search(key):
        return ""
    if isinstance(default, int) and default > 0 and value < 1 and key not in _MAY_BE_ZERO:
        return f"has to be 1 or more, not {value}"
    return f"has to be 0 or more, not {value}" if default >= 0 and value < 0 else ""


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[Path_, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from (((key, *path), leaf) for path, leaf in _leaves(value))
        else:
            yield (key,), value


def _without(table: Mapping[str, Any], path: Path_) -> dict[str, Any]:
    kept = dict(table)
    if len(path) == 1:
        del kept[path[0]]
    else:
        kept[path[0]] = _without(kept[path[0]], path[1:])
    return kept


def _at(table: Any, path: Path_) -> Any:
    for key in path:
        table = table[key]
    return table
