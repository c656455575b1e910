"""The joint optimizer: who gets which rule, and that it is the two of them and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ullava.training.optim.muon import MuonWithAdam, split_parameters

SETTINGS: dict[str, Any] = {"lr": 0.02, "adam_lr": 0.01, "weight_decay": 0.1, "momentum": 0.9, "betas": (0.9, 0.98)}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6), nn.LayerNorm(6), nn.Conv1d(6, 4, 1))


def parts(model: nn.Sequential) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    return split_parameters(model, ["1.weight", "3.weight"])


def learn(model: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()


def test_matrices_kernels_and_the_rest() -> None:
    model = network()
    model[1].bias.requires_grad_(False)
    matrices, kernels, rest = parts(model)
    assert [tuple(p.shape) for p in matrices] == [(6, 8)]
    assert [tuple(p.shape) for p in kernels] == [(4, 6, 1)]
    assert [tuple(p.shape) for p in rest] == [(5, 8), (6,), (6,), (4,)]


def test_a_step_is_that_of_both_alone() -> None:
    joint, apart = network(), network()
    learn(joint, MuonWithAdam(*parts(joint), **SETTINGS), 3)
    matrices, kernels, rest = parts(apart)
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": kernels, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter in apart.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        muon.step()
        adam.step()
    for one, other in zip(joint.parameters(), apart.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_scheduler_reaches_both_before_and_after_loading() -> None:
    model = network()
    optimizer = MuonWithAdam(*parts(model), **SETTINGS)
    learn(model, optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    learn(model, optimizer, 1)
    scheduler.step()
    assert [group["lr"] for group in optimizer.muon.param_groups] == [0.01]
    assert [group["lr"] for group in optimizer.adam.param_groups] == [0.005, 0.005]


def test_a_loaded_state_goes_on_where_it_was() -> None:
    whole, torn = network(), network()
    undisturbed = MuonWithAdam(*parts(whole), **SETTINGS)
    learn(whole, undisturbed, 2)
    learn(whole, undisturbed, 2, seed=1)
    first = MuonWithAdam(*parts(torn), **SETTINGS)
    learn(torn, first, 2)
    second = MuonWithAdam(*parts(torn), **SETTINGS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    learn(torn, second, 2, seed=1)
    for one, other in zip(whole.parameters(), torn.parameters(), strict=True):
        assert torch.equal(one, other)
