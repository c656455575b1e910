"""Learning rates of single parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.modeling.conftest import build_small

from ullava.config.load import parse_text
from ullava.config.schema import OptimizerConfig
from ullava.errors import ConfigError
from ullava.training.optim.learning_rates import set_learning_rates
from ullava.training.optim.stages import apply_stage, assign_parts


def made() -> tuple[Any, torch.optim.Optimizer]:
    model, _ = build_small()
    apply_stage(model, "ground")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [{"params": weights[::2], "weight_decay": 0.1}, {"params": weights[1::2], "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=1e-3)


def test_parts_get_their_rates_and_keep_their_decay() -> None:
    model, optimizer = made()
    before = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    set_learning_rates(optimizer, model, {"vision projector": 2e-5, "box head": 3e-4})
    parts = assign_parts(model)
    names = {id(weight): name for name, weight in model.named_parameters()}
    seen: set[int] = set()
    wanted = {"vision projector": 2e-5, "box head": 3e-4}
    for group in optimizer.param_groups:
        assert group["params"]
        for weight in group["params"]:
            assert group["lr"] == wanted.get(parts[names[id(weight)]], 1e-3)
            assert group["weight_decay"] == before[id(weight)]
            seen.add(id(weight))
    assert seen == set(before)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {5e-4, 1e-5, 1.5e-4}


def test_a_part_that_does_not_train_is_refused() -> None:
    model, optimizer = made()
    with pytest.raises(ConfigError, match="no part 'vision projectr' trains; did you mean 'vision projector'"):
        set_learning_rates(optimizer, model, {"vision projectr": 1e-4})
    with pytest.raises(ConfigError, match="no part 'vision tower' trains"):
        set_learning_rates(optimizer, model, {"vision tower": 1e-4})


def test_rates_go_with_adamw() -> None:
    with pytest.raises(ConfigError, match="learning_rates go with adamw, not with muon"):
        parse_text(OptimizerConfig, "{kind: muon, learning_rates: {box head: 1e-4}}")
    assert parse_text(OptimizerConfig, "{learning_rates: {box head: 1e-4}}").learning_rates == {"box head": 1e-4}
