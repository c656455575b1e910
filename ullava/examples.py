"""The typed records between data and model: one row before batching (ullava.row_examples) and, here, a batch as network
and criterion read it.

``Example`` holds NumPy arrays, so that it crosses worker pipes cheaply; ``Batch`` holds tensors. ``ModelInputs`` is the
one list of what ``UllavaForConditionalGeneration`` reads; ``as_kwargs`` and ``from_kwargs`` are its flat form, the
keyword arguments of ``forward`` and ``generate``. Letters in shapes: see ullava.structures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from ullava.clip_examples import ClipFrames as ClipFrames
from ullava.clip_examples import ClipTarget as ClipTarget
from ullava.errors import UserError, did_you_mean
from ullava.row_examples import NOTHING as NOTHING
from ullava.row_examples import BadSample as BadSample
from ullava.row_examples import Example as Example
from ullava.row_examples import ImageExample as ImageExample
from ullava.row_examples import MaskEntry as MaskEntry
from ullava.row_examples import RegionExample as RegionExample
from ullava.row_examples import TokenCount as TokenCount
from ullava.row_examples import VideoExample as VideoExample

Views = Mapping[str, "torch.Tensor | Sequence[torch.Tensor]"]
"""What a vision strategy reads, by name, an entry for each distinct item: one stacked tensor where all entries have the
same shape, a list of tensors where they differ. Iterating gives the entries in both cases."""

BASE_VIEW = "base"
"""The view that the others are named after."""
IMAGE_TOKENS = "image_tokens"
"""A view of a native core, [1]: how many ids of the text stand for visual tokens of the item."""
IMAGES_OF_ROW = "batch_num_images"
"""A view of a native core, [1]: 1 = its row shows no other image, 2 = it does, and the model sees it without tiles."""
NATIVE_VIEWS = (
    "image_grid_thw", "pixel_attention_mask", "image_sizes", "spatial_shapes", IMAGES_OF_ROW, IMAGE_TOKENS,
)  # fmt: skip
"""What transformers' own processors give of images beside ``pixel_values``: keys of the same name in the flat form."""
NATIVE_VIDEO_VIEWS = ("video_grid_thw", "second_per_grid_ts")
"""The same of videos."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VisualInputs:
    """The distinct images (or videos) of a batch and their places in the text.

    ``views``: see ``Views``; pixels uint8 [I, 3, R, R], of videos [V, T, 3, R, R]; ``base`` is one of them. ``index``
    [items]: which of the distinct ones each place of the text shows, in reading order. ``counts`` [items, 2]: the least
    and the most visual tokens of each place, where that is open. ``row`` [items]: the row of the batch, for a strategy
    that reads the text around its items.
    """

    views: Views
    index: torch.Tensor
    counts: torch.Tensor | None = None
    row: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class KeptMaps:
    """What is kept of a mask encoder's work: ``entries`` of the E images that it has to see, None = not to be kept.

    ``maps``: those of the J - E others [J - E, C, h, w], in the order in which the encoder makes them; none if J = E.
    """

    entries: tuple[MaskEntry | None, ...]
    maps: list[torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeadImages:
    """What a head with an image encoder of its own sees of a batch, each distinct image once.

    ``pixels`` uint8 [J, 3, h, w] with content of ``sizes`` [J, 2] (h, w) at the top left; ``row_of_image`` [I]: the row
    of each distinct image of the batch, -1 = none. With ``kept`` the first E rows alone have pixels, and maps stand for
    the others.
    """

    pixels: torch.Tensor
    sizes: torch.Tensor
    row_of_image: torch.Tensor
    kept: KeptMaps | None = None

    def rows(self, image: torch.Tensor) -> torch.Tensor:
        """Return the rows [K] of distinct images ``image`` [K]; -1 stays -1."""
        return torch.where(image >= 0, self.row_of_image[image.clamp(min=0)], image)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Instructions:
    """What each row asks, for a strategy that reads it: ``ids``, ``mask`` [B, T]; ``grounded`` bool [B]."""

    ids: torch.Tensor
    mask: torch.Tensor
    grounded: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PatchNames:
    """``words`` [P, N, w]: the words of the N visual tokens (-100 = none) of distinct images ``image`` [P]."""

    words: torch.Tensor
    image: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RegionInputs:
    """The regions that the questions of a batch point at, in reading order.

    ``boxes`` float32 [N, 4], ``shares`` float32 [N, n, n]: see RegionExample; ``shares`` is None where all are whole
    boxes. ``image`` [N]: which of the distinct images each lies on.
    """

    boxes: torch.Tensor
    image: torch.Tensor
    shares: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ModelInputs:
    """All that the network reads of a batch.

    ``input_ids``, ``attention_mask``, ``labels`` [B, L]; ``dialogues`` [B, L]: which dialogue of its row each place
    belongs to, from 1, and 0 of padding; None = a row is one. ``images`` and ``videos``: None where there are none;
    ``mask_images``: what the mask head's encoder sees, ``box_images`` the box head's, where it has a view of its own;
    ``content_only``: nobody looks at mask logits of the padding, which need not be drawn then; ``supervised_only``: nor
    at logits of tokens without a label; ``heads_only``: nor at any word, so that layers above a grounding layer need
    not run (without one it changes nothing); ``masks_read``: what the mask decoder read is wanted, too
    (``SegOutput.read``); ``regions``: what the questions point at; ``overrides``: those of the vision strategy by name;
    ``generator``: where noise in training comes from, None = torch's own. ``clip_frames``: where masks in videos are
    taught; without it the states that would prompt them are returned. ``backprop_frames``: gradients of these masks run
    back through so many steps of the memory, None = through all.
    """

    input_ids: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    dialogues: torch.Tensor | None = None
    images: VisualInputs | None = None
    videos: VisualInputs | None = None
    mask_images: HeadImages | None = None
    box_images: HeadImages | None = None
    instructions: Instructions | None = None
    patches: PatchNames | None = None
    regions: RegionInputs | None = None
    clip_frames: ClipFrames | None = None
    backprop_frames: int | None = None
    content_only: bool = False
    supervised_only: bool = False
    heads_only: bool = False
    masks_read: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    generator: torch.Generator | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ModelInputs:
        """Return the same inputs with their tensors on ``device``."""
        return moved(self, torch.device(device), non_blocking)

    def for_losses(self, **changes: Any) -> ModelInputs:
        """The same inputs with ``changes``, of which only what losses look at is made."""
        return replace(self, content_only=True, supervised_only=True, **changes)

    def as_kwargs(self) -> dict[str, Any]:
        """The flat form: keyword arguments of ``forward`` and ``generate``, without those that are not given."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        plain |= {"content_only": self.content_only or None, "supervised_only": self.supervised_only or None}
        plain |= {"heads_only": self.heads_only or None, "masks_read": self.masks_read or None}
        plain |= {"overrides": self.overrides or None}
        given = {name: value for name, value in plain.items() if value is not None}
        for part, keys in _NESTED.items():
            if (record := getattr(self, part)) is not None:
                given |= {key: value for key, entry in keys.items() if (value := getattr(record, entry)) is not None}
        for part in VIEW_KEYS:
            if (visual := getattr(self, part)) is not None:
                given |= {_view_key(part, name): view for name, view in visual.views.items()}
        return given

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> ModelInputs:
        """Read the flat form. Raises UserError for a key that it does not have and for a part that is not whole."""
        given = {key: value for key, value in kwargs.items() if value is not None}
        made: dict[str, Any] = {key: given.pop(key) for key in _PLAIN if key in given}
        views: dict[str, dict[str, Any]] = {part: {} for part in VIEW_KEYS}
        for part, base in sorted(VIEW_KEYS.items(), key=lambda item: -len(item[1])):  # the longer start first
            for key in [key for key in given if key == base or key.startswith(f"{base}_") and key not in _FLAT]:
                views[part][BASE_VIEW if key == base else key.removeprefix(f"{base}_")] = given.pop(key)
        for part, names in _OWN_NAMES.items():
            views[part] |= {key: given.pop(key) for key in names if key in given}
        for part, keys in _NESTED.items():
            found = {entry: given.pop(key) for key, entry in keys.items() if key in given}
            kind, needed = _KINDS[part], set(keys.values()) - _OPTIONAL - _OPTIONAL_OF.get(part, frozenset())
            if part in views and (views[part] or found):
                found["views"] = views[part]
                needed |= {"views"}
            absent = [key for key, entry in keys.items() if entry in needed and entry not in found]
            if found and part in views and BASE_VIEW not in views[part]:
                absent.insert(0, VIEW_KEYS[part])
            if found and absent:
                raise UserError(f"the batch holds {_named(part, found)} but no {', '.join(absent)}")
            if found:
                made[part] = kind(**found)
        if given:
            known = sorted({*_PLAIN, *_FLAT, *VIEW_KEYS.values(), *NATIVE_VIEWS, *NATIVE_VIDEO_VIEWS})
            raise UserError([f"the model reads no '{key}'{did_you_mean(key, known)}" for key in sorted(given)])
        return cls(**made)


VIEW_KEYS: Mapping[str, str] = MappingProxyType({"images": "pixel_values", "videos": "pixel_values_videos"})
"""The key of the base view of each kind; other views are called ``<key>_<view>``."""

_OWN_NAMES: Mapping[str, tuple[str, ...]] = {"images": NATIVE_VIEWS, "videos": NATIVE_VIDEO_VIEWS}
"""Views whose key in the flat form is their own name."""
_PLAIN = (
    "input_ids", "attention_mask", "labels", "dialogues", "content_only", "supervised_only", "heads_only", "masks_read",
    "overrides", "generator", "backprop_frames",
)  # fmt: skip
_KINDS: Mapping[str, Any] = {
    "images": VisualInputs,
    "videos": VisualInputs,
    "mask_images": HeadImages,
    "box_images": HeadImages,
    "instructions": Instructions,
    "patches": PatchNames,
    "regions": RegionInputs,
    "clip_frames": ClipFrames,
}
_OPTIONAL_OF: Mapping[str, frozenset[str]] = {"clip_frames": frozenset({"pixels", "sizes", "first_row"})}
_OPTIONAL = {"counts", "row", "grounded", "kept", "shares"}
_NESTED: Mapping[str, Mapping[str, str]] = {
    "images": {"image_index": "index", "image_counts": "counts", "image_row": "row"},
    "videos": {"video_index": "index", "video_counts": "counts", "video_row": "row"},
    "mask_images": {
        "sam_pixel_values": "pixels",
        "sam_sizes": "sizes",
        "sam_index": "row_of_image",
        "sam_kept": "kept",
    },
    "box_images": {"box_pixel_values": "pixels", "box_sizes": "sizes", "box_index": "row_of_image"},
    "instructions": {"instruction_ids": "ids", "instruction_mask": "mask", "grounded_rows": "grounded"},
    "patches": {"patch_words": "words", "patch_image": "image"},
    "regions": {"region_boxes": "boxes", "region_shares": "shares", "region_image": "image"},
    "clip_frames": {
        "clip_annotated": "annotated",
        "clip_prompt": "prompt",
        "clip_pixel_values": "pixels",
        "clip_sizes": "sizes",
        "clip_first_row": "first_row",
    },
}
_FLAT = frozenset(key for keys in _NESTED.values() for key in keys)


def flat_keys(view_names: Sequence[str]) -> list[str]:
    """The keys of the flat form for images and videos, of a vision strategy that makes views of these names."""
    views = list(dict.fromkeys(_view_key(part, name) for part in VIEW_KEYS for name in view_names))
    return [*views, *(key for keys in _NESTED.values() for key in keys)]


def is_model_input(key: str) -> bool:
    """Whether a keyword argument is one of ModelInputs' flat form."""
    views = any(key == base or key.startswith(f"{base}_") for base in VIEW_KEYS.values())
    return views or key in _FLAT or key in _PLAIN or any(key in names for names in _OWN_NAMES.values())


def _view_key(part: str, name: str) -> str:
    """The key of a view of ``part`` (images or videos) in the flat form."""
    if name in _OWN_NAMES[part]:
        return name
    base = VIEW_KEYS[part]
    return base if name == BASE_VIEW else f"{base}_{name}"


def _named(part: str, found: Mapping[str, Any]) -> str:
    """The flat keys of what was found of a part, for a message."""
    keys = [key for key, entry in _NESTED[part].items() if entry in found]
    return ", ".join(keys or [VIEW_KEYS[part]])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Targets:
    """What a batch wants beside its labels, in the order in which the network reads its grounding tokens.

    ``masks``: one uint8 or bool [H, W] of the original image for each ``[SEG]`` (equal ones may be one tensor), then
    one for each annotated frame of each ``[SEG]`` that speaks of a video;
    ``absent``: the places among them of those that are empty.
    ``boxes_xyxy_head``: float [K, 4] in the box head's frame, one for each ``[LOC]``. ``images``: how many places of
    the text show one.
    """

    masks: Sequence[torch.Tensor]
    boxes_xyxy_head: torch.Tensor
    images: int = 0
    absent: frozenset[int] = frozenset()

    def of(self, places: Sequence[int]) -> Targets:
        """The same with the masks at ``places``, in that order, some of them several times.

        Raises ValueError where one of the masks is left out, for nothing would be learned of it.
        """
        if set(places) != set(range(len(self.masks))):
            raise ValueError(f"the model made masks for {len(set(places))} of {len(self.masks)} targets")
        absent = frozenset(number for number, place in enumerate(places) if place in self.absent)
        return replace(self, masks=[self.masks[place] for place in places], absent=absent)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Batch:
    """Usable rows as the network reads them, what they want, their ``names``, and the rows that could not be used.

    ``inputs`` and ``targets`` are None where no row was usable.
    """

    inputs: ModelInputs | None
    targets: Targets | None
    names: tuple[str, ...] = ()
    bad_samples: tuple[BadSample, ...] = ()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the same batch with its tensors on ``device``."""
        return moved(self, torch.device(device), non_blocking)

    def usable(self) -> tuple[ModelInputs, Targets]:
        """Inputs and targets of a batch that has usable rows. Raises UserError, which names the others, otherwise."""
        if self.inputs is None or self.targets is None:
            reasons = "; ".join(f"{bad.name}: {bad.reason}" for bad in self.bad_samples)
            raise UserError(f"no sample of this batch is usable: {reasons}")
        return self.inputs, self.targets


def mapped(value: Any, change: Callable[[Any], Any], leaf: type | tuple[type, ...] = torch.Tensor) -> Any:
    """A record with ``change`` applied to every ``leaf``; what stands in several places is changed once."""
    return _walk(value, change, leaf, {})


def _walk(value: Any, change: Callable[[Any], Any], leaf: type | tuple[type, ...], done: dict[int, Any]) -> Any:
    # No closure that calls itself: it would be a cycle and keep the tensors of a batch until the next collection.
    if isinstance(value, leaf):
        if id(value) not in done:
            done[id(value)] = change(value)
        return done[id(value)]
    if isinstance(value, list):
        return [_walk(entry, change, leaf, done) for entry in value]
    if isinstance(value, dict):
        return {key: _walk(entry, change, leaf, done) for key, entry in value.items()}
    if isinstance(value, _RECORDS):
        entries = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        return replace(value, **{name: _walk(entry, change, leaf, done) for name, entry in entries.items()})
    return value


def moved(value: T, device: torch.device, non_blocking: bool = False) -> T:
    """``value``, a record of this module, with its tensors on ``device``; one that lies there stays the same object."""
    result: T = mapped(value, lambda tensor: tensor.to(device, non_blocking=non_blocking))
    return result


_RECORDS = (
    Batch, ModelInputs, Targets, VisualInputs, HeadImages, KeptMaps, Instructions, PatchNames, RegionInputs, ClipFrames,
)  # fmt: skip
