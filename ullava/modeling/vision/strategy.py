"""The contract of a vision strategy (what MG-LLaVA, AVG-LLaVA, ConvLLaVA and SliME need of one; docs/vision_encoders.md
tells how to write one).

The language side sees nothing else of a vision encoder. A strategy has two parts: a ``VisionPreprocessor``, which runs
in data workers, and a ``VisionStrategy``, which holds the weights. Neither touches token ids, labels or heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ullava.config.fields import CountKind
from ullava.errors import ConfigError, UserError, did_you_mean
from ullava.examples import TokenCount, Views
from ullava.geometry import View
from ullava.modeling.vision.passes import EveryCandidate, Passes
from ullava.structures import DetectedBoxes


@dataclass(frozen=True, slots=True)
class ItemNotes:
    """What is known of an image or video beside its pixels.

    ``boxes``: things that somebody found in an image, ``frame_boxes`` in each frame of a video (or empty); None =
    nobody looked. ``overrides``: the user's overrides by name. ``budget``: an image should give no more tokens than
    this; a strategy that can see it coarser does so, and the row is refused where that is not enough. ``alone``: its
    row shows no other image.
    """

    boxes: DetectedBoxes | None = None
    frame_boxes: tuple[DetectedBoxes | None, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None = None
    alone: bool = True


PLAIN = ItemNotes()


@dataclass(frozen=True, slots=True)
class VisionInputs:
    """One preprocessed image: what the network reads of it by name, the View (geometry) of pixels, its token count.

    ``views``: pixels uint8 [3, h, w] or tiles [n, 3, h, w], and whatever else belongs to the item (boxes float32
    [k, 4], a grid int64 [2]); one of them is ``base``. ``grid_hw``: rows and columns, where the tokens are patches
    that share out the view ``base``, row by row. ``variant`` tells what one image became under different notes;
    equal images of equal variant share a place in the batch. ``shrunk``: the budget of the notes changed something.
    ``text``: what stands in a row's text for the item before it is tokenized, where its processor writes that; None =
    ``count`` placeholders among the ids.
    """

    views: Mapping[str, NDArray[Any]]
    geometry: Mapping[str, View]
    count: TokenCount
    grid_hw: tuple[int, int] | None = None
    variant: str = ""
    shrunk: bool = False
    text: str | None = None


@dataclass(frozen=True, slots=True)
class VideoInputs:
    """The frames of one video, preprocessed alike: pixels uint8 [T, 3, h, w] and other arrays by name; see above."""

    views: Mapping[str, NDArray[Any]]
    count: TokenCount
    variant: str = ""
    text: str | None = None


@dataclass(frozen=True, slots=True)
class EncodeContext:
    """What stands around the items that ``encode`` gets.

    ``places``: for each place of the text, in reading order, which of the distinct items it shows; ``rows``: in which
    row of the batch it stands. ``words`` [B, T, D] and ``word_mask`` [B, T]: the word embeddings of what each row
    asks (no answers, no padding, no placeholders); None for strategies that read no text. ``overrides``: overrides.
    ``generator``: where noise in training comes from; None = torch's own, which the trainer seeds and restores.
    ``grounded`` [B]: which rows ask for masks or boxes; empty = none of them.
    """

    places: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    words: torch.Tensor | None = None
    word_mask: torch.Tensor | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    generator: torch.Generator | None = None
    grounded: tuple[bool, ...] = ()

    def is_grounded(self, place: int) -> bool:
        """Whether the row of ``place`` asks for masks or boxes."""
        return bool(self.grounded) and self.grounded[self.rows[place]]

    def words_of(self, place: int) -> torch.Tensor:
        """The embeddings [t, D] of what the row of ``place`` asks. Raises UserError where the batch holds none."""
        if self.words is None or self.word_mask is None:
            raise UserError("this vision strategy reads the question, but the batch holds no instruction_ids")
        row = self.rows[place]
        return self.words[row][self.word_mask[row].bool()]


NO_CONTEXT = EncodeContext()


@dataclass(frozen=True, slots=True)
class VisionOutput:
    """Visual tokens [sum(counts), D]; ``counts`` are those of the distinct items in the order given.

    ``per_place``: the counts are those of ``EncodeContext.places`` instead, because the words around an item settle
    what it gives. ``literal_ids`` [sum(counts)]: the id of a word of the vocabulary that stands there instead of the
    visual token (a separator), -1 elsewhere; its row of ``tokens`` is not read. ``pyramid``: maps [I, C, h, w] of the
    distinct images, finest first, for a mask head that reads them. ``maps``: of each distinct image the map
    [``map_width``, h, w] of its view ``base``, for regions that a question points at. ``idle``: a zero that depends on
    the trainable weights that these items did not use. ``aux``: scalar loss terms by the names of
    ``VisionStrategy.aux_terms``. ``diagnostics``: named values for logs and images.
    """

    tokens: torch.Tensor
    counts: tuple[int, ...]
    per_place: bool = False
    literal_ids: torch.Tensor | None = None
    pyramid: tuple[torch.Tensor, ...] = ()
    maps: tuple[torch.Tensor, ...] = ()
    idle: torch.Tensor | None = None
    aux: Mapping[str, torch.Tensor] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)


class VisionPreprocessor(Protocol):
    """The part that runs in data workers: pure, picklable, without weights."""

    view_names: tuple[str, ...]
    reads_text: bool
    """Whether ``encode`` wants the words of the question (``EncodeContext.words``)."""

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        """Make the views of one image, uint8 [H, W, 3]. Raises UserError for an override it does not know."""
        ...

    def preprocess_video(self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VideoInputs:
        """Make the views of the frames of one video, uint8 [T, H, W, 3]."""
        ...


@dataclass(frozen=True, slots=True)
class VisionPart:
    """Parameters below ``prefixes`` (of the strategy) that stages and recipes call by one name.

    Of a stage, a ``tower`` trains where pretrained towers do, a ``projector`` where projectors do.
    """

    name: str
    prefixes: tuple[str, ...]
    kind: Literal["tower", "projector"]


class VisionStrategy(nn.Module, ABC):
    """The part with weights."""

    aux_terms: tuple[str, ...] = ()
    """Every loss term that ``encode`` may return in ``VisionOutput.aux``."""

    choices: tuple[str, ...] = ()
    """Those of its ``diagnostics`` that are a whole number for each item, or each place where ``per_place`` is set."""

    @abstractmethod
    def encode(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """Encode distinct images. Raises UserError for an override it does not know.

        The result for an item must not depend on the others in the batch, and noise belongs to training alone.
        """

    @abstractmethod
    def encode_video(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """Encode distinct videos under the same rules; pixels are [T, 3, h, w] for each."""

    @property
    def map_width(self) -> int:
        """Channels of ``VisionOutput.maps``. Raises UserError, which says why, where it gives none."""
        raise UserError(
            "vision.regions: this vision strategy gives no map of the image that regions could be read from"
        )

    @abstractmethod
    def parts(self) -> tuple[VisionPart, ...]:
        """Every parameter by what it is for; the first part whose prefix fits has it."""

    @abstractmethod
    def load_pretrained(self, paths: Mapping[str, Path]) -> None:
        """Read the weights of the towers that have some: ``tower``, or the name of a PartConfig in the settings."""

    def init_new_weights(self, pretrained: frozenset[str]) -> None:
        """Set starting values of parts without pretrained weights, where transformers' own are meant for large ones."""

    def encode_dummy(self) -> torch.Tensor:
        """A zero that depends on every trainable weight, for batches without images (keeps ranks in step)."""
        return zero_loss_of(self)

    def unread(self) -> tuple[str, ...]:
        """Prefixes of parameters (of the strategy) that no pass reads."""
        return ()

    def cached_features(self, views: Views) -> Mapping[str, Any]:
        """Further views, for passes that see the same items under several overrides: what no override changes.

        Nothing that trains may be in them. ``views`` with these give what ``views`` alone give.
        """
        return {}

    def candidates(self) -> tuple[Mapping[str, Any], ...]:
        """Overrides, one for each way in which the strategy may choose to see an image."""
        return ({},)

    def passes(self, kind: str = "one") -> Passes:
        """How a batch is run in training: ``one`` pass, ``every`` candidate, or what else a strategy offers.

        Raises ConfigError for a kind that this one has not.
        """
        terms: dict[str, CountKind] = dict.fromkeys(self.aux_terms, "tokens")
        if kind == "one":
            return Passes(terms)
        if len(self.candidates()) < 2:
            raise ConfigError(
                f"passes: {kind} is for a vision encoder that chooses how to see an image; this one does not"
            )
        if kind == "every":
            return EveryCandidate(self.candidates(), terms)
        raise ConfigError(f"passes: {kind} teaches a router; the model's vision encoder has none")


def stacked(entries: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """The entries of a view whose items have one shape, as one tensor."""
    return entries if isinstance(entries, torch.Tensor) else torch.stack(list(entries))


def as_maps(states: torch.Tensor, rows: int | None = None) -> tuple[torch.Tensor, ...]:
    """States [I, P, C] of grids, row by row, as a map [C, h, w] for each; ``rows`` h of each, a square's without it."""
    height = round(states.shape[1] ** 0.5) if rows is None else rows
    return tuple(states.transpose(1, 2).unflatten(2, (height, -1)))


def zero_loss_of(*modules: nn.Module) -> torch.Tensor:
    """A zero that depends on every trainable weight of ``modules``.

    Those that lie with other processes (ZeRO-3: without elements while their module does not run) are left out; their
    gradient is not waited for.
    """
    zero = torch.zeros((), device=next(modules[0].parameters()).device)
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.numel() > 0:
                zero = zero + parameter.sum() * 0.0
    return zero


def refuse_unknown(overrides: Mapping[str, Any], known: Sequence[str], strategy: str) -> None:
    """Raise UserError for overrides that are not among ``known``."""
    unknown = [name for name in overrides if name not in known]
    if unknown and not known:
        raise UserError(f"vision strategy {strategy} takes no override, but was given {', '.join(sorted(unknown))}")
    if unknown:
        raise UserError([f"vision strategy {strategy}: no override '{n}'{did_you_mean(n, known)}" for n in unknown])


def run_by_shape(entries: Sequence[torch.Tensor], run: Any) -> list[torch.Tensor]:
    """Run ``run`` once for every shape among ``entries`` ([n, 3, h, w] each) and give each entry its own rows back.

    ``run`` takes [m, 3, h, w] and returns a tensor of m rows. No entry is padded; an empty one gets no rows.
    """
    groups: dict[torch.Size, list[int]] = {}
    for place, entry in enumerate(entries):
        groups.setdefault(entry.shape[1:], []).append(place)
    found: dict[int, torch.Tensor] = {}
    for members in groups.values():
        sizes = [len(entries[place]) for place in members]
        made = run(torch.cat([entries[place] for place in members]))
        found.update(zip(members, made.split(sizes), strict=True))
    return [found[place] for place in range(len(entries))]
