"""The JSON files of a saved model, looked at before and after anything is built of them.

``save_pretrained`` wrote every value; one that is missing, of another type, or that contradicts another file would be
replaced by a default or be used as it is, and the model would answer something else without a word.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import transformers

from ullava.config.load import field_problems
from ullava.config.renamed import current_saved
from ullava.config.schema import BoxHeadConfig, CoreConfig, MaskHeadConfig, ModelConfig, TextConfig
from ullava.config.vision import SETTINGS, PartConfig, RegionConfig, VisionConfig
from ullava.errors import UserError, did_you_mean
from ullava.given_files import read_plain_text
from ullava.modeling.configuration import UllavaConfig, foreign_keys
from ullava.modeling.construction.build import MASK_CHOICES, processor_facts
from ullava.modeling.construction.trial import system_volume, try_network
from ullava.modeling.heads.mask_table import MASK_HEADS, mask_row
from ullava.modeling.loading.pretrained import (
    CONFIG_FILE,
    GENERATION_FILE,
    PROCESSOR_FILE,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    VOCABULARY_FILES,
    check_depth,
    check_files,
    check_volume,
    read_processor,
    read_tokenizer,
    reading,
)
from ullava.modeling.loading.template_files import template_problems
from ullava.modeling.loading.weight_files import Stored, read_shapes, read_table
from ullava.modeling.mask_cut import RULES
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.text.conversation import turn_end_ids
from ullava.text.tokens import special_token_ids

LATER_KEYS = frozenset(
    {
        "pretrained", "mask_kind", "mask_encoder", "sam2_config", "edgetam_config", "presence_scale", "presence_shift",
        "mask_threshold", "grounding_layer", "core_kind", "core", "region_grid", "region_patch_id", "sam2_video_config",
        "edgetam_video_config", "mask_rule", "mask_peak_gap", "mask_repeat_prompt", "sam3_tracker_config",
    }
)  # fmt: skip
"""Keys of a saved config or processor that folders of before they existed lack."""
HEADS = (
    "sam_config", "sam2_config", "edgetam_config", "sam3_tracker_config", "sam2_video_config", "edgetam_video_config",
    "detector_config",
)  # fmt: skip
PARTS = ("text_config", "vision_config", "native_config", *HEADS)
"""Tables of a saved config; those of ``HEADS`` are null where the model has no such head."""
CHOICES: Mapping[str, tuple[type[Any], str]] = {
    **{
        key: (VisionConfig, key)
        for key in (
            "strategy",
            "vision_feature_layer",
            "projector",
            "image_aspect_ratio",
            "spatial_merge_size",
            "video_frames",
        )
    },
    "core_kind": (CoreConfig, "kind"),
    "head_state": (ModelConfig, "head_state"),
    "grounding_layer": (ModelConfig, "grounding_layer"),
    "marker_gradient_only": (ModelConfig, "marker_gradient_only"),
    **{f"mask_{key}": (MaskHeadConfig, key) for key in MASK_CHOICES},
    **{f"box_{key}": (BoxHeadConfig, key) for key in ("kind", "width", "frame", "sigmoid")},
    "max_text_length": (TextConfig, "max_length"),
}
"""Key of ``config.json`` -> the field of ``model.yaml`` that it was, whose type and bounds are its own."""
SEPARATOR = "separator_id"
"""The key that strategy slime's table has beside its own (ullava.modeling.vision.strategies.word_ids)."""
NOTED = frozenset({"transformers_version", "dtype", "architectures", "_name_or_path"})
"""Keys of a part that are notes, not choices."""
WORDS = ("system", "answer", "as_released", "max_length")
"""Keys of ``processor_config.json`` that are fields of TextConfig."""


def read_saved_config(folder: Path) -> UllavaConfig:
    """The config of a folder that ``save_pretrained`` wrote.

    Raises UserError with a line for each key that is missing, unknown to its table, or of a wrong type or value.
    """
    check_files(folder, (CONFIG_FILE,))
    file = folder / CONFIG_FILE
    table = current_saved(read_table(file))
    if table.get("model_type") != UllavaConfig.model_type:
        raise UserError(f"{file}: model_type: '{table.get('model_type')}', not '{UllavaConfig.model_type}'")
    own = _arguments(UllavaConfig) - foreign_keys(str(table.get("core_kind", "spliced")))
    problems = [f"{file}: {key}: is missing" for key in own - table.keys() - LATER_KEYS]
    if table.get("region_grid") is not None:
        problems += field_problems(RegionConfig, "grid", table["region_grid"], str(file), "region_grid")
    for key, (cls, field) in CHOICES.items():
        if key in table:
            problems += field_problems(cls, field, table[key], str(file), key)
    problems += [
        f"{file}: {key}: expected keys with values, model_type among them"
        for key in PARTS
        if key in table and not _is_part(table[key]) and not (key in HEADS and table[key] is None)
    ]
    problems += [
        f"{file}: {key}: expected a whole number or null, got {table[key]!r}"
        for key in sorted(own | {"pad_token_id", "bos_token_id", "eos_token_id"})
        if key.endswith("_id") and not _is_id(table.get(key))
    ]
    problems += [
        f"{file}: {key}: expected a number{' above 0' if low == 0 else ''}, got {table[key]!r}"
        for key, low in (("presence_scale", 0.0), ("presence_shift", -math.inf), ("mask_threshold", -math.inf))
        if key in table and not _is_above(table[key], low)
    ]
    if table.get("mask_peak_gap") is not None and not _is_above(table["mask_peak_gap"], 0.0):
        problems.append(f"{file}: mask_peak_gap: expected a number above 0 or null, got {table['mask_peak_gap']!r}")
    if table.get("mask_rule", RULES[0]) not in RULES:
        problems.append(f"{file}: mask_rule: '{table['mask_rule']}'{did_you_mean(str(table['mask_rule']), RULES)}")
    if not problems:
        problems += _settings_problems(table, str(file)) if "strategy" in own else []
        problems += _mask_problems(table, str(file))
    if problems:
        raise UserError(sorted(problems))
    with reading(file):
        config: UllavaConfig = UllavaConfig.from_dict(table)
    _check_complete(config, table, file)
    return config


def check_fit(config: UllavaConfig, folder: Path, shapes: Mapping[str, Stored] | None = None) -> None:
    """Refuse a config that does not hold together, or whose network is much larger than the weights beside it.

    ``shapes``: those of the weights, where they are not all in ``folder``.

    Raises UserError for sizes that no network can be made of, WeightsError for sizes that the weights cannot have.
    """
    shapes = read_shapes(folder) if shapes is None else shapes
    check_depth(config.to_dict(), len(shapes), folder)
    with reading(folder / CONFIG_FILE):
        for part in config.networks():
            try_network(part)
        asked = system_volume(config).values
    check_volume(asked, {name: stored.shape for name, stored in shapes.items()}, folder)


def read_saved_processor(folder: Path, config: UllavaConfig) -> UllavaProcessor:
    """The processor in ``folder``, beside a model of ``config``.

    Raises UserError with a line for each value that is missing, of a wrong type, or not the model's.
    """
    file = folder / PROCESSOR_FILE
    table = current_saved(read_table(file))
    saved = _arguments(UllavaProcessor) - _NOT_SAVED
    problems = [f"{file}: {key}: is missing" for key in saved - table.keys() - LATER_KEYS]
    wanted = processor_facts(config)
    problems += [
        f"{file}: {key}: {table[key]!r}, but {CONFIG_FILE} says {value!r}"
        for key, value in wanted.items()
        if key in table and table[key] != value
    ]
    for key in WORDS:
        problems += field_problems(TextConfig, key, table[key], str(file), key) if key in table else []
    problems += _box_problems(table.get("box"), config, str(file))
    problems += _template_problems(folder / TEMPLATE_FILE)
    if problems:
        raise UserError(sorted(problems))
    _check_tokenizer(read_tokenizer(folder), config, folder)
    processor: UllavaProcessor = read_processor(folder, UllavaProcessor)
    if (found := processor.token_ids["image_patch_id"]) != config.image_patch_id:
        raise UserError(f"{folder}: image_patch_id: {found} in the processor, {config.image_patch_id} in {CONFIG_FILE}")
    return processor


def check_ends(model: UllavaForConditionalGeneration, processor: UllavaProcessor, folder: Path) -> None:
    """Refuse generation settings that do not know where an answer ends (UserError)."""
    read_table(folder / GENERATION_FILE)  # without the file, transformers would make settings up
    ends = model.generation_config.eos_token_id
    wanted = turn_end_ids(processor.tokenizer, processor.chat_template)
    if not set(wanted) <= set(ends if isinstance(ends, list) else [ends]):
        raise UserError(f"{folder / GENERATION_FILE}: eos_token_id: {ends}, but answers end with {wanted}")


_NOT_SAVED = frozenset({"tokenizer", "chat_template"})


def _arguments(cls: type[Any]) -> set[str]:
    """The named arguments of a class: what it saves."""
    named = inspect.signature(cls.__init__).parameters.values()
    return {entry.name for entry in named if entry.kind is not entry.VAR_KEYWORD} - {"self"}


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("model_type"), str)


def _is_above(value: Any, low: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low < value and abs(value) <= sys.float_info.max


def _is_id(value: Any) -> bool:
    return value is None or isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _mask_problems(table: Mapping[str, Any], file: str) -> list[str]:
    """What is wrong with the choice of a mask head: its sizes are not there, or those of another kind are."""
    kind, encoder = table.get("mask_kind", "sam"), table.get("mask_encoder", "own")
    try:
        row = mask_row(kind, encoder)
    except UserError as error:
        return [f"{file}: mask_encoder: {problem}" for problem in error.problems]
    problems = [
        f"{file}: {part}: {'is missing' if part == row.part else 'is there'}, but the mask head is a {kind}"
        for part in {entry.part for entry in MASK_HEADS.values()}
        if (part == row.part) == (table.get(part) is None)
    ]
    found, wanted = (table.get(row.part) or {}).get("model_type"), row.config.model_type
    if found not in (None, wanted):
        problems.append(
            f"{file}: {row.part}.model_type: a '{found}', but with mask_encoder {encoder} it is a '{wanted}'"
        )
    if missing := row.lacks():
        problems.append(f"{file}: mask_kind: {kind} {missing}")
    return problems


def _settings_problems(table: Mapping[str, Any], file: str) -> list[str]:
    """What is wrong with the strategy's own table."""
    cls, settings = SETTINGS[table["strategy"]], table["vision_settings"]
    if not isinstance(settings, dict):
        return [f"{file}: vision_settings: expected keys with values"]
    known = {entry.name: entry for entry in fields(cls)}
    problems = [
        f"{file}: vision_settings.{key}: unknown key{did_you_mean(key, known)}"
        for key in settings.keys() - known.keys() - {SEPARATOR}
    ]
    if table["strategy"] == "slime" and (settings.get(SEPARATOR) is None or not _is_id(settings[SEPARATOR])):
        problems.append(f"{file}: vision_settings.{SEPARATOR}: expected the number of a token")
    for key, value in settings.items():
        if key not in known:
            continue
        dotted = f"vision_settings.{key}"
        if get_type_hints(cls)[key] is PartConfig:
            if not _is_part(value):
                problems.append(f"{file}: {dotted}: expected keys with values, model_type among them")
        else:
            problems += field_problems(cls, key, value, file, dotted)
    return problems


def _check_complete(config: UllavaConfig, table: Mapping[str, Any], file: Path) -> None:
    """Refuse a part that lost a key; another release of transformers may know keys that the writing one did not."""
    if table.get("transformers_version") != transformers.__version__:
        return
    made = config.to_dict()
    problems = [
        f"{file}: {dotted}: is missing"
        for part in PARTS
        if isinstance(made.get(part), dict)
        for dotted in _lost(made[part], table[part], part)
    ]
    if problems:
        raise UserError(problems)


def _lost(made: Mapping[Any, Any], found: Mapping[str, Any], dotted: str) -> Iterator[str]:
    for key, value in made.items():
        if not isinstance(key, str) or key in NOTED:
            continue
        if key not in found:
            yield f"{dotted}.{key}"
        elif isinstance(value, dict) and isinstance(found[key], dict):
            yield from _lost(value, found[key], f"{dotted}.{key}")


def _box_problems(box: Any, config: UllavaConfig, file: str) -> list[str]:
    """What is wrong with the settings of the box head's rules (ullava.modeling.heads.box_table.box_settings)."""
    if not isinstance(box, dict) or box.get("kind") != config.box_kind:
        return [f"{file}: box: expected settings of kind '{config.box_kind}', as {CONFIG_FILE} says"]
    if config.box_kind in ("regression", "mask"):
        return []
    sides = box.get("sides")
    if not isinstance(sides, list) or len(sides) != 2:
        return [f"{file}: box.sides: expected two whole numbers"]
    problems = field_problems(BoxHeadConfig, "short_side", sides[0], file, "box.sides[0]")
    problems += field_problems(BoxHeadConfig, "long_side", sides[1], file, "box.sides[1]")
    if config.box_kind == "grounding_dino_phrase":
        for key in ("box_threshold", "text_threshold"):
            problems += field_problems(BoxHeadConfig, key, box.get(key), file, f"box.{key}")
        longest = int(config.detector_config.max_text_len) if config.detector_config is not None else None
        if box.get("max_tokens") != longest:
            problems.append(f"{file}: box.max_tokens: {box.get('max_tokens')!r}, but the detector reads {longest}")
    return problems


def _check_tokenizer(tokenizer: Any, config: UllavaConfig, folder: Path) -> None:
    """Refuse a tokenizer whose words are not numbered as the model's are."""
    words = folder / VOCABULARY_FILES[0]
    try:
        ids = special_token_ids(tokenizer, media=config.core_kind == "spliced", regions=config.region_grid is not None)
    except UserError as error:
        raise UserError([f"{words}: {problem}" for problem in error.problems]) from error
    problems = [
        f"{words}: {key}: the tokenizer has {number}, {CONFIG_FILE} {getattr(config, key)}"
        for key, number in ids.items()
        if getattr(config, key) != number
    ]
    rows = int(config.text_config.vocab_size)
    if len(tokenizer) > rows:
        problems.append(f"{words}: {len(tokenizer)} tokens, but the model has {rows} rows")
    for key in ("pad_token", "bos_token", "eos_token"):
        found, wanted = getattr(tokenizer, f"{key}_id"), getattr(config, f"{key}_id")
        if found != wanted:
            problems.append(f"{folder / TOKENIZER_CONFIG_FILE}: {key}: number {found}, but {CONFIG_FILE} has {wanted}")
    if problems:
        raise UserError(problems)


def _template_problems(file: Path) -> list[str]:
    """What is wrong with a conversation format: it is not there, or does not write down what is asked."""
    try:
        return template_problems(file, read_plain_text(file))
    except UserError as error:
        return list(error.problems)
