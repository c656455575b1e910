"""What becomes a graph: thin modules around the networks of a model, with plain tensors in and out.

A graph ends where the model's own code goes on with what it gives: normalizing pixels, putting visual tokens into the
text, finding ``[SEG]`` and mapping masks back are no parts of graphs. Letters: I images, P patches, B rows, L new
positions, T earlier ones, K states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ullava.errors import UserError
from ullava.modeling.cpu.sam import decode_as_published
from ullava.modeling.heads.mask_sam import SamMaskHead
from ullava.modeling.heads.mask_sam2 import Sam2MaskHead
from ullava.modeling.heads.outputs import CACHE
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.vision.clip_mlp import ClipMlp

Sizes = Mapping[str, int]
"""How long the open axes are, by their letters."""

BOTH = "T+L"
"""The axis that is as long as two others together."""
BOXES = ("regression", "mask")


@dataclass(frozen=True, slots=True)
class Port:
    """An input of a graph: ``axes`` are letters where they are open, numbers elsewhere.

    ``below``: it holds whole numbers below that, or below the length of that axis; None = real numbers.
    """

    name: str
    axes: tuple[str | int, ...]
    below: str | int | None = None

    def example(self, sizes: Sizes, generator: torch.Generator) -> Tensor:
        """A tensor of these sizes."""
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.axes)
        if self.below is None:
            return torch.randn(shape, generator=generator)
        end = sizes[self.below] if isinstance(self.below, str) else self.below
        return torch.randint(0, end, shape, generator=generator)

    def open_axes(self) -> dict[int, str]:
        """The open axes by their numbers."""
        return {number: axis for number, axis in enumerate(self.axes) if isinstance(axis, str)}


@dataclass(frozen=True, slots=True)
class GraphPart:
    """One graph: the module, its inputs in order, the names of its outputs."""

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]

    def examples(self, sizes: Sizes, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of these sizes."""
        generator = torch.Generator().manual_seed(seed)
        known = {**sizes, BOTH: sizes["T"] + sizes["L"]}
        return tuple(port.example(known, generator) for port in self.inputs)


# ------------------------------------------------------------ modules
class TowerPart(nn.Module):
    """Normalized pixels [I, 3, R, R] -> states [I, P, width], then the maps of the pyramid, if there is one."""

    def __init__(self, strategy: ClipMlp) -> None:
        super().__init__()
        self.strategy = strategy

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        states, pyramid = self.strategy.states_and_pyramid(pixels)
        return (states, *pyramid)


class _NewStates(DynamicCache):
    """A cache that keeps apart what a pass adds to it: ``added``, keys and values by turns."""

    def __init__(self, past: Sequence[Tensor]) -> None:
        self.added: list[Tensor] = []
        super().__init__()
        for number, pair in enumerate(zip(past[0::2], past[1::2], strict=True)):
            super().update(*pair, number)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """See DynamicCache."""
        self.added += [key_states, value_states]
        whole: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
        return whole


class DecoderPart(nn.Module):
    """One step of the language model.

    Embeddings [B, L, D], mask [B, T + L], positions [B, L], keys and values [B, H, T, d] of every layer -> states
    [B, L, D], those of the grounding layer where there is one, and the keys and values of the L new positions.
    """

    def __init__(self, decoder: Any, grounding_layer: int | None) -> None:
        super().__init__()
        self.decoder = decoder
        self.grounding_layer = grounding_layer

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> Any:
        """See the class."""
        new, seen = inputs_embeds.shape[1], past[0].shape[2]
        cache = _NewStates(past)
        places = torch.arange(seen + new)
        known = (places[None] <= places[seen:, None])[None, None] & attention_mask[:, None, None].bool()
        bias = torch.where(known, 0.0, torch.finfo(inputs_embeds.dtype).min)
        kept: list[Tensor] = []
        layer = None if self.grounding_layer is None else self.decoder.layers[self.grounding_layer - 1]
        hook = None if layer is None else layer.register_forward_hook(lambda _module, _given, made: kept.append(made))
        try:
            made = self.decoder(
                inputs_embeds=inputs_embeds,
                attention_mask=bias,
                position_ids=position_ids,
                use_cache=True,
                **{CACHE: cache},
            )
        finally:
            if hook is not None:
                hook.remove()
        tapped = [states if isinstance(states, Tensor) else states[0] for states in kept]
        return (made.last_hidden_state, *tapped, *cache.added)


class SamEncoderPart(nn.Module):
    """Normalized squares [I, 3, S, S] -> embeddings [I, C, g, g]."""

    def __init__(self, head: SamMaskHead) -> None:
        super().__init__()
        self.encoder = head.sam.vision_encoder

    def forward(self, squares: Tensor) -> Tensor:
        """See the class."""
        made: Tensor = self.encoder(squares).last_hidden_state
        return made


class SamDecoderPart(nn.Module):
    """States [K, D], embeddings [I, C, g, g] and which of them each speaks of [K] -> masks [K, 4g, 4g], scores [K]."""

    def __init__(self, head: SamMaskHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, states: Tensor, image_of_state: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return decode_as_published(self.head.sam, self.head.projector(states), embeddings, image_of_state)


class Sam2EncoderPart(nn.Module):
    """The pyramid's maps [I, C, h, w], finest first -> what the decoder reads of them."""

    def __init__(self, head: Sam2MaskHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *pyramid: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return tuple(self.head.embed_maps(pyramid))


class Sam2DecoderPart(nn.Module):
    """States [K, D], the encoder's maps and which image each speaks of [K] -> masks, scores, presence."""

    def __init__(self, head: Sam2MaskHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, states: Tensor, image_of_state: Tensor, *features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        made = self.head.decode(states, list(features), image_of_state)
        if made.presence_logits is None:
            raise UserError("mask.kind sam2 tells presence; this head does not")
        return made.mask_logits_lowres, made.scores, made.presence_logits


class BoxPart(nn.Module):
    """States [K, D] or planes [K, h, w] -> boxes [K, 1, 4] in the head's frame."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, given: Tensor) -> Tensor:
        """See the class."""
        boxes: Tensor = self.head(given)[-1].boxes_xyxy_head
        return boxes


# ------------------------------------------------------------ the parts of a model
def refuse_unfit(config: Any) -> None:
    """Raise UserError with a line for each thing of a model that no graph can be made of."""
    problems = []
    if config.core_kind != "spliced":
        problems.append(f"core.kind {config.core_kind}: graphs are made of models with core.kind spliced")
    elif config.strategy != "clip_mlp":
        problems.append(f"vision.strategy {config.strategy}: graphs are made of vision.strategy clip_mlp")
    if config.region_grid is not None:
        problems.append("vision.regions: no graph is made of what questions point with")
    if (config.mask_kind, config.mask_encoder) not in (("sam", "own"), ("sam2", "vision")):
        problems.append(
            f"mask.kind {config.mask_kind} with mask.encoder {config.mask_encoder}: graphs are made of sam, and of "
            "sam2 with mask.encoder vision"
        )
    if config.box_kind not in BOXES:
        problems.append(f"box.kind {config.box_kind}: graphs are made of {' and '.join(BOXES)}")
    kinds = set(getattr(config.text_config, "layer_types", None) or ())
    if kinds - {"full_attention"} or getattr(config.text_config, "sliding_window", None):
        problems.append("language: graphs are made of language models whose every layer attends to all positions")
    if problems:
        raise UserError(problems)


def parts_of(model: UllavaForConditionalGeneration) -> Iterator[GraphPart]:
    """The parts of a model that ``refuse_unfit`` lets pass, in the order in which an answer runs them."""
    strategy: Any = model.core.strategy
    config = model.config.text_config
    width, rows = int(config.hidden_size), int(config.vocab_size)
    with torch.no_grad():
        shown = TowerPart(strategy)(torch.zeros(1, 3, strategy.kind.side, strategy.kind.side))
    maps = tuple(f"map_{number}" for number in range(len(shown) - 1))
    pixels = Port("pixels", ("I", 3, strategy.kind.side, strategy.kind.side))
    yield GraphPart("tower", TowerPart(strategy), (pixels,), ("states", *maps))
    merged = int(shown[0].shape[-1]) * strategy.spatial_merge_size**2
    yield GraphPart("projector", strategy.projector, (Port("states", ("I", "P", merged)),), ("tokens",))
    yield GraphPart("words", model.get_input_embeddings(), (Port("input_ids", ("B", "L"), rows),), ("embeddings",))
    yield _language_part(model, width)
    yield GraphPart("language_head", model.get_output_embeddings(), (Port("states", ("B", "L", width)),), ("logits",))
    planes = tuple(Port(name, ("I", *plane.shape[1:])) for name, plane in zip(maps, shown[1:], strict=True))
    yield from _mask_parts(model.mask_head, width, planes)
    given = Port("planes", ("K", *model.mask_head.plane_hw)) if model.box_head.reads_masks else _states(width)
    yield GraphPart("box", BoxPart(model.box_head), (given,), ("boxes",))


def _states(width: int) -> Port:
    return Port("states", ("K", width))


def _language_part(model: UllavaForConditionalGeneration, width: int) -> GraphPart:
    config = model.config.text_config
    heads, size = cache_sizes(config)
    names = cache_names(int(config.num_hidden_layers))
    past = tuple(Port(f"past_{name}", ("B", heads, "T", size)) for name in names)
    known = (Port("inputs_embeds", ("B", "L", width)), Port("attention_mask", ("B", BOTH), 2))
    places = Port("position_ids", ("B", "L"), "L")
    tapped = () if model.config.grounding_layer is None else ("grounding_states",)
    module = DecoderPart(model.core.decoder, model.config.grounding_layer)
    return GraphPart("language", module, (*known, places, *past), ("states", *tapped, *names))


def cache_sizes(config: Any) -> tuple[int, int]:
    """How many heads keys and values have, and how wide each is."""
    heads = int(config.num_attention_heads)
    size = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    return int(getattr(config, "num_key_value_heads", None) or heads), int(size)


def cache_names(layers: int) -> tuple[str, ...]:
    """What the keys and values of the layers are called, in order."""
    return tuple(f"{kind}_{number}" for number in range(layers) for kind in ("keys", "values"))


def _mask_parts(head: nn.Module, width: int, planes: Sequence[Port]) -> Iterator[GraphPart]:
    which = Port("image_of_state", ("K",), "I")
    if isinstance(head, SamMaskHead):
        squares = Port("squares", ("I", 3, head.side, head.side))
        grid, channels = head.plane_hw[0] // 4, int(head.sam.config.prompt_encoder_config.hidden_size)
        embeddings = Port("embeddings", ("I", channels, grid, grid))
        yield GraphPart("mask_encoder", SamEncoderPart(head), (squares,), ("embeddings",))
        yield GraphPart("mask_decoder", SamDecoderPart(head), (_states(width), which, embeddings), ("masks", "scores"))
        return
    if not isinstance(head, Sam2MaskHead):
        raise UserError("graphs are made of mask.kind sam and sam2")
    encoder = Sam2EncoderPart(head)
    with torch.no_grad():
        made = encoder(*(torch.zeros(1, *plane.axes[1:]) for plane in planes))  # type: ignore[arg-type]
    names = tuple(f"feature_{number}" for number in range(len(made)))
    features = tuple(Port(name, ("I", *plane.shape[1:])) for name, plane in zip(names, made, strict=True))
    yield GraphPart("mask_encoder", encoder, tuple(planes), names)
    inputs = (_states(width), which, *features)
    yield GraphPart("mask_decoder", Sam2DecoderPart(head), inputs, ("masks", "scores", "presence"))
