"""A saved system without its language model: that one is named, by folder or id and by a fingerprint of its weights.

Such a folder holds, beside config and processor:

language.json         which language model: its place, its fingerprint, how many layers, which rows were trained
trained.safetensors   all weights but the language model's frozen ones; ``rows/NAME``: the trained rows of a table
adapters/             peft's two files, where the language model was trained by adapters; they are merged at loading

There is no ``model.safetensors``, so that transformers alone refuses the folder and begins nothing at random.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ullava.errors import UserError, WeightsError
from ullava.hub import find_folder
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.saved_folder import check_fit
from ullava.modeling.loading.adapters import SETTINGS_FILE, read_adapters
from ullava.modeling.loading.language_layers import read_language
from ullava.modeling.loading.mapped import in_float32
from ullava.modeling.loading.pretrained import network_of, reading
from ullava.modeling.loading.strict_loading import refuse_misfits
from ullava.modeling.loading.weight_files import read_shapes, read_state_dict, read_table, write_table
from ullava.modeling.model.ullava import UllavaForConditionalGeneration

NOTE_FILE = "language.json"
TRAINED_FILE = "trained.safetensors"
ADAPTERS = "adapters"
ROWS_PREFIX = "rows/"
LANGUAGE = "language_model."
"""How the names of the language model begin among those of the whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageBase:
    """Content of ``language.json``.

    ``path``: a folder, relative to the one of the note, or ``org/name`` of the Hub, then with the commit ``revision``.
    ``sha256``: of the weights (``fingerprint``) of the first ``num_layers`` layers. ``rows``: table -> row numbers.
    """

    path: str
    revision: str | None
    sha256: str
    num_layers: int
    rows: dict[str, list[int]]


def lacks_language(folder: Path) -> bool:
    """Whether ``folder`` is a saved system without its language model."""
    return (folder / NOTE_FILE).is_file()


def rename_base(folder: Path, source: Path, out: Path) -> None:
    """Name the language model of ``folder``, a copy of ``source`` that will stand at ``out``, as seen from there.

    Nothing changes where the note names none by a path, or there is no note.
    """
    if not lacks_language(folder):
        return
    table = read_table(folder / NOTE_FILE)
    beside = source / str(table["path"])
    if beside.is_dir():
        table["path"] = os.path.relpath(beside.resolve(), out.resolve())
        write_table(folder / NOTE_FILE, table)


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of weights in order of their names; a tied one counts once."""
    digest, seen = hashlib.sha256(), set()
    for name, value in sorted(weights.items()):
        if value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_note(folder: Path, note: LanguageBase) -> None:
    """Write ``language.json``."""
    (folder / NOTE_FILE).write_text(json.dumps(asdict(note), indent=1) + "\n", encoding="utf-8")


def read_note(folder: Path) -> LanguageBase:
    """Read ``language.json``. Raises WeightsError for a file that is damaged or holds something else."""
    file = folder / NOTE_FILE
    table = read_table(file)
    kinds = {"path": str, "revision": str | None, "sha256": str, "num_layers": int, "rows": dict}
    wrong = [key for key, kind in kinds.items() if key not in table or not isinstance(table[key], kind)]
    wrong += sorted(table.keys() - kinds.keys())
    if wrong:
        raise WeightsError([f"{file}: {key}: is missing, unknown or of a wrong type" for key in wrong])
    for name, numbers in table["rows"].items():
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            raise WeightsError(f"{file}: rows.{name}: expected numbers of rows")
    return LanguageBase(**table)


def find_base(note: LanguageBase, folder: Path) -> Path:
    """The folder of the language model that ``note`` (in ``folder``) names. Raises UserError where it is not there."""
    where = f"{folder / NOTE_FILE}: path"
    place = (folder / note.path).resolve()
    if note.revision is None and not place.is_dir():
        hint = "`shells/setup.sh` makes that of models/photo, `ullava convert gguf` any"
        raise UserError(f"{where}: the language model of this system is not in {place}; {hint}")
    return place if note.revision is None else find_folder(note.path, folder, where, revision=note.revision)


def read_base(note: LanguageBase, folder: Path) -> dict[str, Tensor]:
    """The weights of that language model, in its own names. Raises WeightsError where they are others."""
    base = find_base(note, folder)
    stored = _as_stored(base)
    if fingerprint(stored) == note.sha256:  # the very weights: no network has to take them up to be judged
        return stored
    weights = read_language(base, note.num_layers)
    found = fingerprint(weights)
    if found != note.sha256:
        source = note.path if note.revision is not None else "`shells/setup.sh` (after that folder was removed)"
        raise WeightsError(
            f"{base}: holds another language model than {folder} was trained on "
            f"(sha256 {found[:12]}, not {note.sha256[:12]}); the right one comes from {source}"
        )
    return weights


def _as_stored(base: Path) -> dict[str, Tensor]:
    """What the files of a language model hold, with the head that is tied to its table where they leave that out."""
    stored = read_state_dict(base)
    table = stored.get("model.embed_tokens.weight")
    return stored if table is None or "lm_head.weight" in stored else {"lm_head.weight": table, **stored}


def load_without_language(folder: Path, config: UllavaConfig, dtype: torch.dtype) -> UllavaForConditionalGeneration:
    """Put the system in ``folder``, of ``config``, together with the language model that it names.

    Adapters are merged in float32, and the whole is ``dtype`` then. Raises as ``load_unmerged``.
    """
    loaded, adapters = load_unmerged(folder, config)
    if adapters is not None:
        adapters.merge_and_unload()
    if dtype != torch.float32:  # what is computed anew, as the tables of the rotation, keeps its own type
        for value in loaded.state_dict(keep_vars=True).values():
            value.data = value.data.to(dtype) if value.is_floating_point() else value.data
    return loaded


def load_unmerged(
    folder: Path, config: UllavaConfig, *, trainable: bool = False
) -> tuple[UllavaForConditionalGeneration, Any]:
    """Put them together in float32 with the adapters in place: (model, peft's handle, or None where there are none).

    Raises UserError where the language model is not there, WeightsError where it is another one or where any weight is
    missing, unexpected or of another shape.
    """
    note = read_note(folder)
    if note.num_layers != config.text_config.num_hidden_layers:
        layers = config.text_config.num_hidden_layers
        raise WeightsError(f"{folder / NOTE_FILE}: num_layers: {note.num_layers}, but config.json has {layers}")
    check_fit(config, folder, read_shapes(folder / TRAINED_FILE) | read_shapes(find_base(note, folder)))
    weights = _assembled(note, folder, read_base(note, folder), read_state_dict(folder / TRAINED_FILE))
    with reading(folder):
        model, info = network_of(UllavaForConditionalGeneration, config, in_float32(weights))
    refuse_misfits(info, folder)
    if not is_adapted(folder / ADAPTERS):
        return model, None
    return model, read_adapters(model.language_model, folder / ADAPTERS, trainable)


def is_adapted(folder: Path) -> bool:
    """Whether ``folder`` holds the adapters of a saved system without its language model."""
    return folder.name == ADAPTERS and lacks_language(folder.parent) and (folder / SETTINGS_FILE).is_file()


def _assembled(
    note: LanguageBase, folder: Path, base: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """All weights by their names in the whole: the base's, and over them what was trained."""
    weights = {LANGUAGE + name: value for name, value in base.items()}
    rows = {name.removeprefix(ROWS_PREFIX): value for name, value in trained.items() if name.startswith(ROWS_PREFIX)}
    if rows.keys() != note.rows.keys():
        raise WeightsError(f"{folder / NOTE_FILE}: rows: not the tables whose rows are in {TRAINED_FILE}")
    tables = {name: _with_rows(weights.get(name), name, value, note, folder) for name, value in rows.items()}
    # A name that shares its table with one of those is tied to it: it would bring the old rows back.
    old = {weights[name].data_ptr() for name in tables}
    kept = {name: value for name, value in weights.items() if value.data_ptr() not in old}
    return kept | tables | {name: value for name, value in trained.items() if not name.startswith(ROWS_PREFIX)}


def _with_rows(table: Tensor | None, name: str, rows: Tensor, note: LanguageBase, folder: Path) -> Tensor:
    """``table`` [V, D] with ``rows`` [n, D] at their numbers, grown to the last of them: float32."""
    numbers = note.rows[name]
    if table is None or table.shape[1:] != rows.shape[1:] or len(numbers) != len(rows):
        raise WeightsError(f"{folder / TRAINED_FILE}: rows of {name}, which the language model does not have so")
    size = max([len(table), *(number + 1 for number in numbers)])
    if not set(range(len(table), size)) <= set(numbers):
        raise WeightsError(f"{folder / NOTE_FILE}: rows.{name}: some of those from {len(table)} on are missing")
    grown = torch.zeros(size, *table.shape[1:], dtype=torch.float32)
    grown[: len(table)] = table
    grown[numbers] = rows.float()
    return grown
