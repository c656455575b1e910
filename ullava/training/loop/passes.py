"""What one batch is put through: one pass, one for each way of seeing an image, or those and a lesson for the router.

AVG-LLaVA (arXiv 2410.02745, section on training) trains the language model on every granularity and then the router on
what each of them cost. A vision encoder that does not choose has one way of seeing, and all three come to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional

from ullava.config.fields import CountKind
from ullava.errors import ConfigError
from ullava.examples import ModelInputs, VisualInputs
from ullava.losses import answer_nll, ranking_loss
from ullava.modeling.model.vision_batch import context_of
from ullava.text.tokens import IGNORE_LABEL

PassKind = Literal["one", "every", "rank"]
RANKING_TERMS: Mapping[str, CountKind] = {"rglf_ce": "images", "rglf_rank": "images"}
"""What ``rank`` judges itself, with what it is a mean over."""


class Passes:
    """How a batch becomes outputs to be judged.

    ``one``: a pass as the model itself would see the batch. ``every``: a pass for each of the vision encoder's
    candidates, each with a backward pass of its own; the loss is their mean. ``rank``: a pass for each candidate
    without gradient, then the loss of the router's scores (terms ``rglf_ce``, ``rglf_rank``) against what the answers
    cost.

    Raises ConfigError where the vision encoder has nothing to choose between.
    """

    def __init__(self, kind: PassKind = "one", strategy: Any = None) -> None:
        self.kind = kind
        self.candidates: tuple[Mapping[str, Any], ...] = () if kind == "one" else tuple(strategy.candidates())
        if kind != "one" and len(self.candidates) < 2:
            raise ConfigError(
                f"passes: {kind} is for a vision encoder that chooses how to see an image; this one does not"
            )
        if kind == "rank" and not hasattr(strategy, "router_logits"):
            raise ConfigError("passes: rank teaches a router; the model's vision encoder has none")
        own: dict[str, CountKind] = {} if strategy is None else dict.fromkeys(strategy.aux_terms, "tokens")
        self.aux_terms: Mapping[str, CountKind] = {**own, **(RANKING_TERMS if kind == "rank" else {})}

    def variants(self) -> Sequence[Mapping[str, Any]]:
        """The overrides of the passes that each have a backward pass of their own; the loss is the mean over them."""
        return self.candidates if self.kind == "every" else ({},)

    def cached_features(self, model: nn.Module, inputs: ModelInputs) -> ModelInputs:
        """A batch with what all of its passes share computed beforehand (VisionStrategy.seen_once)."""
        seen = _network(model).vision.cached_features

        def with_seen(visual: VisualInputs | None) -> VisualInputs | None:
            return None if visual is None else replace(visual, views={**visual.views, **seen(visual.views)})

        return replace(inputs, images=with_seen(inputs.images), videos=with_seen(inputs.videos))

    def __call__(self, model: nn.Module, inputs: ModelInputs) -> Any:
        """Run the model on one variant of a batch and return its output."""
        if self.kind != "rank":
            return model(**inputs.as_kwargs())
        return self._rank(model, inputs)

    def _rank(self, model: nn.Module, inputs: ModelInputs) -> Any:
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
        scored = self._scores(model, inputs)
        if scored is None:
            return output
        logits, rows = scored
        terms = ranking_loss(logits, torch.stack(costs, dim=1)[rows])
        own = dict(output.aux or {}) | dict(zip(RANKING_TERMS, (terms.ce, terms.rank), strict=True))
        return replace(output, aux=own)

    @staticmethod
    def _scores(model: nn.Module, inputs: ModelInputs) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The router's scores [n, L] for the images of a batch and their rows [n]; None without images."""
        shown = inputs.images
        if shown is None or shown.row is None:
            return None
        network = _network(model)
        context = context_of(inputs, shown, network.embed_instruction(inputs))
        return network.vision.router_logits(shown.views, context), shown.row


def _network(model: nn.Module) -> Any:
    """The model below what wraps it for several processes."""
    network = cast(Any, model)
    while not hasattr(network, "vision"):
        network = network.module
    return network
