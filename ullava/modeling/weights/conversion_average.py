"""``ullava convert average``: the mean of the weights of two runs of one model.

Weights that fine-tuning moved along one valley are often better in the middle of it than at its end, on images that
neither run saw (Izmailov et al. 2018; Wortsman et al., "Model soups", arXiv 2203.05482). Adapters are averaged factor
by factor, which is near the average of their products as long as the two runs are near each other.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ullava.errors import UserError, WeightsError
from ullava.modeling.construction.language_base import rename_base
from ullava.modeling.construction.saved_folder import read_saved_config, read_saved_processor
from ullava.modeling.loading.weight_files import read_table, write_table
from ullava.modeling.weights.conversion import REPORT, write_folder

CONFIG = "config.json"
FITTED = {"presence_scale": 1.0, "presence_shift": 0.0}
"""What was fitted to other weights (``ullava calibrate``), and what it is without."""
OF_THE_RUN = frozenset(
    {
        *FITTED,
        "mask_rule",
        "mask_threshold",
        "mask_peak_gap",
        "loss_weights",
        "trained_stage",
        "transformers_version",
        "dtype",
    }
)
"""Keys of ``config.json`` in which two runs of one model may differ."""


def convert_average(source: Path, other: Path, out: Path, share: float) -> Path:
    """Write ``(1 - share) * source + share * other`` to the new folder ``out``, of two saved runs of one model.

    All else is that of ``source``, where masks end too; the calibration of presence, of other weights, is taken away.

    Raises UserError for a share outside of 0 to 1 and for models that differ in more than their weights; WeightsError
    for tensors that one of them lacks or has in another shape.
    """
    if not 0 < share < 1:
        raise UserError(f"--share {share:g}: has to lie between 0 and 1")
    _check_same_model(source, other)
    files = sorted(source.rglob("*.safetensors"))

    def write(folder: Path) -> dict[str, Any]:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(REPORT, "*.safetensors"))
        for file in files:
            name = file.relative_to(source)
            _average_file(file, other / name, folder / name, share)
        rename_base(folder, source, out)
        table = read_table(folder / CONFIG)
        table |= {key: value for key, value in FITTED.items() if key in table}
        write_table(folder / CONFIG, table)
        read_saved_processor(folder, read_saved_config(folder))
        return {"kind": "average", "with": other.name, "share": share}

    return write_folder(out, source, write, files)


def _check_same_model(source: Path, other: Path) -> None:
    ours, theirs = (read_saved_config(folder).to_dict() for folder in (source, other))
    differ = sorted(key for key in {*ours, *theirs} if key not in OF_THE_RUN and ours.get(key) != theirs.get(key))
    if differ:
        raise UserError(f"{other}: is another model than {source}: {CONFIG} differs in {', '.join(differ)}")
    names = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")} for folder in (source, other)
    ]
    if names[0] != names[1]:
        raise UserError(f"{other}: has other files of weights than {source}: {', '.join(sorted(names[0] ^ names[1]))}")


def _average_file(ours: Path, theirs: Path, out: Path, share: float) -> None:
    first, second = load_file(ours), load_file(theirs)
    problems = [f"{theirs}: has no '{name}'" for name in sorted(first.keys() - second.keys())]
    problems += [f"{theirs}: '{name}' is not in {ours.name}" for name in sorted(second.keys() - first.keys())]
    problems += [
        f"{theirs}: '{name}' has shape {tuple(second[name].shape)}, not {tuple(value.shape)}"
        for name, value in first.items()
        if name in second and second[name].shape != value.shape
    ]
    if problems:
        raise WeightsError(problems)
    with safe_open(str(ours), "pt") as stream:
        metadata = stream.metadata()
    averaged = {name: _between(value, second[name], share) for name, value in first.items()}
    save_file(averaged, str(out), metadata=metadata)


def _between(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """The weighted mean in the type of ``first``; what counts (batches seen) is that of ``first``."""
    if not first.is_floating_point():
        return first
    return torch.lerp(first.float(), second.float(), share).to(first.dtype)
