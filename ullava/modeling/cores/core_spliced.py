"""The core ``spliced``: a vision strategy's tokens are put into the text of a causal language model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ullava.errors import UserError
from ullava.examples import ModelInputs, RegionInputs, VisualInputs
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.cores.core_contract import TAKES_NO_REGIONS, Core, CoreInputs, CorePart
from ullava.modeling.cores.gradient_ullava_v1 import embed_as_configured
from ullava.modeling.cores.splice import ExpandedText, VisualItems, restarting_positions, splice_visual
from ullava.modeling.heads.read_heads import item_of_position
from ullava.modeling.loading.language_layers import read_language
from ullava.modeling.loading.strict_loading import load_part
from ullava.modeling.vision.region_tokens import RegionTokens
from ullava.modeling.vision.strategies import build_strategy
from ullava.modeling.vision.strategy import EncodeContext, VisionOutput, VisionStrategy, zero_loss_of
from ullava.modeling.vision.vision_batch import context_of, views_of

LANGUAGE = "language"
VISION = "vision."
"""Keys of model.yaml, and the start of those, that describe this core."""


class SplicedCore(Core):
    """Any causal LM of transformers and any vision strategy."""

    kind = "spliced"

    def __init__(self, config: UllavaConfig) -> None:
        self.config = config
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.vision = build_strategy(config, int(config.text_config.hidden_size))
        self.regions: RegionTokens | None = None
        if config.region_grid is not None:
            self.build_regions()

    @property
    def text_config(self) -> PreTrainedConfig:
        """See Core."""
        return self.config.text_config

    def build_regions(self) -> RegionTokens:
        """Make what questions point with, as the config says now. Raises UserError where the strategy gives no map."""
        width = int(self.config.text_config.hidden_size)
        self.regions = RegionTokens(self.vision.map_width, width, int(self.config.region_grid or 0))
        return self.regions

    def modules(self) -> Mapping[str, nn.Module]:
        """See Core."""
        networks: dict[str, nn.Module] = {"language_model": self.language_model, "vision": self.vision}
        return networks if self.regions is None else networks | {"regions": self.regions}

    def language(self) -> tuple[str, nn.Module]:
        """See Core."""
        return "language_model", self.language_model

    def decoder_layers(self) -> Sequence[nn.Module]:
        """See Core."""
        layers: Sequence[nn.Module] = self.decoder.layers
        return layers

    def parts(self) -> tuple[CorePart, ...]:
        """See Core; the vision strategy's own parts among them."""
        vision = (
            CorePart(part.name, tuple(f"vision.{prefix}" for prefix in part.prefixes), part.kind)
            for part in self.vision.parts()
        )
        regions = () if self.regions is None else (CorePart("region projector", ("regions.",), "projector"),)
        return (
            CorePart("language head", ("language_model.lm_head.",), "head"),
            CorePart("language model", ("language_model.",), "language"),
            *vision,
            *regions,
        )

    @property
    def strategy(self) -> VisionStrategy | None:
        """See Core."""
        return self.vision

    def set_strategy(self, strategy: VisionStrategy) -> None:
        """See Core."""
        self.vision = strategy

    def init_new_weights(self, pretrained: Collection[str]) -> None:
        """See Core.

        A word table of its own (not tied to the language head) starts at the size that its RMS norm would give it:
        words then weigh as much as what the first layers add to them (models/tiny/README.md has the effect).
        """
        self.vision.init_new_weights(frozenset(_below(VISION, pretrained)))
        if LANGUAGE not in pretrained and not self.text_config.tie_word_embeddings:
            table: Any = self.get_input_embeddings()
            torch.nn.init.normal_(table.weight)

    def load_pretrained(self, folders: Mapping[str, Path], *, num_layers: int | None = None) -> None:
        """See Core."""
        if LANGUAGE in folders:
            language = folders[LANGUAGE]
            load_part(self.language_model, read_language(language, num_layers), language)
        self.vision.load_pretrained({name: folders[f"{VISION}{name}"] for name in _below(VISION, folders)})

    def unread(self) -> tuple[str, ...]:
        """See Core."""
        return tuple(f"vision.{prefix}" for prefix in self.vision.unread())

    @property
    def placeholder_ids(self) -> tuple[int, ...]:
        """See Core."""
        ids = (self.config.image_patch_id, self.config.video_patch_id, self.config.region_patch_id)
        return tuple(number for number in ids if number is not None)

    # ------------------------------------------------------------ one pass
    def encode_images(self, inputs: ModelInputs, words: torch.Tensor | None = None) -> VisionOutput:
        """Run the vision strategy once on the distinct images of a batch.

        ``words`` [B, T, D]: the embeddings of the instructions, where they are at hand already.
        """
        return self.vision.encode(views_of(inputs.images, "images"), self._context(inputs, inputs.images, words))

    def encode_videos(self, inputs: ModelInputs, words: torch.Tensor | None = None) -> VisionOutput:
        """Run the vision strategy once on the distinct videos, as ``encode_images``."""
        return self.vision.encode_video(views_of(inputs.videos, "videos"), self._context(inputs, inputs.videos, words))

    def embed_instruction(self, inputs: ModelInputs) -> torch.Tensor | None:
        """Word embeddings [B, T, D] of what the rows ask; None where no strategy reads it."""
        return None if inputs.instructions is None else self.get_input_embeddings()(inputs.instructions.ids)

    def _context(self, inputs: ModelInputs, visual: VisualInputs | None, words: torch.Tensor | None) -> EncodeContext:
        return context_of(inputs, visual, self.embed_instruction(inputs) if words is None else words)

    def prepare(self, inputs: ModelInputs, *, left_pad: bool) -> CoreInputs:
        """See Core."""
        if inputs.input_ids is None:
            raise UserError("the batch holds neither input_ids nor inputs_embeds")
        if inputs.dialogues is not None and (left_pad or inputs.labels is None):
            raise UserError("several dialogues in a row are for training: give a row of its own to each")
        text = ExpandedText(inputs.input_ids, inputs.attention_mask, inputs.labels, inputs.dialogues)
        kinds, outputs = [], {}
        words = self.embed_instruction(inputs)
        for name, visual, encode, patch_id in (
            ("images", inputs.images, self.encode_images, self.config.image_patch_id),
            ("videos", inputs.videos, self.encode_videos, self.config.video_patch_id),
        ):
            if visual is not None and len(visual.index):
                output = outputs[name] = encode(inputs, words)
                places = list(range(len(visual.index))) if output.per_place else visual.index.tolist()
                bounds = None if visual.counts is None else visual.counts.tolist()
                placed = cast(int, patch_id)  # the tokenizer's (ullava.text.tokens)
                kinds.append(VisualItems(placed, output.tokens, output.counts, places, bounds, output.literal_ids))
            elif patch_id is not None and bool((text.input_ids == patch_id).any()):
                raise UserError(f"the text holds visual placeholders, the batch no {name}")
        kinds += self._regions(inputs.regions, outputs.get("images"), text.input_ids)
        embed = embed_as_configured(self.get_input_embeddings(), self.config)
        pad_id = self.config.pad_token_id or 0
        text, embeddings = splice_visual(text, embed, kinds, pad_id=pad_id, left_pad=left_pad)
        mask, arguments = text.attention_mask, {"inputs_embeds": embeddings}
        if text.dialogues is not None:  # transformers tells them apart by positions, where there is no mask
            mask, arguments["position_ids"] = None, restarting_positions(text.dialogues)
        return CoreInputs(
            input_ids=text.input_ids,
            attention_mask=mask,
            labels=text.labels,
            dialogues=text.dialogues,
            arguments=arguments,
            images=outputs.get("images"),
            videos=outputs.get("videos"),
            regions=0 if inputs.regions is None else len(inputs.regions.image),
        )

    def _regions(
        self, regions: RegionInputs | None, images: VisionOutput | None, input_ids: torch.Tensor
    ) -> list[VisualItems]:
        """What stands at the places of regions. Raises UserError where regions and places do not go together."""
        patch_id = self.config.region_patch_id
        if regions is None:
            if patch_id is not None and bool((input_ids == patch_id).any()):
                raise UserError("the text holds places for regions, the batch no regions")
            return []
        if self.regions is None or patch_id is None:
            raise UserError(TAKES_NO_REGIONS)
        if images is None or not images.maps:
            raise UserError("the batch holds regions, but no images that the vision encoder gives a map of")
        tokens, number = self.regions(images.maps, regions), len(regions.image)
        return [VisualItems(patch_id, tokens, (self.regions.count,) * number, range(number))]

    def items(self, input_ids: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        """See Core; an image is begun by a token of ours."""
        return item_of_position(input_ids, cast(int, self.config.image_start_id), inputs.dialogues)

    def video_items(self, input_ids: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
        """See Core; a video is begun by a token of ours."""
        start = self.config.video_start_id
        return super().video_items(input_ids, inputs) if start is None else item_of_position(input_ids, start)

    def decode(self, prepared: CoreInputs, **options: Any) -> Any:
        """See Core."""
        return self.decoder(attention_mask=prepared.attention_mask, **{**options, **prepared.arguments})

    def idle(self, prepared: CoreInputs, zero: torch.Tensor) -> torch.Tensor:
        """See Core; the parts of the vision strategy alone."""
        if prepared.images is None and prepared.videos is None:
            zero = zero + self.vision.encode_dummy()
        if self.regions is not None and not prepared.regions:
            zero = zero + zero_loss_of(self.regions)
        for seen in prepared.visual():
            if seen.idle is not None:
                zero = zero + seen.idle
        return zero


def _below(prefix: str, names: Collection[str]) -> Iterator[str]:
    return (name.removeprefix(prefix) for name in names if name.startswith(prefix))
