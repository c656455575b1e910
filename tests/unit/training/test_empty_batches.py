"""Which runs of several processes can go on although one has no usable row. (DDP itself: test_train_distributed.)"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ullava.errors import UserError
from ullava.training.distributed.empty_batches import check_empty, take_part

EMPTY = SimpleNamespace(inputs=None)


def trainer(world_size: int = 2, deepspeed: bool = False, passes: str = "one") -> Any:
    return SimpleNamespace(
        args=SimpleNamespace(world_size=world_size),
        state=SimpleNamespace(global_step=4),
        model=nn.Linear(2, 1),
        is_deepspeed_enabled=deepspeed,
        passes=SimpleNamespace(repeats=passes != "one"),
        bad_samples=SimpleNamespace(path=Path("run/bad_samples.jsonl")),
    )


def test_one_process_and_plain_ddp_go_on() -> None:
    check_empty(trainer(world_size=1, deepspeed=True), [EMPTY])
    check_empty(trainer(), [EMPTY])


@pytest.mark.parametrize("more", [{"deepspeed": True}, {"passes": "every"}])
def test_divided_weights_and_several_passes_stop_in_one_line(more: Any) -> None:
    check_empty(trainer(**more), [SimpleNamespace(inputs="rows")])  # type: ignore[list-item]
    with pytest.raises(
        UserError, match=r"^step 5: no sample of a process's batch is usable \(all are in run/bad"
    ) as told:
        check_empty(trainer(**more), [EMPTY])
    assert len(told.value.problems) == 1


def test_the_zero_reaches_every_weight() -> None:
    alone = trainer(world_size=1)
    loss = take_part(alone, alone.model, None)
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.equal(weight.grad, torch.zeros_like(weight)) for weight in alone.model.parameters())
