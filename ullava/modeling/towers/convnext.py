"""ConvNeXt as a vision tower: a stem and stages, each of which halves the map and widens it.

Hidden state k is the map after stage k (0: the stem's), read row by row; the norm of its mean over the image is read by
nothing. Any number of stages works: ConvLLaVA has five (arXiv 2405.15738).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextModel

from ullava.errors import WeightsError
from ullava.modeling.loading.strict_loading import find_misfits, read_part
from ullava.modeling.pixels import CLIP_MEAN, CLIP_STD
from ullava.modeling.towers.tower_contract import MapTower, trains, without

NORM = "layernorm."
BESIDE = ("classifier.*",)
"""What a ConvNeXt that names classes holds beside the network."""
UNREAD = (f"{NORM}*",)
"""The last norm, which nothing reads; in released five-stage towers it has the fourth stage's width."""


class ConvNextTower(MapTower):
    """CLIP's ConvNeXt (channel statistics of its images), in transformers' form."""

    config_class = ConvNextConfig
    network_class = ConvNextModel
    image_mean, image_std = CLIP_MEAN, CLIP_STD
    beside = BESIDE
    any_size = True
    attends = False

    @property
    def num_layers(self) -> int:
        """The stages."""
        return int(self.config.num_stages)

    def stride(self, layer: int) -> int:
        """The stem's, doubled by every stage after the first."""
        return int(self.config.patch_size) * 2 ** self._last(layer)

    def width(self, layer: int) -> int:
        """Channels of the map."""
        return int(self.config.hidden_sizes[self._last(layer)])

    def _last(self, layer: int) -> int:
        """Number of the last stage that runs, from 0; the stem has the first one's sizes."""
        return max(self.depth(layer), 1) - 1

    def stem(self, network: Any) -> nn.Module:
        """The convolution that reads pixels."""
        found: nn.Module = network.embeddings.patch_embeddings
        return found

    def maps(self, network: Any, pixels: Tensor, layer: int = -1) -> list[Tensor]:
        """Normalized [I, 3, h, w] -> the stem's map and that of every stage up to ``layer`` [I, C, h', w'].

        No gradient below the first stage that trains. Sides that are no multiples of the stride lose their rest at
        every step.
        """
        with torch.set_grad_enabled(trains(network.embeddings)):
            plane = network.embeddings(pixels)
        found = [plane]
        for stage in network.encoder.stages[: self.depth(layer)]:
            with torch.set_grad_enabled(plane.requires_grad or trains(stage)):
                plane = stage(plane)
            found.append(plane)
        return found

    def unread(self, layer: int) -> tuple[str, ...]:
        """The norm behind the last map, and the stages above the chosen one."""
        above = range(self.depth(layer), self.num_layers)
        return (NORM, *(f"encoder.stages.{number}." for number in above))

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Every stage by its number from 1; the stem goes with the first."""
        stages = {f"vision stage {n + 1}": (f"encoder.stages.{n}.",) for n in range(self.num_layers)}
        return stages | {"vision stage 1": ("embeddings.", *stages["vision stage 1"])}

    def load(self, network: nn.Module, folder: Path) -> None:
        """See Tower; stages that the folder's network does not have (the fifth of ConvLLaVA's start) begin at random.

        Raises WeightsError for weights that have no place here or lack in the middle.
        """
        problems = load_stages(network, read_part(ConvNextModel, folder, beside=BESIDE, unread=UNREAD))
        if problems:
            raise WeightsError([f"{folder}: {problem}" for problem in problems])


def load_stages(network: nn.Module, weights: Mapping[str, Tensor]) -> Sequence[str]:
    """Load the stem and as many stages as ``weights`` have, without the last norm; return what is wrong with them."""
    kept = without(weights, NORM)
    stages = {name.split(".")[2] for name in kept if name.startswith("encoder.stages.")}
    absent = [
        name
        for name in network.state_dict()
        if name.startswith(NORM) or (name.startswith("encoder.") and name.split(".")[2] not in stages)
    ]
    problems = find_misfits(network, kept, optional=absent)
    if not problems:
        network.load_state_dict(kept, strict=False)
    return problems
