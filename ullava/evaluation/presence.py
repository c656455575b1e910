"""The calibration that a saved model carries, in its ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullava.atomic_write import write_whole
from ullava.errors import UserError
from ullava.evaluation.calibration import Calibration

if TYPE_CHECKING:
    from ullava.modeling.mask_cut import MaskCut

FILE = "config.json"


def tells_presence(folder: Path) -> bool:
    """Whether the mask head of the model in ``folder`` says whether a thing is there."""
    return _tells(_table(folder))


def calibration_of(folder: Path) -> Calibration:
    """What the model in ``folder`` says. Raises UserError for one whose mask head tells no presence."""
    table = _table(folder)
    if not _tells(table):
        raise UserError(f"{folder / FILE}: mask head sam does not say whether a thing is there (docs/mask_heads.md)")
    return Calibration(float(table.get("presence_scale", 1.0)), float(table.get("presence_shift", 0.0)))


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Put it in the place of what the model said. Raises UserError where that cannot be written."""
    _write(folder, {"presence_scale": calibration.scale, "presence_shift": calibration.shift})


def write_mask_cut(folder: Path, cut: MaskCut) -> None:
    """Say where masks end. Raises UserError where that cannot be written."""
    _write(folder, {"mask_threshold": cut.threshold, "mask_rule": cut.rule, "mask_peak_gap": cut.peak_gap})


def _write(folder: Path, values: dict[str, Any]) -> None:
    table = _table(folder) | values
    write_whole(folder / FILE, json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _tells(table: dict[str, Any]) -> bool:
    return bool(table.get("mask_kind", "sam") != "sam")


def _table(folder: Path) -> dict[str, Any]:
    file = folder / FILE
    try:
        table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    return table
