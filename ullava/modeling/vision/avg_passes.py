"""The lesson of AVG-LLaVA's router: which granularity answers at what cost (arXiv 2410.02745, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ullava.config.fields import CountKind
from ullava.examples import ModelInputs
from ullava.losses import answer_nll, ranking_loss
from ullava.modeling.vision.passes import EveryCandidate, network_of
from ullava.modeling.vision.vision_batch import context_of
from ullava.text.tokens import IGNORE_LABEL

RANKING_TERMS: Mapping[str, CountKind] = {"rglf_ce": "images", "rglf_rank": "images"}
"""What the lesson is judged by, with what it is a mean over."""


class RankedCandidates(EveryCandidate):
    """A pass for each candidate without gradient, then the loss of the router's scores against what the answers cost.

    ``aux_terms``: further ones, of the strategy itself.
    """

    def __init__(
        self, candidates: Sequence[Mapping[str, Any]], aux_terms: Mapping[str, CountKind] | None = None
    ) -> None:
        super().__init__(candidates, {**(aux_terms or {}), **RANKING_TERMS})

    def variants(self) -> Sequence[Mapping[str, Any]]:
        """One: the candidates have no backward pass of their own."""
        return ({},)

    def __call__(self, model: nn.Module, inputs: ModelInputs) -> Any:
        """The costs of all candidates, then the router's loss on the output of the last one.

        The last pass keeps its gradient, which is that of ``idle`` alone where nothing but the router trains: wrappers
        for several processes only wait for gradients after such a pass.
        """
        assert inputs.labels is not None  # the collator writes them
        labels = inputs.labels[:, 1:]
        supervised = labels != IGNORE_LABEL
        row = supervised.nonzero()[:, 0]
        costs = []
        for place, overrides in enumerate(self.candidates):
            with torch.set_grad_enabled(place == len(self.candidates) - 1):
                output = model(**replace(inputs, overrides=overrides).as_kwargs())
            each = functional.cross_entropy(output.supervised_logits.detach().float(), output.targets, reduction="none")
            costs.append(answer_nll(each, row, len(labels)))
        scored = router_scores(model, inputs)
        if scored is None:
            return output
        logits, rows = scored
        terms = ranking_loss(logits, torch.stack(costs, dim=1)[rows])
        own = dict(output.aux or {}) | dict(zip(RANKING_TERMS, (terms.ce, terms.rank), strict=True))
        return replace(output, aux=own)


def router_scores(model: nn.Module, inputs: ModelInputs) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The router's scores [n, L] for the images of a batch and their rows [n]; None without images."""
    shown = inputs.images
    if shown is None or shown.row is None:
        return None
    network = network_of(model)
    context = context_of(inputs, shown, network.core.embed_instruction(inputs))
    return network.vision.router_logits(shown.views, context), shown.row
