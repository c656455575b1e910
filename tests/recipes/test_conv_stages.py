"""ConvLLaVA's three stages on the synthetic world, one after the other, then a stage that grounds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.recipes.conftest import losses

from ullava.cli.main import main

STEPS = 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, lessons: Path) -> dict[str, Path]:
    """The runs in their order; each begins where the one before ends."""
    folder = tmp_path_factory.mktemp("conv")
    made: dict[str, Path] = {}
    before: Path | None = None
    for name in ("tiny_conv_s1", "tiny_conv_s2", "tiny_conv_s3", "tiny_stage2"):
        out = folder / name
        line = ["train", name, f"data_root={lessons}", f"training.max_steps={STEPS}", "training.use_cpu=true"]
        line += ["training.per_device_train_batch_size=2", "training.disable_tqdm=true", "training.learning_rate=1e-3"]
        line += ["eval_dataset={}", "training.eval_strategy=no"]
        if before is not None:
            line.append(f"init={before / 'model'}")
        if name == "tiny_stage2":
            line.append("model=tiny_conv")
        assert main([*line, "--out", str(out)]) == 0
        made[name] = before = out
    return made


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def moved(before: Path, after: Path) -> set[str]:
    """The starts of the names of what a stage changed."""
    old, new = weights(before), weights(after)
    names = [name for name in old if name in new and not torch.equal(old[name], new[name])]
    return {".".join(name.split(".")[:5]) if ".stages." in name else name.split(".")[0] for name in names}


def test_each_stage_moves_its_own_parts(runs: dict[str, Path]) -> None:
    assert all(math.isfinite(loss) for run in runs.values() for loss in losses(run))
    second = moved(runs["tiny_conv_s1"], runs["tiny_conv_s2"])
    assert second == {"language_model", "vision"} | {f"vision.tower.encoder.stages.{n}" for n in (2, 3, 4)}
    assert moved(runs["tiny_conv_s2"], runs["tiny_conv_s3"]) == {"language_model", "vision"}


def test_grounding_starts_from_the_last_stage_with_fresh_heads(runs: dict[str, Path]) -> None:
    changed = moved(runs["tiny_conv_s3"], runs["tiny_stage2"])
    assert {"language_model", "vision", "mask_head", "box_head"} == changed
