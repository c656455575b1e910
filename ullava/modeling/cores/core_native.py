"""The core ``native``: an image-text-to-text model of transformers with its own vision encoder and processor.

All of it runs in transformers' own classes: where visual tokens go, M-RoPE positions, features of deeper layers, and
``generate``. What a class has no place for is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from ullava.errors import UserError
from ullava.examples import BASE_VIEW, IMAGE_TOKENS, IMAGES_OF_ROW, VIEW_KEYS, ModelInputs, VisualInputs
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.cores.core_contract import TAKES_NO_REGIONS, Core, CoreInputs, CorePart
from ullava.modeling.loading.strict_loading import load_part, read_part
from ullava.modeling.vision.strategy import refuse_unknown

NAME = "native"
TOKEN_KINDS = ("mm_token_type_ids", "token_type_ids")
"""Arguments in which some models want to be told which tokens are an image's (1), and which a video's (2)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place of a batch's text: the ``number``-th of its images or videos (``kind``), of so many visual ``tokens``."""

    kind: str
    number: int
    tokens: int


class NativeCore(Core):
    """Any model of ``AutoModelForImageTextToText`` with a decoder, a language head and one id for visual tokens."""

    kind = NAME

    def __init__(self, config: UllavaConfig) -> None:
        self.config = config
        self.native: Any = AutoModelForImageTextToText.from_config(config.native_config)
        missing = [what for what, there in self._slots().items() if not there]
        if missing:
            raise UserError(f"core native: {type(self.native).__name__} has no {', no '.join(missing)}")

    def _slots(self) -> dict[str, bool]:
        """What this class has to have, and whether it does."""
        return {
            "base model below its language head": self.native.base_model is not self.native,
            "language head": self.native.get_output_embeddings() is not None,
            "decoder with layers": hasattr(self.native.get_decoder(), "layers"),
            "id for the visual tokens of an image": self.config.image_patch_id is not None,
            "argument pixel_values_videos, though its processor reads videos": (
                self.config.video_patch_id in (None, self.config.image_patch_id) or VIEW_KEYS["videos"] in self._takes()
            ),
        }

    def _takes(self) -> Collection[str]:
        """The arguments of one pass."""
        return inspect.signature(type(self.native.base_model).forward).parameters

    # ------------------------------------------------------------ parts
    @property
    def text_config(self) -> PreTrainedConfig:
        """See Core."""
        return self.config.text_config

    def modules(self) -> Mapping[str, nn.Module]:
        """See Core."""
        return {NAME: self.native}

    def language(self) -> tuple[str, nn.Module]:
        """See Core."""
        return NAME, self.native

    def adapted(self) -> tuple[str, nn.Module]:
        """See Core; the decoder alone, since layers of the vision encoder bear the same names in many families."""
        decoder = self.native.get_decoder()
        (name,) = (name for name, module in self.native.named_modules() if module is decoder)
        return f"{NAME}.{name}", decoder

    def decoder_layers(self) -> Sequence[nn.Module]:
        """See Core."""
        layers: Sequence[nn.Module] = self.native.get_decoder().layers
        return layers

    def parts(self) -> tuple[CorePart, ...]:
        """See Core; what lies neither in decoder, language head nor vision encoder joins them: the projector."""
        names = {id(module): f"{NAME}.{name}." for name, module in self.native.named_modules() if name}
        found = [
            CorePart("language head", _start(names, self.native.get_output_embeddings()), "head"),
            CorePart("language model", _start(names, self.native.get_decoder()), "language"),
            CorePart("vision tower", _start(names, self.native.get_encoder(modality="image")), "tower"),
        ]
        found = [part for part in found if part.prefixes]
        known = tuple(prefix for part in found for prefix in part.prefixes)
        rest = any(not f"{NAME}.{name}".startswith(known) for name, _ in self.native.named_parameters())
        return (*found, CorePart("vision projector", (f"{NAME}.",), "projector")) if rest else tuple(found)

    def init_new_weights(self, pretrained: Collection[str]) -> None:
        """See Core; transformers' own values stay."""

    def load_pretrained(self, folders: Mapping[str, Path], *, num_layers: int | None = None) -> None:
        """See Core."""
        if "core" in folders:
            weights = read_part(AutoModelForImageTextToText, folders["core"])
            load_part(self.native, weights, folders["core"])
            self.native.tie_weights()

    # ------------------------------------------------------------ one pass
    @property
    def placeholder_ids(self) -> tuple[int, ...]:
        """See Core; that of videos among them, also where the processor reads none but the model knows it."""
        video = self.config.video_patch_id
        video = getattr(self.config.native_config, "video_token_id", None) if video is None else video
        return tuple({number: None for number in (self.config.image_patch_id, video) if number is not None})

    def prepare(self, inputs: ModelInputs, *, left_pad: bool) -> CoreInputs:
        """See Core; the processor wrote every visual token already, so rows stay as they are."""
        ids = inputs.input_ids
        if ids is None:
            raise UserError("the batch holds neither input_ids nor inputs_embeds")
        if inputs.dialogues is not None:
            raise UserError("core native: its own network counts positions, so each dialogue needs a row of its own")
        if inputs.videos is not None and self.config.video_patch_id is None:
            raise UserError(f"core native: {type(self.native).__name__} reads images, no videos")
        if inputs.regions is not None:
            raise UserError(TAKES_NO_REGIONS)
        refuse_unknown(inputs.overrides, (), NAME)
        arguments: dict[str, Any] = {}
        told = torch.zeros_like(ids, dtype=torch.int)
        for name, (token, places) in self._places(inputs).items():
            at = ids == token
            found, given = int(at.sum()), sum(place.tokens for place in places)
            if found != given:
                raise UserError(f"the text has {found} places for visual tokens, the {name} of the batch have {given}")
            told += at.int() * (1 if name == "images" else 2)
            arguments |= _arguments(places, inputs, VIEW_KEYS[name])
        arguments |= {name: told for name in TOKEN_KINDS if name in self._takes()}
        return CoreInputs(
            input_ids=ids, attention_mask=inputs.attention_mask, labels=inputs.labels, arguments=arguments
        )

    def _places(self, inputs: ModelInputs) -> Mapping[str, tuple[int, Sequence[Place]]]:
        """The id of visual tokens and the batch's places in reading order, of images and of videos.

        Where videos are written with the tokens of images, they are among the images. Raises UserError where such a
        batch does not say which rows its images and videos stand in.
        """
        image, video = cast(int, self.config.image_patch_id), self.config.video_patch_id
        kinds = {kind: _places_of(kind, getattr(inputs, kind)) for kind in VIEW_KEYS}
        if video is None:
            return {"images": (image, kinds["images"])}
        if video != image:
            return {"images": (image, kinds["images"]), "videos": (video, kinds["videos"])}
        if not kinds["images"] or not kinds["videos"]:
            return {"images": (image, [*kinds["images"], *kinds["videos"]])}
        rows = [cast(VisualInputs, getattr(inputs, kind)).row for kind in kinds]
        if any(row is None for row in rows):
            raise UserError("the batch has images and videos but no image_row and video_row: which row has which")
        numbered = zip([place for kind in kinds.values() for place in kind], torch.cat(cast(Any, rows)), strict=True)
        return {"images": (image, [place for place, _ in sorted(numbered, key=lambda entry: int(entry[1]))])}

    def items(self, input_ids: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        """See Core; images are told apart by how many tokens each has, since no token of every model begins one."""
        return self._spoken_of("images", input_ids, inputs)

    def video_items(self, input_ids: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        """See Core; as ``items``."""
        return self._spoken_of("videos", input_ids, inputs)

    def _spoken_of(self, kind: str, input_ids: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        none = torch.full_like(input_ids, -1)
        for token, places in self._places(inputs).values():
            if not any(place.kind == kind for place in places):
                continue
            at = input_ids == token
            device = input_ids.device
            ends = torch.tensor([place.tokens for place in places], device=device).cumsum(0)
            seen = at.flatten().long().cumsum(0).view_as(input_ids)  # visual tokens so far, over the batch
            number = torch.tensor([place.number if place.kind == kind else -1 for place in places], device=device)
            item = number[torch.searchsorted(ends, seen)]  # the place whose tokens the last one seen is among
            return torch.where(at.long().cumsum(dim=1) > 0, item, none)
        return none

    def decode(self, prepared: CoreInputs, **options: Any) -> Any:
        """See Core."""
        given = dict(prepared.arguments)
        if "inputs_embeds" not in given:
            given["input_ids"] = prepared.input_ids
        return self.native.base_model(attention_mask=prepared.attention_mask, **given, **options)

    def idle(self, prepared: CoreInputs, zero: torch.Tensor) -> torch.Tensor:
        """See Core: all that lies beside decoder and language head.

        Some of it no pass reads (the last layers of a vision encoder, of which an earlier one is taken).
        """
        read = {
            id(value)
            for part in (self.native.get_decoder(), self.get_output_embeddings())
            for value in part.parameters()
        }
        for value in self.native.parameters():
            if value.requires_grad and value.numel() > 0 and id(value) not in read:
                zero = zero + value.sum() * 0.0
        return zero

    @property
    def generator(self) -> Any:
        """See Core."""
        return self.native


def _start(names: Mapping[int, str], module: nn.Module) -> tuple[str, ...]:
    """The start of a network's names; nothing where it is the whole."""
    return (names[id(module)],) if id(module) in names else ()


def _places_of(kind: str, shown: VisualInputs | None) -> list[Place]:
    """The places of a batch's images or videos in reading order. Raises UserError where their tokens are not told."""
    if shown is None or not len(shown.index):
        return []
    if IMAGE_TOKENS not in shown.views:
        raise UserError(f"the batch holds {kind} but no {IMAGE_TOKENS}: use the model's own processor")
    counts = [int(entry.sum()) for entry in shown.views[IMAGE_TOKENS]]
    return [Place(kind, number, counts[item]) for number, item in enumerate(shown.index.tolist())]


def _arguments(places: Sequence[Place], inputs: ModelInputs, base: str) -> dict[str, torch.Tensor]:
    """The views of ``places`` as arguments of one pass; that of their pixels is called ``base``."""
    if not places:
        return {}
    shown = [cast(VisualInputs, getattr(inputs, place.kind)) for place in places]
    made = {}
    for name in shown[0].views:
        if name == IMAGE_TOKENS:
            continue
        entries = [
            visual.views[name][int(visual.index[place.number])] for visual, place in zip(shown, places, strict=True)
        ]
        made[base if name == BASE_VIEW else name] = (
            _images_of_rows(entries) if name == IMAGES_OF_ROW else _joined(entries)
        )
    return made


def _images_of_rows(entries: Sequence[torch.Tensor]) -> torch.Tensor:
    """How many images each row has, as transformers wants it: all that counts is whether that is one."""
    alone = [int(entry) == 1 for entry in entries]
    rows: list[int] = []
    for number, only in enumerate(alone):
        if only or number == 0 or alone[number - 1]:
            rows.append(0)
        rows[-1] += 1
    return torch.tensor(rows, device=entries[0].device)


def _joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """One view of every place of the text, as transformers batches images: joined along the first dimension.

    Other dimensions are padded with zeros to the largest: those are tiles or pixels that the models leave out.
    """
    largest = [max(piece.shape[axis] for piece in pieces) for axis in range(1, pieces[0].dim())]
    padded = []
    for piece in pieces:
        room = [(0, most - size) for most, size in zip(largest, piece.shape[1:], strict=True)]
        padded.append(functional.pad(piece, [amount for pair in reversed(room) for amount in pair]))
    return torch.cat(padded)
