"""The contract of a core: what reads text and images and hands its last hidden states to the heads.

The model, the training code and the builders see nothing else of it, and never ask which one they have. A core owns
its networks and names them (``modules``); the model registers them under those names, so that a saved folder, a stage
and a report speak of the same weights. It says itself where its embeddings, decoder layers and output head are, which
ids stand for images and videos, which image a position speaks of, and who generates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig

from ullava.errors import ConfigError, UserError
from ullava.examples import ModelInputs
from ullava.modeling.cpu.products import words_of_few
from ullava.modeling.vision.passes import Passes
from ullava.modeling.vision.strategy import VisionOutput, VisionStrategy

TAKES_NO_REGIONS = "this model takes no regions: its model.yaml has no vision.regions"
"""Said to who points at a region all the same."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CoreInputs:
    """What the decoder runs on.

    ``input_ids``, ``attention_mask``, ``labels`` [B, L']: the text after expansion, every visual token with an id of
    its own. ``input_ids`` is None where somebody gave embeddings without ids. ``arguments``: keyword arguments of the
    decoder and of ``generate`` beside those. ``dialogues``: see ModelInputs, of the text after expansion. ``images``,
    ``videos``: what a vision strategy made of them; None where there are none or the core encodes them within its
    decoder. ``regions``: how many the questions point at.
    """

    input_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    dialogues: torch.Tensor | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    images: VisionOutput | None = None
    videos: VisionOutput | None = None
    regions: int = 0

    def visual(self) -> Iterator[VisionOutput]:
        """Yield what there is of images and videos."""
        return (output for output in (self.images, self.videos) if output is not None)


@dataclass(frozen=True, slots=True)
class CorePart:
    """Parameters whose names in the model begin with one of ``prefixes``.

    ``kind``: what stages train alike. ``name``: how tables and recipes call it; the first part whose prefix fits has a
    parameter.
    """

    name: str
    prefixes: tuple[str, ...]
    kind: Literal["language", "head", "tower", "projector"]


class Core(ABC):
    """One way in which language and vision meet.

    ``kind``: its name in ``core.kind`` of model.yaml.
    """

    kind: ClassVar[str]

    # ------------------------------------------------------------ parts
    @property
    @abstractmethod
    def text_config(self) -> PreTrainedConfig:
        """The config of the decoder: hidden size, vocabulary, positions."""

    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """The networks by the names that the model registers them under, in order."""

    @abstractmethod
    def language(self) -> tuple[str, nn.Module]:
        """The name and the network in which words are embedded, decoded and said."""

    def adapted(self) -> tuple[str, nn.Module]:
        """The name (dotted, in the model) and the network that LoRA's adapters go into."""
        return self.language()

    @abstractmethod
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The layers that every pass of every batch runs through once."""

    @property
    def decoder(self) -> Any:
        """The network of these layers, without the language head."""
        return self._language.get_decoder()

    @abstractmethod
    def parts(self) -> tuple[CorePart, ...]:
        """Every parameter of the core by what it is for."""

    @property
    def strategy(self) -> VisionStrategy | None:
        """The vision strategy, where the core has one."""
        return None

    def set_strategy(self, strategy: VisionStrategy) -> None:
        """Take another vision strategy. Raises UserError for a core without one."""
        raise UserError(f"core {self.kind} has no vision strategy: it sees with its own vision encoder")

    def unread(self) -> tuple[str, ...]:
        """Prefixes of parameters that no pass reads."""
        return ()

    @property
    def choices(self) -> tuple[str, ...]:
        """See VisionStrategy.choices."""
        return self.strategy.choices if self.strategy is not None else ()

    def passes(self, kind: str = "one") -> Passes:
        """How a batch is run in training; see VisionStrategy.passes. Raises ConfigError for what is not offered."""
        if self.strategy is not None:
            return self.strategy.passes(kind)
        if kind != "one":
            raise ConfigError(f"passes: {kind} is for a vision strategy that chooses its view; there is none")
        return Passes()

    def get_input_embeddings(self) -> nn.Module:
        """The word table."""
        embeddings: nn.Module = self._language.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word table."""
        self._language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language head."""
        head: nn.Module = self._language.get_output_embeddings()
        return head

    @property
    def _language(self) -> Any:
        return self.language()[1]

    @abstractmethod
    def init_new_weights(self, pretrained: Collection[str]) -> None:
        """Set starting values of what has no pretrained weights, where transformers' own are meant for large models.

        ``pretrained``: the keys of model.yaml whose weights are read afterwards.
        """

    @abstractmethod
    def load_pretrained(self, folders: Mapping[str, Path], *, num_layers: int | None = None) -> None:
        """Read pretrained weights: key of model.yaml -> folder; ``num_layers``: of the language model, if not all.

        Raises WeightsError for every key that does not fit.
        """

    def grow_vocabulary(self, rows: int) -> None:
        """Add rows for new tokens, each the mean of the old rows (as in u-LLaVA's released code), in and out."""
        old = self._language.get_input_embeddings().weight.shape[0]
        self._language.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            for table in {self.get_input_embeddings(), self.get_output_embeddings()}:
                weight: Any = table.weight
                weight[old:] = weight[:old].float().mean(dim=0).to(weight.dtype)
        self.text_config.vocab_size = rows

    # ------------------------------------------------------------ one pass
    @property
    @abstractmethod
    def placeholder_ids(self) -> tuple[int, ...]:
        """The ids that stand for visual tokens: nobody says them, and no loss judges them."""

    @abstractmethod
    def prepare(self, inputs: ModelInputs, *, left_pad: bool) -> CoreInputs:
        """Bring a batch to what the decoder runs on; ``left_pad``: rows that have to be padded anew are so on the left.

        Raises UserError where text and images do not number the same, and for what the core cannot read.
        """

    @abstractmethod
    def items(self, input_ids: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        """For every position [B, L] the place among the batch's images (reading order) it speaks of; -1 = none.

        ``input_ids`` are the expanded ones of ``inputs``.
        """

    def video_items(self, input_ids: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        """As ``items``, among the batch's videos; -1 throughout for a core that reads none."""
        return torch.full_like(input_ids, -1)

    @abstractmethod
    def decode(self, prepared: CoreInputs, **options: Any) -> Any:
        """Run the decoder: transformers' output with ``last_hidden_state`` [B, L', D] and its cache (``CACHE``).

        ``options``: ``position_ids``, ``use_cache`` and the cache by transformers' name.
        """

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Language head with the scaling that some causal LMs apply after it."""
        config = self.text_config
        logits = words_of_few(self.get_output_embeddings(), hidden)
        if (scale := getattr(config, "logit_scale", None)) is not None:
            logits = logits * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits

    @abstractmethod
    def idle(self, prepared: CoreInputs, zero: torch.Tensor) -> torch.Tensor:
        """``zero``, and zeros that depend on the trainable weights that this batch did not use (ranks stay in step)."""

    @property
    def generator(self) -> Any:
        """The network whose own ``generate`` runs, for positions and caches that only it can prepare; None = ours."""
        return None
