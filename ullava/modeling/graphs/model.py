"""The model whose networks are graphs: everything between them is the model's own code, as with torch's networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from ullava.errors import UserError
from ullava.examples import HeadImages
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.saved_folder import check_ends, read_saved_config, read_saved_processor
from ullava.modeling.graphs.parts import refuse_unfit
from ullava.modeling.graphs.sessions import Graph, read_graphs
from ullava.modeling.heads.box_contract import BoxHead, Candidates
from ullava.modeling.heads.mask_contract import DecodedMasks, MaskHead, Pyramid
from ullava.modeling.heads.mask_sam import padded_squares
from ullava.modeling.heads.outputs import CACHE
from ullava.modeling.loading.pretrained import CONFIG_FILE, read_generation, reading
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.pixels import normalize_u8
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.modeling.vision.clip_mlp import ClipMlp

Graphs = Mapping[str, Graph]


class GraphLayer(nn.Module):
    """A graph of one input and one output in the place of a layer."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, given: Tensor) -> Tensor:
        """See Graph."""
        (made,) = self.graph(given)
        return made


class GraphHead(GraphLayer):
    """A language head: states [..., D], of a batch [B, L, D] or of things [K, D], -> logits [..., V]."""

    def forward(self, given: Tensor) -> Tensor:
        """See the class."""
        made = super().forward(given.reshape(1, -1, given.shape[-1]))
        return made.reshape(*given.shape[:-1], made.shape[-1])


class GraphVision(ClipMlp):
    """The strategy clip_mlp with graphs for its tower and its projector; ``sizes``: one that has the networks."""

    def __init__(self, sizes: ClipMlp, graphs: Graphs) -> None:
        nn.Module.__init__(self)  # ClipMlp's own would build the networks
        self.kind, self.vision_feature_layer = sizes.kind, sizes.vision_feature_layer
        self.pyramid_levels = sizes.pyramid_levels
        self.spatial_merge_size, self.frame_grid = sizes.spatial_merge_size, sizes.frame_grid
        self.seen = graphs["tower"]
        self.projector = GraphLayer(graphs["projector"])

    def normalize(self, pixels: Tensor) -> Tensor:
        """See TowerVisionEncoder; float32."""
        return normalize_u8(pixels, self.kind.image_mean, self.kind.image_std, torch.float32)

    def patch_states(self, pixels: Tensor) -> Tensor:
        """See TowerVisionEncoder."""
        return self.states_and_pyramid(pixels)[0]

    def states_and_pyramid(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See TowerVisionEncoder."""
        states, *maps = self.seen(pixels)
        return states, tuple(maps)


class GraphDecoder(nn.Module):
    """The layers of a language model as one graph, called as transformers' decoders are.

    ``layers`` stand for its layers: the one that heads read is called with what it gives, for whoever listens there.
    """

    def __init__(self, graph: Graph, config: Any, grounding_layer: int | None) -> None:
        super().__init__()
        self.graph, self.config, self.grounding_layer = graph, config, grounding_layer
        self.layers = nn.ModuleList(nn.Identity() for _ in range(int(config.num_hidden_layers)))
        _, heads, _, size = graph.sizes(graph.inputs[-1])
        self.heads_and_size = cast(tuple[int, int], (heads, size))

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        **known: Any,
    ) -> BaseModelOutputWithPast:
        """Embeddings [B, L, D] -> states [B, L, D], and the cache (``CACHE``) with the new positions in it."""
        cache = known.pop(CACHE, None)
        if known:
            raise UserError(f"the graph of a language model reads no {', '.join(sorted(known))}")
        rows, new = inputs_embeds.shape[:2]
        seen = 0 if cache is None else int(cache.get_seq_length())
        if attention_mask is None:
            attention_mask = torch.ones(rows, seen + new, dtype=torch.int64)
        if position_ids is None:
            position_ids = torch.arange(seen, seen + new).expand(rows, -1)
        past = self._past(cache, rows) if seen else [self._none(rows)] * (2 * len(self.layers))
        states, *made = self.graph(inputs_embeds, attention_mask.long(), position_ids.expand(rows, -1), *past)
        if self.grounding_layer is not None:
            self.layers[self.grounding_layer - 1](made.pop(0))
        if cache is None and use_cache:
            cache = DynamicCache()
        if cache is not None:
            for number, (keys, values) in enumerate(zip(made[0::2], made[1::2], strict=True)):
                cache.update(keys, values, number)
        return BaseModelOutputWithPast(last_hidden_state=states, **{CACHE: cache})

    def _past(self, cache: Any, rows: int) -> list[Tensor]:
        return [kind for layer in cache.layers for kind in (layer.keys, layer.values)]

    def _none(self, rows: int) -> Tensor:
        heads, size = self.heads_and_size
        return torch.zeros(rows, heads, 0, size)


class GraphLanguage(nn.Module):
    """A language model of graphs: the parts that a core asks for."""

    def __init__(self, graphs: Graphs, config: UllavaConfig) -> None:
        super().__init__()
        self.config = config.text_config
        self.words = GraphLayer(graphs["words"])
        self.decoder = GraphDecoder(graphs["language"], config.text_config, config.grounding_layer)
        self.head = GraphHead(graphs["language_head"])

    def get_input_embeddings(self) -> nn.Module:
        """Ids [B, L] -> embeddings [B, L, D]."""
        return self.words

    def get_output_embeddings(self) -> nn.Module:
        """States [..., D] -> logits [..., V]."""
        return self.head

    def get_decoder(self) -> nn.Module:
        """The layers."""
        return self.decoder


class GraphMaskHead(MaskHead):
    """A mask head of two graphs; ``head``: the one whose networks they are."""

    def __init__(self, head: MaskHead, graphs: Graphs) -> None:
        super().__init__()
        self.plane_hw, self.reads_pyramid = head.plane_hw, head.reads_pyramid
        self.encoder, self.decoder = graphs["mask_encoder"], graphs["mask_decoder"]

    def embed(self, images: HeadImages | Pyramid, rows: Tensor) -> list[Tensor]:
        """See MaskHead."""
        if isinstance(images, HeadImages):
            side = self.encoder.sizes(self.encoder.inputs[0])[-1]
            return self.encoder(padded_squares(images, rows, cast(int, side), torch.float32))
        return self.encoder(*(plane[rows] for plane in images))

    def decode(
        self, states: Tensor, features: Any, image_of_state: Tensor, content_hw: tuple[int, int] | None = None
    ) -> DecodedMasks:
        """See MaskHead."""
        return DecodedMasks(*self.decoder(states, image_of_state, *features))


class GraphBoxHead(BoxHead):
    """A box head as a graph; ``head``: the one whose network it is."""

    def __init__(self, head: BoxHead, graph: Graph) -> None:
        super().__init__()
        self.reads_masks = head.reads_masks
        self.graph = graph

    def forward(
        self, given: Tensor, rows: Tensor | None = None, images: HeadImages | None = None
    ) -> tuple[Candidates, ...]:
        """States [K, D], or the planes of masks [K, h, w] -> one box each; see the networks'."""
        boxes = self.graph(given)[0] if len(given) else torch.zeros(0, 1, 4)  # convolutions want at least one
        return (Candidates(boxes, boxes.new_zeros(len(boxes), 1)),)


class GraphModel(UllavaForConditionalGeneration):
    """The model on a CPU, in float32. It answers; it neither trains nor saves."""

    @property
    def device(self) -> torch.device:
        """Where its tensors lie; there are no parameters that tell."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of its real numbers."""
        return torch.float32

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Raises UserError: the weights are in the graphs."""
        raise UserError("a model that runs from graphs is not saved; copy its folder")

    def take(self, graphs: Graphs) -> None:
        """Put graphs in the places of the networks."""
        core: Any = self.core
        vision: Any = core.strategy
        core.language_model = GraphLanguage(graphs, self.config)
        self.set_strategy(GraphVision(vision, graphs))
        self.mask_head = GraphMaskHead(self.mask_head, graphs)
        self.box_head = GraphBoxHead(self.box_head, graphs["box"])


def load_graphs(folder: Path, runtime: str = "onnx") -> tuple[GraphModel, UllavaProcessor]:
    """Load a folder that ``ullava convert onnx`` wrote, to be run by ``runtime``, ``onnx`` or ``openvino``.

    Raises UserError where it is none, or without the package; WeightsError for a graph that is missing or damaged.
    """
    graphs = read_graphs(folder, runtime)
    config = read_saved_config(folder)
    refuse_unfit(config)
    with reading(folder / CONFIG_FILE), torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = GraphModel(config)
    model.take(graphs)
    model.generation_config = read_generation(folder)
    processor = read_saved_processor(folder, config)
    check_ends(model, processor, folder)
    return model.eval(), processor
