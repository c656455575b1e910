"""EfficientNet-Lite: MobileNetV2's blocks at EfficientNet's sizes, without squeeze-excitation, ReLU6 throughout.

Tan and Le, arXiv 1905.11946; the Lite variants of the TensorFlow TPU repository (2020), which are made for CPUs. The
network of transformers' ``EfficientNetModel`` always has squeeze-excitation, hence this one.

A normalization always uses its stored mean and variance, in training too: batches of a few images have no statistics
worth the name. What is constant can be multiplied into the weights, so that normalizing costs nothing for each pixel;
its scale and shift still train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithNoAttention


class EfficientNetLiteConfig(PreTrainedConfig):
    """Sizes of an EfficientNet-Lite; the defaults are those of Lite0.

    For each stage of blocks: ``hidden_sizes`` channels that it gives, ``depths`` blocks, ``strides`` of its first
    block, ``kernel_sizes`` of its depthwise convolutions, ``expand_ratios`` by which a block widens within.
    ``stem_size``: channels of the stem, which has stride 2; ``head_size``: those of the last 1 x 1 convolution.
    """

    model_type = "efficientnet_lite"

    def __init__(
        self,
        image_size: int = 224,
        num_channels: int = 3,
        stem_size: int = 32,
        hidden_sizes: Sequence[int] = (16, 24, 40, 80, 112, 192, 320),
        depths: Sequence[int] = (1, 2, 2, 3, 3, 4, 1),
        strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1),
        kernel_sizes: Sequence[int] = (3, 3, 5, 3, 5, 5, 3),
        expand_ratios: Sequence[int] = (1, 6, 6, 6, 6, 6, 6),
        head_size: int = 1280,
        batch_norm_eps: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.num_channels = num_channels
        self.stem_size = stem_size
        self.hidden_sizes = list(hidden_sizes)
        self.depths = list(depths)
        self.strides = list(strides)
        self.kernel_sizes = list(kernel_sizes)
        self.expand_ratios = list(expand_ratios)
        self.head_size = head_size
        self.batch_norm_eps = batch_norm_eps
        super().__init__(**kwargs)
        by_stage = ("hidden_sizes", "depths", "strides", "kernel_sizes", "expand_ratios")
        sizes = {name: len(getattr(self, name)) for name in by_stage}
        if len(set(sizes.values())) != 1:
            told = ", ".join(f"{size} {name}" for name, size in sizes.items())
            raise ValueError(f"an EfficientNet-Lite has one entry of each list for each stage, not {told}")


class NormedConvolution(nn.Module):
    """A convolution without a bias, then a normalization by stored statistics; padded as TensorFlow's ``same``."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels_in: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.weight = nn.Parameter(torch.empty(channels, channels_in // groups, kernel, kernel))
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.eps = 1e-3
        nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def forward(self, plane: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, C', ceil(h / stride), ceil(w / stride)]."""
        factor = self.scale * torch.rsqrt(self.variance + self.eps)
        weight = self.weight * factor[:, None, None, None]
        bias = self.shift - self.mean * factor
        (top, below), (left, right) = (self._padding(size) for size in plane.shape[-2:])
        if (top, left) != (below, right):
            plane, top, left = functional.pad(plane, (left, right, top, below)), 0, 0
        return functional.conv2d(plane, weight, bias, self.stride, (top, left), groups=self.groups)

    def _padding(self, size: int) -> tuple[int, int]:
        """Zeros before and after an axis of ``size``; where they cannot be equal, one more after it."""
        needed = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        return needed // 2, needed - needed // 2


class InvertedBlock(nn.Module):
    """Widen, convolve each channel alone, narrow; added to what came in where shapes allow."""

    def __init__(self, channels_in: int, channels: int, *, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = channels_in * expand
        self.expand = NormedConvolution(channels_in, inner, 1) if expand > 1 else None
        self.depthwise = NormedConvolution(inner, inner, kernel, stride=stride, groups=inner)
        self.project = NormedConvolution(inner, channels, 1)
        self.adds = stride == 1 and channels_in == channels

    def forward(self, plane: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, C', h / stride, w / stride]."""
        inner = plane if self.expand is None else functional.relu6(self.expand(plane), inplace=True)
        inner = functional.relu6(self.depthwise(inner), inplace=True)
        narrow: Tensor = self.project(inner)
        return plane + narrow if self.adds else narrow


class EfficientNetLiteModel(PreTrainedModel):
    """Stem, stages of blocks, and the last widening. ``layers`` are all of them after the stem, in order."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = NormedConvolution(config.num_channels, config.stem_size, 3, stride=2)
        layers: list[nn.Module] = []
        channels = config.stem_size
        sizes = zip(
            config.hidden_sizes, config.depths, config.strides, config.kernel_sizes, config.expand_ratios, strict=True
        )
        for width, depth, stride, kernel, expand in sizes:
            blocks = []
            for number in range(depth):
                step = stride if number == 0 else 1
                blocks.append(InvertedBlock(channels, width, kernel=kernel, stride=step, expand=expand))
                channels = width
            layers.append(nn.Sequential(*blocks))
        layers.append(nn.Sequential(NormedConvolution(channels, config.head_size, 1), nn.ReLU6(inplace=True)))
        self.layers = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, NormedConvolution):
                module.eps = config.batch_norm_eps
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, NormedConvolution):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            for ones in (module.scale, module.variance):
                nn.init.ones_(ones)
            for zeros in (module.shift, module.mean):
                nn.init.zeros_(zeros)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Normalized [I, 3, h, w] -> the stem's map [I, C, h / 2, w / 2]."""
        return functional.relu6(self.stem(pixel_values), inplace=True)

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool = False, **_: Any
    ) -> BaseModelOutputWithNoAttention:
        """All layers; ``hidden_states``: the stem's map and that of every layer [I, C, h', w']."""
        states = [self.embed(pixel_values)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        kept = tuple(states) if output_hidden_states else None
        return BaseModelOutputWithNoAttention(last_hidden_state=states[-1], hidden_states=kept)
