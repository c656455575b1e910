"""The one door to folders in transformers' form: configs, tokenizers, processors and networks.

Nothing in such a folder is run: one that wants its own Python (``auto_map``) is refused, whoever answers at the
terminal, and pickled weights are opened with PyTorch's restricted reader alone. Nothing is fetched here: a name of the
Hub has become a folder before (``ullava.hub``). What is wrong with a file is a UserError that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.utils import logging as transformers_logging

from ullava.errors import UserError, WeightsError, did_you_mean
from ullava.modeling.loading.weight_files import SAFE_FILE, SAFE_INDEX, read_shapes, read_table, short_reason

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
PROCESSOR_FILE = "processor_config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
ADAPTER_FILE = "adapter_config.json"
TEMPLATE_FILE = "chat_template.jinja"
PIECES_FILE = "tokenizer.model"
VOCABULARY_FILES = ("tokenizer.json", PIECES_FILE, "spiece.model", "vocab.json", "vocab.txt")
"""Files that hold the words of a tokenizer; one of them is enough."""

_NETWORK_FILES = (CONFIG_FILE, GENERATION_FILE)
_TOKENIZER_FILES = (
    CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
_PROCESSOR_FILES = (
    *_TOKENIZER_FILES,
    PROCESSOR_FILE,
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)

IMAGE_PARTS = {
    "sam2_video": "sam2",
    "edgetam_video": "edgetam",
    "sam3_tracker_video": "sam3_tracker",
    "sam3_video": "sam3_tracker",
}
"""``model_type`` of a segmenter of videos -> of the one for images that its weights hold; the Hub's are of the former.
"""
TRACKER = "tracker_config"
"""The table in the config of SAM 3 that says what it tracks with."""
CODE_KEY = "auto_map"
"""The key with which a folder names classes of its own Python."""
REAL_NUMBERS = ("F64", "F32", "F16", "BF16")
"""Safetensors' words for the types that weights may have."""
NETWORK_KEYS = {
    "quantization_config": "quantized weights are not supported; name the plain ones",
    "transformers_weights": "weights are read from model.safetensors, not from a file of another name",
    "fusion_config": "patches of transformers' classes are not applied",
}
"""Keys of a network's config that change what loading it does, and why they are refused."""

DEPTH_WORDS = ("num_hidden_layers", "num_stages", "depths", "encoder_layers", "decoder_layers", "num_layers")
"""Keys of a config that say how many layers are built; each layer has weights."""
MOST_LAYERS = 1 << 12
"""More layers than any network has: what a config may say where no header of weights tells better."""


@contextmanager
def reading(what: Path) -> Iterator[None]:
    """Turn whatever a library says of a damaged file or folder into one line that begins with ``what``.

    Every Exception is one of those: the libraries raise what the first wrong value happens to cause (``tokenizers``
    even a bare Exception), and nothing but their reading happens within.
    """
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    folder = str(what if what.is_dir() else what.parent)
    try:
        yield
    except UserError as error:
        named = [line if line.startswith(folder) else f"{what}: {line}" for line in error.problems]
        raise type(error)(named) from error
    except Exception as error:
        raise WeightsError(f"{what}: cannot be read: {short_reason(error)}") from error
    finally:
        transformers_logging.set_verbosity(level)


def check_files(folder: Path, names: tuple[str, ...], *, needed: tuple[str, ...] | None = None) -> None:
    """Refuse JSON files that are damaged or that name code to run; ``needed`` (by default all) have to be there."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    problems: list[str] = []
    for name in names:
        file = folder / name
        if not file.is_file() and name not in (names if needed is None else needed):
            continue
        try:
            table = read_table(file)
        except UserError as error:
            problems += error.problems
            continue
        if name.endswith(CONFIG_FILE):  # the others hold words, and any may be one
            problems += [
                f"{file}: {key}: this folder wants to run its own Python, which ullava never does"
                for key in _code_keys(table, "")
            ]
    if problems:
        raise UserError(problems)


def read_config(folder: Path, kinds: Sequence[type[PreTrainedConfig]] = ()) -> PreTrainedConfig:
    """The config of a folder: the first of ``kinds`` that it is or holds; without any, what its ``model_type`` names.

    Raises UserError for a file that is missing, damaged, of none of ``kinds``, or that wants to run code.
    """
    check_files(folder, (CONFIG_FILE,))
    file = folder / CONFIG_FILE
    name = read_table(file).get("model_type")
    if not isinstance(name, str) or name not in CONFIG_MAPPING and all(name != kind.model_type for kind in kinds):
        hint = did_you_mean(str(name), CONFIG_MAPPING) if isinstance(name, str) else ""
        raise UserError(f"{file}: model_type: {'is missing' if name is None else f'unknown {name!r}'}{hint}")
    kind = next((kind for kind in kinds if _is_or_holds(name, kind)), None)
    image = next((kind for kind in kinds if IMAGE_PARTS.get(name) == kind.model_type), None)
    if kinds and kind is None and image is None:
        needed = " or ".join(f"'{kind.model_type}'" for kind in kinds)
        raise UserError(f"{file}: model_type: a '{name}', where a {needed} is needed")
    headed = any((folder / weights).is_file() for weights in (SAFE_FILE, SAFE_INDEX))
    check_depth(read_table(file), len(read_shapes(folder)) if headed else MOST_LAYERS, folder)
    with reading(file):
        if kind is None and image is not None:
            table = read_table(file)
            return _image_part(table.get(TRACKER, table), image)
        config: PreTrainedConfig = (kind or AutoConfig).from_pretrained(
            str(folder), local_files_only=True, **({} if kind else {"trust_remote_code": False})
        )
    return config


def _image_part(table: Mapping[str, Any], kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """What ``table``, the config of a segmenter of videos, says of its parts for single images, as a ``kind``.

    The names of the types of those parts differ, their values do not.
    """
    types = {name: part["model_type"] for name, part in kind().to_dict().items() if _is_part(part)}
    parts = {name: value for name, value in table.items() if name in types}
    for name, value in parts.items():
        if isinstance(value, dict):
            parts[name] = value | {"model_type": types[name]}
    return kind(**parts)


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "model_type" in value


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder. Raises UserError as ``read_config``, and where no file holds its words."""
    check_files(folder, _TOKENIZER_FILES, needed=())
    _check_vocabulary(folder)
    files = [folder / name for name in (TOKENIZER_CONFIG_FILE, *VOCABULARY_FILES)]
    try:
        with reading(next(file for file in files if file.is_file())):
            return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except WeightsError as error:
        if "tiktoken" in str(error) and (folder / PIECES_FILE).is_file():
            hint = "if it is tiktoken's (Llama 3), name a folder with the tokenizer.json of that model"
            raise UserError(f"{folder / PIECES_FILE}: is no sentencepiece model; {hint}") from error
        raise


def read_processor(folder: Path, kind: Any = AutoProcessor) -> Any:
    """The processor in a folder, of class ``kind``. Raises UserError as ``read_tokenizer``."""
    check_files(folder, _PROCESSOR_FILES, needed=())
    _check_vocabulary(folder)
    try:
        with reading(folder / PROCESSOR_FILE):
            return kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except WeightsError:
        read_tokenizer(folder)  # a damaged tokenizer has a line of its own
        raise


def read_generation(folder: Path) -> GenerationConfig:
    """The generation settings of a folder. Raises UserError, WeightsError for a file that is missing or damaged."""
    check_files(folder, (GENERATION_FILE,))
    with reading(folder / GENERATION_FILE):
        settings: GenerationConfig = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    return settings


def read_network(kind: Any, folder: Path, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """A network of class ``kind`` and transformers' account of its weights: (model, keys by what is wrong with them).

    ``options`` go to ``from_pretrained``; with ``config`` among them the folder's own is not read. Nothing is judged
    here (``ullava.modeling.loading.strict_loading`` does that) but sizes that the weights cannot have, before they are
    made. Raises UserError as ``read_config``, WeightsError for damaged or incomplete weight files.
    """
    own = "config" not in options
    check_files(folder, _NETWORK_FILES, needed=(CONFIG_FILE,))
    _check_network(folder / CONFIG_FILE)
    if (folder / GENERATION_FILE).is_file():
        read_generation(folder)
    if (folder / ADAPTER_FILE).is_file():
        raise WeightsError(f"{folder}: holds adapters, not a whole network; merge them first (`ullava convert merge`)")
    shapes = read_shapes(folder)
    if shapes:
        check_depth(read_table(folder / CONFIG_FILE) if own else options["config"].to_dict(), len(shapes), folder)
    with reading(folder):
        model, info = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    real = {name for name, value in model.state_dict().items() if value.is_floating_point()}
    problems = [
        f"{stored.file}: {name}: is of type {stored.dtype}, not of real numbers"
        for name, stored in shapes.items()
        if stored.dtype not in REAL_NUMBERS and name in real
    ]
    if problems:
        raise WeightsError(problems)
    return model, info


def network_of(
    kind: Any, config: PreTrainedConfig, weights: Mapping[str, torch.Tensor]
) -> tuple[Any, Mapping[str, Any]]:
    """A network of class ``kind`` that takes up ``weights`` in float32, and transformers' account of them.

    Nothing is judged here, as in ``read_network``; no weight is made at random on the way.
    """
    return kind.from_pretrained(  # type: ignore[no-any-return]
        None,
        config=config,
        state_dict=dict(weights),
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )


def read_gguf(file: Path, kinds: Sequence[str]) -> tuple[Any, Any, Mapping[str, Any]]:
    """The network of a GGUF file in float32, its tokenizer, and transformers' account of its weights.

    Nothing is judged but what the file is of: a ``model_type`` among ``kinds``. The packed numbers are unpacked by the
    package ``gguf``. Raises WeightsError for a file that is damaged or of another architecture.
    """
    place = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    with reading(file):
        config = AutoConfig.from_pretrained(str(file.parent), **place)
        if config.model_type not in kinds:
            raise WeightsError(f"architecture: a '{config.model_type}', where a {' or '.join(kinds)} is needed")
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **place)
        model, info = AutoModelForCausalLM.from_pretrained(
            str(file.parent), dtype=torch.float32, output_loading_info=True, **place
        )
    return model, tokenizer, info


def check_depth(table: Mapping[str, Any], tensors: int, folder: Path) -> None:
    """Refuse a config that would build more layers than there can be tensors: a damaged number would take for ever."""
    problems = [
        f"{folder / CONFIG_FILE}: {key}: {value} layers cannot be: there are {tensors} tensors at most"
        for key, value in _depths(table, "")
        if value > tensors
    ]
    if problems:
        raise WeightsError(problems)


def check_volume(asked: int, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Refuse sizes that make ``asked`` values, many more than the weights have, before memory is taken."""
    given = sum(prod(shape) for shape in shapes.values())
    if asked > 4 * given:
        raise WeightsError(f"{folder / CONFIG_FILE}: its sizes make {asked:,} values, the weights have {given:,}")


def _depths(value: Any, dotted: str) -> Iterator[tuple[str, int]]:
    """Every number of layers in a config: (dotted key, layers)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _depths(inner, f"{dotted}.{key}" if dotted else str(key))
    elif dotted.rpartition(".")[2] in DEPTH_WORDS:
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int) and not isinstance(number, bool):
                yield dotted, number


def _is_or_holds(name: str, kind: type[PreTrainedConfig]) -> bool:
    """Whether a config of type ``name`` is one of class ``kind``, or has one as its part (CLIP has its tower's)."""
    if name == kind.model_type:
        return True
    parts = getattr(CONFIG_MAPPING[name], "sub_configs", {}) if name in CONFIG_MAPPING else {}
    return parts.get(kind.base_config_key) is kind


def _check_network(file: Path) -> None:
    table = read_table(file)
    problems = [f"{file}: {key}: {why}" for key, why in NETWORK_KEYS.items() if table.get(key) is not None]
    if problems:
        raise UserError(problems)


def _check_vocabulary(folder: Path) -> None:
    words = folder / VOCABULARY_FILES[0]
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise UserError(f"{folder}: holds no tokenizer; such a folder has {' or '.join(VOCABULARY_FILES)}")
    if words.is_file():
        with reading(words):
            Tokenizer.from_file(str(words))


def _code_keys(value: Any, dotted: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{dotted}.{key}" if dotted else str(key)
            if key == CODE_KEY and inner is not None:
                yield name
            else:
                yield from _code_keys(inner, name)
