"""The contract of a vision tower: all that a vision encoder knows of the network that looks at the pixels.

The network itself is transformers' own class, so that weights keep its names and its files load as they are. A
``Tower`` stands beside it and says how it is read. It holds the config and no weights; methods that need the network
are given it, because training may wrap, move or share out what it holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ullava.errors import UserError
from ullava.geometry.patches import patch_grid_side
from ullava.modeling.loading.strict_loading import load_part, read_part
from ullava.modeling.pixels import normalize_u8
from ullava.modeling.positions import SAM_SCALE, resize_positions, sincos_grid

FINEST_STRIDE = 4
"""Of the levels of a pyramid: the stem's own map, which some towers have at half of the image's size, is none."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a tower's pyramid: the hidden state ``layer``, ``channels`` wide, a cell for ``stride`` pixels."""

    stride: int
    channels: int
    layer: int


class Tower(ABC):
    """One kind of vision tower, for one config of it.

    ``layer`` everywhere: the hidden state that is read, counted as transformers does: 0 is what enters the first layer,
    k what layer k gives, -1 the last.
    """

    config_class: ClassVar[type[PreTrainedConfig]]
    network_class: ClassVar[type[PreTrainedModel]]
    image_mean: ClassVar[tuple[float, float, float]]
    image_std: ClassVar[tuple[float, float, float]]
    """What it was trained with, on the 0-1 scale."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Patterns of what its files may hold beside it (the text half), left out by name."""
    any_size: ClassVar[bool] = False
    """Whether it sees images of any height and width, or squares of its ``image_size`` alone."""
    attends: ClassVar[bool] = True
    """Whether there are attention kernels to choose between."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.side = int(config.image_size)

    # ------------------------------------------------------------ sizes
    @property
    @abstractmethod
    def num_layers(self) -> int:
        """How many layers there are to read."""

    @abstractmethod
    def stride(self, layer: int) -> int:
        """Pixels along each side of what becomes one state of ``layer``."""

    @abstractmethod
    def width(self, layer: int) -> int:
        """Channels of a state of ``layer``."""

    def depth(self, layer: int) -> int:
        """How many layers run for hidden state ``layer``. Raises UserError where there is no such state."""
        if not -self.num_layers - 1 <= layer <= self.num_layers:
            raise UserError(f"vision.vision_feature_layer {layer}: the tower has {self.num_layers} layers")
        return layer % (self.num_layers + 1)

    def grid_side(self, layer: int, side: int | None = None) -> int:
        """States along a side of a square of ``side`` pixels (``image_size`` if not given)."""
        return patch_grid_side(self.side if side is None else side, self.stride(layer))

    # ------------------------------------------------------------ the network
    def build(self) -> PreTrainedModel:
        """The network, with transformers' own starting values."""
        return self.network_class(self.config)

    @abstractmethod
    def stem(self, network: Any) -> nn.Module:
        """The layer that reads the pixels; they come in the type of its ``weight``."""

    def normalize(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """uint8 [I, 3, h, w] -> what the network reads, in its type; a float tensor is taken as normalized already."""
        dtype: torch.dtype = self.stem(network).weight.dtype  # type: ignore[assignment,union-attr]
        return normalize_u8(pixels, self.image_mean, self.image_std, dtype)

    @abstractmethod
    def patch_states(self, network: Any, pixels: Tensor, layer: int) -> Tensor:
        """Normalized [I, 3, h, w] -> states of the patches [I, P, width], row by row; only the layers needed run.

        Tokens that are no patches are left out. Without gradient where the network does not train.
        """

    @abstractmethod
    def unread(self, layer: int) -> tuple[str, ...]:
        """Prefixes of the network's parameters that no pass reads."""

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Prefixes of its parameters by the name that stages and recipes call them, where it is trained in parts."""
        return {"vision tower": ("",)}

    def levels(self) -> tuple[Level, ...]:
        """Its pyramid, finest first, each level of twice the stride of the one before; empty = it has none."""
        return ()

    # ------------------------------------------------------------ its start
    def load(self, network: nn.Module, folder: Path) -> None:
        """Read pretrained weights into ``network``.

        Raises WeightsError with a line for each weight that is missing, unexpected or of another shape.
        """
        weights = read_part(self.network_class, folder, beside=self.beside)
        load_part(network, self.fitted(network, weights), folder)

    def fitted(self, network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a folder as ``network`` can take them, where sizes may differ."""
        return weights

    def start(self, network: Any) -> None:  # noqa: B027 (most have nothing to set)
        """Set starting values of a network without pretrained weights, where transformers' are meant for large ones."""


class MapTower(Tower):
    """A tower of convolutions, whose states are maps that become coarser."""

    @abstractmethod
    def maps(self, network: Any, pixels: Tensor, layer: int = -1) -> list[Tensor]:
        """Normalized [I, 3, h, w] -> the stem's map and that of every layer up to ``layer`` [I, C, h', w'].

        No gradient below the first layer that trains.
        """

    def patch_states(self, network: Any, pixels: Tensor, layer: int) -> Tensor:
        """See Tower."""
        return self.maps(network, pixels, layer)[-1].flatten(2).transpose(1, 2)

    def levels(self) -> tuple[Level, ...]:
        """The last state of every stride; see Tower."""
        last = {self.stride(layer): layer for layer in range(1, self.num_layers + 1)}
        return tuple(
            Level(stride, self.width(layer), layer) for stride, layer in sorted(last.items()) if stride >= FINEST_STRIDE
        )


class VitTower(Tower):
    """A plain vision transformer: one grid of patches of one width, a learned position for each."""

    stem_name: ClassVar[str]
    layers_name: ClassVar[str]
    table_name: ClassVar[str]
    """Where the network has its patch embedding, the list of its layers, and its position table ([1,] N, width)."""
    never_read: ClassVar[tuple[str, ...]] = ()
    """Prefixes of parameters that no hidden state depends on (a norm after the last layer)."""
    ahead: ClassVar[int] = 0
    """Rows of the table before those of the patches (a class token's)."""
    table_scale: ClassVar[float] = SAM_SCALE
    """Size of the sine-cosine table that a fresh tower starts with; it is added to the patches as they are."""
    antialias: ClassVar[bool] = False
    """Whether transformers smooths the position table when it makes it smaller."""

    @property
    def num_layers(self) -> int:
        """The encoder's."""
        return int(self.config.num_hidden_layers)

    def stride(self, layer: int) -> int:
        """The side of a patch, at every layer."""
        return int(self.config.patch_size)

    def width(self, layer: int) -> int:
        """The same at every layer."""
        return int(self.config.hidden_size)

    @property
    def extra(self) -> int:
        """Tokens before those of the patches."""
        return self.ahead

    def stem(self, network: Any) -> nn.Module:
        """The patch embedding."""
        found: nn.Module = network.get_submodule(self.stem_name)
        return found

    def embed(self, network: Any, pixels: Tensor) -> Tensor:
        """What enters the first layer [I, extra + P, width]."""
        states: Tensor = network.embeddings(pixels)
        return states

    def unread(self, layer: int) -> tuple[str, ...]:
        """The layers above the chosen hidden state, and what no state depends on."""
        above = range(self.depth(layer), self.num_layers)
        return (*self.never_read, *(f"{self.layers_name}.{number}." for number in above))

    def patch_states(self, network: Any, pixels: Tensor, layer: int) -> Tensor:
        """See Tower."""
        with torch.set_grad_enabled(trains(network)):
            states = self.embed(network, pixels)
            for block in network.get_submodule(self.layers_name)[: self.depth(layer)]:
                made = block(states, attention_mask=None)
                states = made if isinstance(made, Tensor) else made[0]
            return states[:, self.extra :]

    def fitted(self, network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The position table resized where ``image_size`` is another than the folder's."""
        table, wanted = weights[self.table_name], network.state_dict()[self.table_name]
        if table.shape == wanted.shape:
            return weights
        resized = resize_positions(table, self.grid_side(-1), self.ahead, antialias=self.antialias)
        return weights | {self.table_name: resized}

    @torch.no_grad()
    def start(self, network: Any) -> None:
        """The position table; see ullava.modeling.positions."""
        table = network.get_parameter(self.table_name)
        patches = table.view(-1, table.shape[-1])[self.ahead :]
        if table.shape[-1] % 4 == 0:
            patches.copy_(self.table_scale * sincos_grid(round(len(patches) ** 0.5), table.shape[-1]))


def trains(module: nn.Module) -> bool:
    """Whether a pass through ``module`` has to keep what its gradient needs."""
    return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in module.parameters())


def without(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """``weights`` but for those below ``prefix``."""
    return {name: value for name, value in weights.items() if not name.startswith(prefix)}
