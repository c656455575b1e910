"""The terms that a log line gathers, kept in checkpoints by process."""

from __future__ import annotations

import torch

from ullava.training.reporting.loss_window import LossWindow


def window(first: float) -> LossWindow:
    made = LossWindow.empty(torch.device("cpu"))
    made.sums += first
    made.counts += 3
    made.steps = 2
    return made


def test_each_process_goes_on_with_its_own_sums() -> None:
    """In float32, 2^24 + 1 is 2^24: what is added next tells whether the sums of both came together before."""
    states = [window(2.0**24).state(), window(1.0).state()]
    both = [LossWindow.empty(torch.device("cpu")) for _ in states]
    for process, again in enumerate(both):
        again.take_up(states, process, 2)
        again.sums += 1.0
    assert [again.state()["sums"][0] for again in both] == [2.0**24, 2.0]
    assert [again.steps for again in both] == [2, 2] and all(again.counts[0] == 3 for again in both)


def test_fewer_processes_take_all_sums() -> None:
    states = [window(value).state() for value in (1.0, 2.0, 4.0)]
    one, *two = (LossWindow.empty(torch.device("cpu")) for _ in range(3))
    one.take_up(states, 0, 1)
    for process, again in enumerate(two):
        again.take_up(states, process, 2)
    assert one.sums[0] == 7 and one.counts[0] == 9 and one.steps == 2
    assert [again.sums[0] for again in two] == [5, 2] and [again.counts[0] for again in two] == [6, 3]
