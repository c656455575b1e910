"""The core ``native``: an image-text-to-text model of transformers with its own vision encoder and processor.

All of it runs in transformers' own classes: where visual tokens go, M-RoPE positions, features of deeper layers, and
``generate``. Images alone so far; what else is asked for is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from ullava.errors import UserError
from ullava.examples import BASE_VIEW, IMAGE_TOKENS, VIEW_KEYS, ModelInputs, VisualInputs
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.cores.core_contract import TAKES_NO_REGIONS, Core, CoreInputs, CorePart
from ullava.modeling.loading.strict_loading import load_part, read_part
from ullava.modeling.vision.strategy import refuse_unknown, zero_loss_of

NAME = "native"
TOKEN_KINDS = ("mm_token_type_ids", "token_type_ids")
"""Arguments in which some models want to be told which tokens are an image's (1)."""


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
        }

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
        """See Core. Raises UserError: a native core cannot be sharded by its layers."""
        raise UserError("core native: sharding fsdp2 is not supported; use DDP or DeepSpeed")

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
        """See Core; that of videos among them, which nobody reads but the model knows."""
        video = getattr(self.config.native_config, "video_token_id", None)
        return tuple(number for number in (self.config.image_patch_id, video) if number is not None)

    def prepare(self, inputs: ModelInputs, *, left_pad: bool) -> CoreInputs:
        """See Core; the processor wrote every visual token already, so rows stay as they are."""
        ids = inputs.input_ids
        if ids is None:
            raise UserError("the batch holds neither input_ids nor inputs_embeds")
        if inputs.dialogues is not None:
            raise UserError("core native: its own network counts positions, so each dialogue needs a row of its own")
        if inputs.videos is not None:
            raise UserError("core native: videos are not supported; ask about images")
        if inputs.regions is not None:
            raise UserError(TAKES_NO_REGIONS)
        refuse_unknown(inputs.overrides, (), NAME)
        arguments: dict[str, Any] = {}
        at_image = ids == cast(int, self.config.image_patch_id)
        found, given = int(at_image.sum()), 0
        if inputs.images is not None and len(inputs.images.index):
            given = int(sum(_counts(inputs.images)))
            arguments |= {_argument(name): _of_places(inputs.images, name) for name in inputs.images.views}
            arguments.pop(IMAGE_TOKENS)
        if found != given:
            raise UserError(f"the text has {found} places for visual tokens, the images of the batch have {given}")
        takes = inspect.signature(type(self.native.base_model).forward).parameters
        arguments |= {name: at_image.int() for name in TOKEN_KINDS if name in takes}
        return CoreInputs(
            input_ids=ids, attention_mask=inputs.attention_mask, labels=inputs.labels, arguments=arguments
        )

    def items(self, input_ids: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        """See Core; images are told apart by how many tokens each has, since no token of every model begins one."""
        if inputs.images is None or not len(inputs.images.index):
            return torch.full_like(input_ids, -1)
        at_image = input_ids == cast(int, self.config.image_patch_id)
        ends = torch.tensor(_counts(inputs.images), device=input_ids.device).cumsum(0)
        seen = at_image.flatten().long().cumsum(0).view_as(input_ids)  # visual tokens so far, over the batch
        item = torch.searchsorted(ends, seen)  # the place whose tokens the last one seen is among
        return torch.where(at_image.long().cumsum(dim=1) > 0, item, torch.full_like(item, -1))

    def decode(self, prepared: CoreInputs, **options: Any) -> Any:
        """See Core."""
        given = dict(prepared.arguments)
        if "inputs_embeds" not in given:
            given["input_ids"] = prepared.input_ids
        return self.native.base_model(attention_mask=prepared.attention_mask, **given, **options)

    def idle(self, prepared: CoreInputs, zero: torch.Tensor) -> torch.Tensor:
        """See Core."""
        return zero if "pixel_values" in prepared.arguments else zero + zero_loss_of(self.native)

    @property
    def generator(self) -> Any:
        """See Core."""
        return self.native


def _start(names: Mapping[int, str], module: nn.Module) -> tuple[str, ...]:
    """The start of a network's names; nothing where it is the whole."""
    return (names[id(module)],) if id(module) in names else ()


def _argument(view: str) -> str:
    return VIEW_KEYS["images"] if view == BASE_VIEW else view


def _counts(images: VisualInputs) -> list[int]:
    """How many visual tokens each place of the text has."""
    if IMAGE_TOKENS not in images.views:
        raise UserError(f"the batch holds images but no {IMAGE_TOKENS}: use the model's own processor")
    counts = [int(entry.sum()) for entry in images.views[IMAGE_TOKENS]]
    return [counts[item] for item in images.index.tolist()]


def _of_places(images: VisualInputs, name: str) -> torch.Tensor:
    """One view for every place of the text, as transformers batches images: joined along the first dimension.

    Other dimensions are padded with zeros to the largest: those are tiles or pixels that the models leave out.
    """
    entries = list(images.views[name])
    pieces = [entries[item] for item in images.index.tolist()]
    largest = [max(piece.shape[axis] for piece in pieces) for axis in range(1, pieces[0].dim())]
    padded = []
    for piece in pieces:
        room = [(0, most - size) for most, size in zip(largest, piece.shape[1:], strict=True)]
        padded.append(functional.pad(piece, [amount for pair in reversed(room) for amount in pair]))
    return torch.cat(padded)
