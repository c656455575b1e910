"""How a batch is run in training: what a vision strategy answers to ``passes`` of a recipe.

A strategy that sees an item in one way runs each batch once. One that may choose offers further kinds
(``VisionStrategy.passes``); the trainer knows of none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from ullava.config.fields import CountKind
from ullava.examples import ModelInputs, VisualInputs


class Passes:
    """A batch is run once, as the model itself sees it.

    ``aux_terms``: the loss terms that the passes judge themselves, with what each is a mean over. ``repeats``: whether
    the network runs several times for a batch.
    """

    repeats = False

    def __init__(self, aux_terms: Mapping[str, CountKind] | None = None) -> None:
        self.aux_terms: Mapping[str, CountKind] = dict(aux_terms or {})

    def variants(self) -> Sequence[Mapping[str, Any]]:
        """The overrides of the passes that each have a backward pass of their own; the loss is the mean over them."""
        return ({},)

    def cached_features(self, model: nn.Module, inputs: ModelInputs) -> ModelInputs:
        """A batch with what all of its passes share computed beforehand."""
        return inputs

    def __call__(self, model: nn.Module, inputs: ModelInputs) -> Any:
        """Run the model on one variant of a batch and return its output."""
        return model(**inputs.as_kwargs())


class EveryCandidate(Passes):
    """A pass for each of a strategy's ``candidates``, each with a backward pass of its own; the loss is their mean."""

    repeats = True

    def __init__(
        self, candidates: Sequence[Mapping[str, Any]], aux_terms: Mapping[str, CountKind] | None = None
    ) -> None:
        super().__init__(aux_terms)
        self.candidates = tuple(candidates)

    def variants(self) -> Sequence[Mapping[str, Any]]:
        """The candidates."""
        return self.candidates

    def cached_features(self, model: nn.Module, inputs: ModelInputs) -> ModelInputs:
        """A batch with the views that no override changes (``VisionStrategy.seen_once``)."""
        seen = network_of(model).vision.cached_features

        def with_seen(visual: VisualInputs | None) -> VisualInputs | None:
            return None if visual is None else replace(visual, views={**visual.views, **seen(visual.views)})

        return replace(inputs, images=with_seen(inputs.images), videos=with_seen(inputs.videos))


def network_of(model: nn.Module) -> Any:
    """The model below what wraps it for several processes."""
    network = cast(Any, model)
    while not hasattr(network, "vision"):
        network = network.module
    return network
