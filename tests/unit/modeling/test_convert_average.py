"""``ullava convert average``: the mean of two runs of one model, and what is no two runs of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.modeling.conftest import build_small
from tests.unit.modeling.small_sam2 import build_sam2

from ullava.modeling.construction.auto import load_folder
from ullava.training.loop.save import save_model


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A saved model that is calibrated, and another run of it."""
    model, processor = build_sam2()
    model.config.mask_threshold = -0.5
    save_model(model, processor, tmp_path / "first")
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.config.mask_threshold = 0.0
    save_model(model, processor, tmp_path / "second")
    return tmp_path / "first", tmp_path / "second"


def test_every_weight_lies_between_and_masks_end_as_before(
    runs: tuple[Path, Path], command: Any, tmp_path: Path
) -> None:
    first, second = runs
    asked = ("convert", "average", "--from", str(first), "--with", str(second), "--share", "0.25")
    code, printed, err = command(*asked, "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert "kind: average" in printed and "share: 0.25" in printed
    ours, theirs, made = (load_file(folder / "model.safetensors") for folder in (first, second, tmp_path / "out"))
    assert made.keys() == ours.keys()
    moved = 0
    for name, value in made.items():
        expected = 0.75 * ours[name].float() + 0.25 * theirs[name].float()
        torch.testing.assert_close(value.float(), expected.to(value.dtype).float())
        moved += int(not torch.equal(ours[name], theirs[name]))
    assert moved > 50
    again, _ = load_folder(tmp_path / "out", torch.float32)
    assert again.config.mask_threshold == -0.5


def test_two_models_are_refused(runs: tuple[Path, Path], command: Any, tmp_path: Path) -> None:
    first, second = runs
    model, processor = build_small()
    save_model(model, processor, tmp_path / "other")
    asked = ("convert", "average", "--from", str(first), "--out", str(tmp_path / "out"))
    code, _, err = command(*asked, "--with", str(tmp_path / "other"))
    assert code == 2 and "is another model than" in err and "mask_kind" in err
    for share in ("0", "1.5"):
        code, _, err = command(*asked, "--with", str(second), "--share", share)
        assert code == 2 and "has to lie between 0 and 1" in err
    table = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(table | {"video_frames": 5}))
    code, _, err = command(*asked, "--with", str(second))
    assert code == 2 and "differs in video_frames" in err
    assert not (tmp_path / "out").exists()
