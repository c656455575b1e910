"""The terms of the loss between two lines of the log."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ullava.training.objective import TERMS, Counts, LossTerms


@dataclass
class LossWindow:
    """Loss terms since the last log line, kept on the device so that a step waits for nothing.

    ``sums`` [8 + A]: every term times its count, the A of the vision strategy (``aux_terms``) among them, and the
    total of every step. ``counts``: those of Counts, in its order.
    """

    sums: torch.Tensor
    counts: torch.Tensor
    steps: int = 0
    aux_terms: tuple[str, ...] = ()

    @classmethod
    def empty(cls, device: torch.device, aux_terms: tuple[str, ...] = ()) -> LossWindow:
        """Return a window without any step."""
        sums = torch.zeros(len(TERMS) + len(aux_terms) + 1, device=device)
        return cls(sums, torch.zeros(Counts.number(), dtype=torch.float64), aux_terms=aux_terms)

    def add(self, terms: LossTerms, step: Counts, local: Counts) -> None:
        """Add one micro-batch, whose terms were divided by the counts of its ``step``."""
        weights = [max(step.of(name), 1.0) for name in (*TERMS, *self.aux_terms)] + [1.0]
        self.sums += torch.cat([terms.stacked(), terms.total.detach().float()[None]]) * self.sums.new_tensor(weights)
        self.counts += torch.tensor(local.stacked(), dtype=torch.float64)

    def means(self) -> dict[str, float]:
        """Return ``loss`` per step and ``loss_<term>`` per thing; terms that had nothing to judge are left out."""
        seen = Counts(*self.counts.tolist())
        values = self.sums.tolist()
        means = {"loss": values[-1] / max(self.steps, 1)}
        named = [*(f"loss_{name}" for name in TERMS), *(f"loss_aux_{name}" for name in self.aux_terms)]
        counts = [seen.of(name) for name in (*TERMS, *self.aux_terms)]
        means |= {name: values[i] / counts[i] for i, name in enumerate(named) if counts[i] > 0}
        return means
