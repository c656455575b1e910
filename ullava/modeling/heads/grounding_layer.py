"""Reading ``[SEG]`` and ``[LOC]`` from a layer in the middle of the language model.

The last layers of a language model turn states into next words; what an object is and where it stands in the sentence
is settled earlier. Heads that read layer k (``grounding_layer: k``) are trained by running k layers only, as long as
no words are judged, and keep their meaning when the layers above are trained for words later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from ullava.errors import UserError

EPSILON = 1e-6


class LayerTap:
    """What layer k gave in the last pass: ``states`` [B, L, D], each divided by its root mean square."""

    states: torch.Tensor

    def __call__(self, module: nn.Module, given: Any, made: Any) -> None:
        """The forward hook on the layer; residual streams grow from layer to layer, so they are brought to one size."""
        states = made if isinstance(made, torch.Tensor) else made[0]
        size = states.float().square().mean(dim=-1, keepdim=True).add(EPSILON).rsqrt()
        self.states = (states.float() * size).to(states.dtype)


class PassStates(NamedTuple):
    """States of one pass [B, L, D]: what the heads read, and what the language head reads."""

    grounding: torch.Tensor
    last: torch.Tensor


def check_grounding_layer(number: int | None, text_config: Any) -> None:
    """Refuse a layer that the language model does not have (UserError)."""
    layers = int(text_config.num_hidden_layers)
    if number is not None and not 1 <= number <= layers:
        raise UserError(f"grounding_layer {number}: the language model has layers 1 to {layers}")


@contextmanager
def tapped_layer(decoder: Any, number: int | None, *, last_needed: bool = True) -> Iterator[LayerTap | None]:
    """Keep what layer ``number`` of ``decoder`` gives within; None: there is nothing to keep.

    Unless ``last_needed``, the layers above do not run, and the decoder's own output means nothing. Transformers'
    decoders run as many of their layers as their config says.
    """
    if number is None:
        yield None
        return
    tap, config = LayerTap(), decoder.config
    hook = decoder.layers[number - 1].register_forward_hook(tap)
    depth = config.num_hidden_layers
    if not last_needed:
        config.num_hidden_layers = number
    try:
        yield tap
    finally:
        config.num_hidden_layers = depth
        hook.remove()
