"""``ullava convert without_language``: what was trained alone, for a repository that cannot hold a language model."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ullava.errors import UserError
from ullava.hub import find_folder, source_of
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.language_base import (
    ADAPTERS,
    LANGUAGE,
    ROWS_PREFIX,
    TRAINED_FILE,
    LanguageBase,
    fingerprint,
    write_note,
)
from ullava.modeling.loading.adapters import ADAPTER_FILE, LORA_MARK, WRAPPED, adapter_weights
from ullava.modeling.loading.language_layers import read_language
from ullava.modeling.weights.conversion import write_folder
from ullava.training.optim.lora import is_adapter, load_adapter

MOST_ROWS = 0.5
"""Above this share of trained rows a table is stored whole."""


def export_without_language(source: Path, out: Path, language: str) -> Path:
    """Write the system of a run to the new folder ``out``, all but what is in the pretrained ``language`` part.

    What is equal to a weight of that part is not stored, everything else is: adapters of a LoRA run (kept apart),
    trained rows of the tables of words by their numbers, any other weight of the language model that differs, whole.
    Matrices are bfloat16, vectors and tables that are no parameters keep their type.

    Args:
        source: the ``adapter/`` folder of a LoRA run, or a saved model.
        language: folder or id of the Hub; ``language.json`` notes a folder relative to ``out``.

    Raises:
        UserError: ``source`` is no model of ours, ``language`` is not there, or ``out`` holds something already.
        WeightsError: ``language`` is not what the system was trained on: none of its matrices is in there.
    """
    base = find_folder(language, Path(), "--language")

    def write(draft: Path) -> dict[str, Any]:
        adapters: Any = None
        if is_adapter(source):
            model, processor, adapters = load_adapter(source)
        else:
            model, processor = load_folder(source, torch.float32)
        layers = int(model.config.text_config.num_hidden_layers)
        weights = read_language(base, layers)
        kept, rows, shared = _trained(model, weights)
        if not shared:
            raise UserError(f"--language: {base}: no weight of it is in this model; it was trained on another one")
        save_file(kept, str(draft / TRAINED_FILE), metadata={"format": "pt"})
        if adapters is not None:
            _save_adapters(adapters, draft / ADAPTERS)
        hub = source_of(base)
        place = hub["path"] if hub else os.path.relpath(base.resolve(), out.resolve())
        revision = hub["revision"] if hub else None
        note = LanguageBase(path=place, revision=revision, sha256=fingerprint(weights), num_layers=layers, rows=rows)
        write_note(draft, note)
        model.config.text_config.name_or_path = ""  # the note says where it is, and not as this machine calls it
        model.config.save_pretrained(str(draft))
        model.generation_config.save_pretrained(str(draft))
        processor.save_pretrained(str(draft))
        whole = [name for name in kept if name.startswith(LANGUAGE)]
        return {
            "kind": "without_language",
            "language": place,
            "bytes": sum(file.stat().st_size for file in draft.rglob("*") if file.is_file()),
            "left out": shared,
            "rows": sum(len(numbers) for numbers in rows.values()),
            "stored whole of the language model": whole,
        }

    weights_file = source / ADAPTER_FILE if is_adapter(source) else source
    return write_folder(out, weights_file, write)


def _trained(model: Any, base: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]], int]:
    """What is stored, the numbers of trained rows by table, and how many weights are the language part's own."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied = set(model.all_tied_weights_keys)
    kept: dict[str, Tensor] = {}
    rows: dict[str, list[int]] = {}
    shared = 0
    for wrapped, value in model.state_dict().items():
        name = wrapped.replace(WRAPPED, ".")
        if LORA_MARK in wrapped or name in tied:
            continue
        value = value.detach().cpu()
        stored = value.to(torch.bfloat16) if value.ndim > 1 and wrapped in parameters else value
        found = base.get(name.removeprefix(LANGUAGE)) if name.startswith(LANGUAGE) else None
        changed = None if found is None else _changed_rows(value, found)
        if changed is None or len(changed) > MOST_ROWS * len(value):
            kept[name] = stored.clone()
        elif changed:
            kept[ROWS_PREFIX + name] = stored[changed].clone()
            rows[name] = changed
            shared += 1
        else:
            shared += 1
    return kept, rows, shared


def _changed_rows(value: Tensor, base: Tensor) -> list[int] | None:
    """Numbers of the rows in which ``value`` [V, ...] differs from ``base`` [U, ...], U <= V, or is longer; None where
    it is no table of such rows."""
    if value.shape[1:] != base.shape[1:] or len(value) < len(base) or value.ndim != base.ndim:
        return None
    other = (value[: len(base)] != base.to(value.dtype)).reshape(len(base), -1).any(dim=1)
    return [*other.nonzero().flatten().tolist(), *range(len(base), len(value))]


def _save_adapters(adapters: Any, folder: Path) -> None:
    """peft's two files, in bfloat16, without the place where the base once was."""
    folder.mkdir()
    tensors = adapter_weights(adapters)
    stored = {name: value.detach().cpu().to(torch.bfloat16).clone() for name, value in tensors.items()}
    save_file(stored, str(folder / ADAPTER_FILE), metadata={"format": "pt"})
    settings = copy.deepcopy(adapters.peft_config["default"])
    settings.base_model_name_or_path, settings.inference_mode = None, True
    settings.save_pretrained(str(folder))
