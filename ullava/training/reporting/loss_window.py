"""The terms of the loss between two lines of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ullava.config.fields import CountKind
from ullava.training.optim.objective import TERMS, Counts, LossTerms


@dataclass
class LossWindow:
    """Loss terms since the last log line, kept on the device so that a step waits for nothing.

    ``sums``: every term times its count, then those of ``aux_terms``, and the total of every step. ``counts``: those
    of Counts, in its order. ``steps``: those in which anything was judged.
    """

    sums: torch.Tensor
    counts: torch.Tensor
    steps: int = 0
    aux_terms: Mapping[str, CountKind] = field(default_factory=dict)
    terms: Mapping[str, CountKind] = field(default_factory=lambda: TERMS)

    @classmethod
    def empty(
        cls,
        device: torch.device,
        aux_terms: Mapping[str, CountKind] | None = None,
        terms: Mapping[str, CountKind] = TERMS,
    ) -> LossWindow:
        """Return a window without any step; ``terms``: those of ``TERMS`` that the criterion has."""
        aux_terms = aux_terms or {}
        sums = torch.zeros(len(terms) + len(aux_terms) + 1, device=device)
        return cls(sums, torch.zeros(Counts.number(), dtype=torch.float64), aux_terms=aux_terms, terms=terms)

    def add(self, terms: LossTerms, step: Counts, local: Counts) -> None:
        """Add one micro-batch, whose terms were divided by the counts of its ``step``."""
        weights = [max(step.of(kind), 1.0) for kind in self._kinds()] + [1.0]
        self.sums += torch.cat([terms.stacked(), terms.total.detach().float()[None]]) * self.sums.new_tensor(weights)
        self.counts += torch.tensor(local.stacked(), dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON values."""
        return {"sums": self.sums.tolist(), "counts": self.counts.tolist(), "steps": self.steps}

    def take_up(self, states: Sequence[Mapping[str, Any]], process: int, processes: int) -> None:
        """Go on, in an empty window, from the ``state()`` of every process, each from its own.

        A sum of all would be rounded in another order. Those of processes that there are no longer go to those that
        there are.
        """
        self.steps = int(states[0]["steps"])
        for state in states[process::processes]:
            self.sums += torch.tensor(state["sums"], device=self.sums.device)
            counts = torch.tensor(state["counts"], dtype=torch.float64)  # a checkpoint of old has fewer kinds
            self.counts[: len(counts)] += counts

    def means(self) -> dict[str, float | None]:
        """Return ``loss`` per step (None without one) and ``loss_<term>`` per thing.

        Terms that had nothing to judge are left out.
        """
        seen = Counts(*self.counts.tolist())
        values = self.sums.tolist()
        means: dict[str, float | None] = {"loss": values[-1] / self.steps if self.steps else None}
        named = [*(f"loss_{name}" for name in self.terms), *(f"loss_aux_{name}" for name in self.aux_terms)]
        counts = [seen.of(kind) for kind in self._kinds()]
        means |= {name: values[i] / counts[i] for i, name in enumerate(named) if counts[i] > 0}
        return means

    def _kinds(self) -> list[CountKind]:
        """What each of the terms is a mean over, in the order of ``sums``."""
        return [*self.terms.values(), *self.aux_terms.values()]
