"""LoRA on a native core: adapters in the decoder alone, saved, merged and gone on with as on a spliced one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.modeling.native_models import NATIVES, build_native, needed_packages
from tests.unit.modeling.test_cores import batch_of, samples
from tests.unit.training.test_lora import save, stir

from ullava.config.schema import LoraConfig
from ullava.training.loop.save import save_model
from ullava.training.optim.lora import attach_adapters, load_adapter, merge_adapter
from ullava.training.optim.stages import apply_stage


@pytest.fixture(params=tuple(NATIVES))
def built(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """Model and processor of one family."""
    needed_packages(request.param)
    return build_native(request.param, tmp_path / "theirs")


def test_adapters_train_merge_and_go_on(built: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = built
    save_model(model, processor, tmp_path / "base")
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    adapters = attach_adapters(model.core.adapted()[1], LoraConfig(r=2, dropout=0.0), "recipe.yaml")
    plan = apply_stage(model, "ground", lora=True)
    inside = f"{model.core.adapted()[0]}."
    added = [name for name, _ in model.named_parameters() if ".lora_" in name]
    assert added and all(name.startswith(inside) and name in plan.trainable for name in added)
    assert not any(name.startswith(inside) for name in set(plan.trainable) - set(added) - set(plan.row_tables))

    inputs = batch_of(processor, samples()).usable()[0].as_kwargs()
    stir(model)
    before = model.train()(**inputs)
    before.loss.backward()
    assert all(value.grad is not None for name, value in model.named_parameters() if ".lora_B" in name)
    before = model.eval()(**inputs)
    save(tmp_path / "adapter", model, processor, adapters, plan, tmp_path / "base")

    again, _, _ = load_adapter(tmp_path / "adapter", trainable=True)
    assert set(apply_stage(again, "ground", lora=True).trainable) == set(plan.trainable)
    merged, _ = merge_adapter(tmp_path / "adapter")
    assert merged.state_dict().keys() == plain.keys()
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, plain[name])}
    assert any("q_proj" in name for name in changed)
    for after in (again.eval()(**inputs), merged(**inputs)):
        torch.testing.assert_close(after.supervised_logits, before.supervised_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after.seg.mask_logits_lowres, before.seg.mask_logits_lowres, atol=1e-3, rtol=1e-3)
