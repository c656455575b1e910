"""Low-rank adapters on the language model alone. Heads, projectors and the special-token rows train beside them.

What a LoRA run leaves in ``adapter/``, next to the merged model:

adapter_config.json, adapter_model.safetensors   peft's own two files
trained.safetensors   all else that the base does not have: what trained whole, and rows of the word tables
lora_run.json         where the base is, which rows those are
system/               config and processor of the whole model, the loss weights among them
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ullava.config.schema import LoraConfig
from ullava.errors import ConfigError, UserError, WeightsError, did_you_mean
from ullava.hub import find_folder, is_hub_id, name_of
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.build import set_attention, settle_generation
from ullava.modeling.construction.saved_folder import read_saved_config, read_saved_processor
from ullava.modeling.loading.adapters import ADAPTER_FILE, LORA_MARK, WRAPPED, read_adapters
from ullava.modeling.loading.strict_loading import load_strict
from ullava.modeling.loading.weight_files import read_state_dict
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.modeling.weights.conversion import write_folder

RUN_FILE = "lora_run.json"
TRAINED_FILE = "trained.safetensors"
SYSTEM_FOLDER = "system"
ROWS_PREFIX = "rows/"
HEADS = ("mask_head.", "box_head.")


@dataclass(frozen=True, slots=True)
class LoraRun:
    """Content of ``lora_run.json``: the base (None: everything is in the adapter), ids of the saved rows.

    The base is a folder, or an id of the Hub with its commit.
    """

    base: str | None
    row_ids: tuple[int, ...]


def attach_adapters(language_model: nn.Module, config: LoraConfig, where: str) -> Any:
    """Put adapters into the linear layers that ``config.target`` names; return peft's handle on them.

    The layers are replaced in place, so the model around ``language_model`` needs no wrapper and keeps its class.
    Raises ConfigError (at ``where``) for a target that no linear layer is called.
    """
    import peft

    linear = {name.rsplit(".", 1)[-1] for name, part in language_model.named_modules() if isinstance(part, nn.Linear)}
    problems = [
        f"{where}: lora.target: no linear layer is called '{name}'{did_you_mean(name, linear)}"
        for name in config.target
        if name not in linear
    ]
    if config.r < 1:
        problems.append(f"{where}: lora.r: has to be at least 1, not {config.r}")
    if not config.target:
        problems.append(f"{where}: lora.target: names no layer")
    if problems:
        raise ConfigError(problems)
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target),
        bias="none",
    )
    return peft.get_peft_model(language_model, settings)


def is_adapter(folder: Path) -> bool:
    """Return whether ``folder`` is the ``adapter/`` of a LoRA run."""
    return (folder / RUN_FILE).is_file()


def save_adapter(
    folder: Path,
    *,
    model: Any,
    processor: Any,
    adapters: Any,
    state: Mapping[str, torch.Tensor],
    base: Path | None,
    trained: Iterable[str],
    row_tables: Iterable[str],
    row_ids: Sequence[int],
) -> None:
    """Write a LoRA run's adapter folder from the whole ``state`` of ``model`` (full tensors, also of sharded models).

    ``trained``: names that are saved whole; those of them in ``row_tables`` are saved by their ``row_ids`` alone.
    Without a ``base`` everything is saved, so that the folder stands for itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = f"{model.core.adapted()[0]}."
    inner = {name.removeprefix(start): value for name, value in state.items() if LORA_MARK in name}
    prefixed = {f"base_model.model.{name}": value for name, value in inner.items()}
    adapters.save_pretrained(str(folder), state_dict=prefixed, save_embedding_layers=False)
    tables = set(row_tables) if base is not None else set()
    names = set(trained) if base is not None else set(state)
    kept: dict[str, torch.Tensor] = {}
    for name in sorted(names):
        if LORA_MARK in name or name not in state:
            continue
        value = state[name].detach().cpu()
        if name in tables:
            kept[ROWS_PREFIX + name] = value[list(row_ids)].clone()
        else:
            kept[name.replace(WRAPPED, ".")] = value.clone()
    save_file(kept, str(folder / TRAINED_FILE), metadata={"format": "pt"})
    model.config.save_pretrained(str(folder / SYSTEM_FOLDER))
    processor.save_pretrained(str(folder / SYSTEM_FOLDER))
    run = LoraRun(None if base is None else name_of(base), tuple(row_ids))
    (folder / RUN_FILE).write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")


def load_adapter(
    folder: Path, *, base: Path | None = None, attn_implementation: str = "sdpa", trainable: bool = False
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor, Any]:
    """Load base and adapters of a LoRA run: (model with the adapters in place, processor, peft's handle).

    ``base`` takes the place of the base that the run noted. Raises UserError for a folder that is no adapter, or whose
    base is not there; WeightsError where base and adapter do not fit.
    """
    run = read_run(folder)
    found = base or base_folder(run, folder)
    if found is not None and not (found / "config.json").is_file():
        raise UserError(f"{folder / RUN_FILE}: the base {found} is not there; name it with --base")
    system = folder / SYSTEM_FOLDER
    config = read_saved_config(system)
    processor = read_saved_processor(system, config)
    model = _assembled(folder, config, found, run, attn_implementation)
    settle_generation(model, processor.tokenizer, processor.chat_template)
    return model.eval(), processor, read_adapters(model.core.adapted()[1], folder, trainable)


def merge_adapter(folder: Path, base: Path | None = None) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Return the model of a LoRA run with its adapters folded into plain weights; it answers as the two together do.

    Raises UserError and WeightsError as ``load_adapter``.
    """
    model, processor, adapters = load_adapter(folder, base=base)
    adapters.merge_and_unload()
    return model, processor


def merge_to_folder(folder: Path, out: Path, base: Path | None = None) -> Path:
    """Do what ``ullava convert merge`` does: write the merged model to the new folder ``out``, with a report.

    Raises UserError and WeightsError as ``load_adapter``, and where ``out`` holds something already.
    """
    run = read_run(folder)

    def write(draft: Path) -> dict[str, Any]:
        model, processor = merge_adapter(folder, base)
        model.save_pretrained(str(draft))
        processor.save_pretrained(str(draft))
        return {"kind": "merge", "base": str(base or run.base), "parameters": model.num_parameters()}

    return write_folder(out, folder / ADAPTER_FILE, write)


def base_folder(run: LoraRun, folder: Path) -> Path | None:
    """Return where the base of the run in ``folder`` is, fetched from the Hub where it came from there."""
    if not run.base or not is_hub_id(run.base):
        return Path(run.base) if run.base else None
    return find_folder(run.base, Path(), f"{folder / RUN_FILE}: base")


def read_run(folder: Path) -> LoraRun:
    """Read ``lora_run.json``. Raises UserError where ``folder`` is not the adapter folder of a LoRA run."""
    path = folder / RUN_FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table["base"], str | None):
            raise ValueError("base is no name")
        return LoraRun(table["base"], tuple(int(number) for number in table["row_ids"]))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no {RUN_FILE}; name the adapter/ folder of a LoRA run") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the record of a LoRA run: {error}") from error


def _assembled(
    folder: Path, config: UllavaConfig, base: Path | None, run: LoraRun, attn_implementation: str
) -> UllavaForConditionalGeneration:
    """Build the model of ``config`` from the base's weights and, over them, what the run trained."""
    set_attention(config, attn_implementation)
    model = UllavaForConditionalGeneration(config)
    trained = read_state_dict(folder / TRAINED_FILE)
    whole = {name: value for name, value in trained.items() if not name.startswith(ROWS_PREFIX)}
    weights: dict[str, torch.Tensor] = {}
    if base is not None:
        weights = dict(load_folder(base, torch.float32)[0].state_dict())
        if any(name.startswith(HEADS) for name in whole):
            own = model.state_dict().keys()
            weights = {name: value for name, value in weights.items() if name in own or not name.startswith(HEADS)}
    for name in trained.keys() - whole.keys():
        table = name.removeprefix(ROWS_PREFIX)
        if table not in weights or weights[table].shape[1:] != trained[name].shape[1:]:
            raise WeightsError(f"{folder / TRAINED_FILE}: rows of {table}, which the base {base} does not have so")
        rows = len(trained[name])
        if rows != len(run.row_ids) or any(not 0 <= number < len(weights[table]) for number in run.row_ids):
            raise WeightsError(f"{folder / RUN_FILE}: row_ids: not those of the {rows} rows of {table}")
        whole[table] = weights[table].clone()
        whole[table][list(run.row_ids)] = trained[name].to(weights[table].dtype)
    # A tied name of the base is the same tensor under its old values.
    tied = set(model.all_tied_weights_keys) - whole.keys()
    load_strict(model, {name: value for name, value in (weights | whole).items() if name not in tied})
    model.tie_weights()
    return model
