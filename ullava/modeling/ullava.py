"""``UllavaForConditionalGeneration``: encode pictures, splice, language model, read the heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel

from ullava.errors import UserError
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.box_contract import BoxPictures, FoundBoxes, PhrasePrompts, read_boxes
from ullava.modeling.heads.box_table import build_box_head
from ullava.modeling.heads.mask import MaskHead
from ullava.modeling.outputs import GroundedGeneration, SegOutput, UllavaOutput
from ullava.modeling.patches import patch_cross_entropy
from ullava.modeling.read_heads import TokenStates, align_states, item_of_position, read_heads
from ullava.modeling.released_gradient import embed_as_configured
from ullava.modeling.splice import ExpandedText, VisualItems, splice_visual
from ullava.modeling.strategies import build_strategy
from ullava.modeling.vision.strategy import EncodeContext, VisionOutput, zero_of
from ullava.modeling.vision_batch import (
    BATCH_KEYS,
    PIXELS,
    chosen_by,
    context_of,
    summed_aux,
    told_by,
    views_of,
)
from ullava.text.tokens import IGNORE_LABEL

Batch = Mapping[str, Any]


class Spliced(NamedTuple):
    """Expanded text, its embeddings [B, L', D], and what pictures and videos gave (None where there are none)."""

    text: ExpandedText
    embeddings: torch.Tensor
    images: VisionOutput | None
    videos: VisionOutput | None


class UllavaForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Text, masks and boxes from pictures and words.

    ``forward`` is the same in training and evaluation; ``generate`` is GenerationMixin's, with pictures encoded once
    before it starts; ``generate_grounded`` adds masks and boxes from the states of that same pass.

    Batch keys: ``input_ids``, ``attention_mask`` [B, L]; ``pixel_values`` uint8 [I, 3, R, R] of distinct pictures (and
    ``pixel_values_<view>`` for strategies with more views; a list of I tensors where their shapes differ);
    ``image_index`` [items], which of the I each picture of the text is; ``image_counts`` [items, 2], the least and the
    most visual tokens of each, where that is open; ``instruction_ids``, ``instruction_mask`` [B, T], what each row
    asks, and ``image_row`` [items], for a strategy that reads it; ``force``, its overrides by name;
    ``video_pixel_values`` uint8 [V, T, 3, R, R] of distinct videos (and ``video_pixel_values_<view>``) with
    ``video_index``, ``video_counts``, ``video_row``; ``sam_pixel_values`` uint8 [J, 3, h, w] with ``sam_sizes`` [J, 2]
    (h, w), or ``sam_embeddings`` [J, C, S/p, S/p]; ``sam_index`` [I], the SAM row of each picture, -1 = none;
    ``content_only``, true where nobody looks at mask logits of the padding, which need not be drawn then;
    ``box_pixel_values``, ``box_sizes`` and ``box_index`` the same for the box head's own view, where it has one;
    ``labels`` [B, L]; ``patch_words`` [P, N, w], the words of the N visual tokens of pictures ``patch_image`` [P].
    """

    config_class = UllavaConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: list[str] = []

    def __init__(self, config: UllavaConfig) -> None:
        super().__init__(config)
        width = int(config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.vision = build_strategy(config, width)
        self.mask_head = MaskHead(config.sam_config, width)
        self.box_head = build_box_head(config, width)
        self.post_init()
        # SAM ties two of its embeddings; post_init looks for ties one level down only, SAM lies two levels down.
        self.all_tied_weights_keys.update(self.get_expanded_tied_weights_keys(all_submodels=True))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    # ------------------------------------------------------------ parts
    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's input embedding."""
        self.language_model.set_input_embeddings(value)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """PreTrainedModel's, under the names that the weights have here.

        Transformers would write some parts (Swin's) under names of older files. It reads those too, but the checks of
        resumed runs, adapters and shards compare names.
        """
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    def enable_input_require_grads(self) -> None:
        """Recomputing layers need a gradient at the words' embedding; the towers' give tuples, too, and need none."""
        hook = self.get_input_embeddings().register_forward_hook(
            lambda _module, _given, made: made.requires_grad_(True)
        )
        self._require_grads_hooks = [hook]
        self._require_grads_hook = hook

    def get_output_embeddings(self) -> nn.Module:
        """The language head."""
        return self.language_model.get_output_embeddings()

    def encode_images(self, batch: Batch, words: torch.Tensor | None = None) -> VisionOutput:
        """Run the vision strategy once on the distinct pictures of ``batch``.

        ``words`` [B, T, D]: the embeddings of ``instruction_ids``, where they are at hand already.
        """
        return self.vision.encode(views_of(batch, "image"), self._context(batch, "image", words))

    def encode_videos(self, batch: Batch, words: torch.Tensor | None = None) -> VisionOutput:
        """Run the vision strategy once on the distinct videos, as ``encode_images``."""
        return self.vision.encode_video(views_of(batch, "video"), self._context(batch, "video", words))

    def embed_instruction(self, batch: Batch) -> torch.Tensor | None:
        """Word embeddings [B, T, D] of what the rows ask; None where no strategy reads it."""
        ids = batch.get("instruction_ids")
        return None if ids is None else self.get_input_embeddings()(ids)

    def _context(self, batch: Batch, kind: str, words: torch.Tensor | None) -> EncodeContext:
        return context_of(batch, kind, self.embed_instruction(batch) if words is None else words)

    def _splice(self, text: ExpandedText, batch: Batch, left_pad: bool) -> Spliced:
        kinds, outputs = [], {}
        words = self.embed_instruction(batch)
        for key, encode, patch_id in (
            ("image", self.encode_images, self.config.image_patch_id),
            ("video", self.encode_videos, self.config.video_patch_id),
        ):
            index = batch.get(f"{key}_index")
            if index is not None and len(index):
                output = outputs[key] = encode(batch, words)
                places = list(range(len(index))) if output.per_place else index.tolist()
                bounds = batch.get(f"{key}_counts")
                kinds.append(
                    VisualItems(
                        patch_id,
                        output.tokens,
                        output.counts,
                        places,
                        None if bounds is None else bounds.tolist(),
                        output.literal_ids,
                    )
                )
            elif patch_id is not None and bool((text.input_ids == patch_id).any()):
                things = {"image": "pictures", "video": "videos"}[key]
                raise UserError(f"the text holds visual placeholders, the batch no {things}")
        embed = embed_as_configured(self.get_input_embeddings(), self.config)
        pad_id = self.config.pad_token_id or 0
        text, embeddings = splice_visual(text, embed, kinds, pad_id=pad_id, left_pad=left_pad)
        return Spliced(text, embeddings, outputs.get("image"), outputs.get("video"))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Language head with the scaling that some causal LMs apply after it."""
        config = self.config.text_config
        logits = self.get_output_embeddings()(hidden)
        if (scale := getattr(config, "logit_scale", None)) is not None:
            logits = logits * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits

    # ------------------------------------------------------------ one pass
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **batch: Any,
    ) -> UllavaOutput:
        """See the class for the batch; with ``labels`` the heads are read wherever a grounded token is supervised."""
        images = videos = None
        if inputs_embeds is None:
            text, inputs_embeds, images, videos = self._splice(
                _given(input_ids, attention_mask, labels), batch, left_pad=False
            )
            input_ids, attention_mask, labels = text.input_ids, text.attention_mask, text.labels
        result = self.language_model.get_decoder()(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache if labels is None else False,
        )
        hidden = result.last_hidden_state
        output = UllavaOutput(
            past_key_values=result.past_key_values,
            hidden_states=(hidden,) if output_hidden_states else None,
            input_ids=input_ids,
            aux=summed_aux(output for output in (images, videos) if output is not None),
            diagnostics=told_by(images, videos),
        )
        if labels is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            output.logits = self._logits(hidden[:, kept])
            return output
        if input_ids is None:
            raise UserError("supervision needs input_ids, to know which picture a grounded token speaks of")
        supervised = labels[:, 1:] != IGNORE_LABEL
        output.logits = self._logits(hidden[:, :-1][supervised])
        output.targets = labels[:, 1:][supervised]
        self._read_into(output, align_states(hidden, self.config.head_state), labels, input_ids, batch)
        if images is not None and batch.get("patch_words") is not None:
            output.patch_nll = self._patch_nll(images, batch["patch_words"], batch["patch_image"])
        if self.training:
            output.idle = self._idle(images, videos, output)
        else:
            output.chosen = chosen_by(self.vision.choices, images, videos, batch, len(input_ids))
        return output

    def _patch_nll(self, visual: VisionOutput, words: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        pieces = visual.tokens.split(list(visual.counts))
        shown = [pieces[place] for place in image.tolist()]
        given = torch.cat([block[: len(piece)] for block, piece in zip(words, shown, strict=True)])
        vocabulary = self.get_input_embeddings().weight
        return patch_cross_entropy(torch.cat(shown), given, cast(torch.Tensor, vocabulary))

    def _read_into(
        self, output: Any, aligned: torch.Tensor, tokens: torch.Tensor, input_ids: torch.Tensor, batch: Batch
    ) -> None:
        """Fill ``output.seg`` and ``output.loc`` from states aligned with ``tokens`` [B, L]."""
        items = item_of_position(input_ids, self.config.image_start_id)
        if items.shape != tokens.shape:  # generation: every new token speaks of the row's last picture
            items = items[:, -1:].expand(-1, tokens.shape[1])
        seg = read_heads(aligned, tokens, items, self.config.seg_id)
        loc = read_heads(aligned, tokens, items, self.config.loc_id)
        output.seg = self._decode_masks(seg, batch)
        probability = self._probability(loc.states, self.config.loc_id)
        output.loc = read_boxes(self.box_head, loc, self._image_of(loc, batch), probability, batch)

    def find_boxes(self, prompts: PhrasePrompts, batch: Batch) -> FoundBoxes | None:
        """Let the box head find phrases in the pictures of ``batch``; None where those have no view for it."""
        pictures = BoxPictures.of_batch(batch)
        return None if pictures is None else self.box_head.find(prompts, pictures)

    @staticmethod
    def _image_of(found: TokenStates, batch: Batch) -> torch.Tensor:
        """Item numbers -> distinct pictures of the batch; -1 (a token in a text-only row) stays -1."""
        index = batch.get("image_index")
        if index is None or len(index) == 0:
            return torch.full_like(found.item, -1)
        return torch.where(found.item >= 0, index[found.item.clamp(min=0)], found.item)

    def _probability(self, states: torch.Tensor, token_id: int) -> torch.Tensor:
        """Probability [K] that the language head gave the token; a score, so no gradient runs through it."""
        with torch.no_grad():
            return self._logits(states.detach()).float().softmax(dim=-1)[:, token_id]

    def _decode_masks(self, seg: TokenStates, batch: Batch) -> SegOutput:
        """Decode the masks of tokens that have a picture with a SAM view; SAM's encoder runs once for each picture."""
        image = self._image_of(seg, batch)
        sam_index = batch.get("sam_index")
        sam_row = (
            torch.where(image >= 0, sam_index[image.clamp(min=0)], image)
            if sam_index is not None and len(sam_index)
            else torch.full_like(image, -1)
        )
        if len(sam_row) and bool((sam_row < 0).any()):
            keep = sam_row >= 0
            seg = TokenStates(seg.states[keep], seg.row[keep], seg.item[keep])
            image, sam_row = image[keep], sam_row[keep]
        if len(sam_row) == 0:
            plane = self.config.sam_config.prompt_encoder_config.image_embedding_size * 4
            masks, quality = seg.states.new_zeros(0, plane, plane), seg.states.new_zeros(0)
        else:
            used, place = sam_row.unique(return_inverse=True)
            height = int(batch["sam_sizes"][used, 0].max()) if batch.get("content_only") else None
            masks, quality = self.mask_head.decode(seg.states, self._sam_embeddings(batch, used), place, height)
        return SegOutput(
            mask_logits_lowres=masks,
            iou_scores=quality,
            row=seg.row,
            image=image,
            token_probability=self._probability(seg.states, self.config.seg_id),
        )

    def _sam_embeddings(self, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
        if batch.get("sam_embeddings") is not None:
            return batch["sam_embeddings"][rows]
        return self.mask_head.embed_images(batch["sam_pixel_values"][rows], batch["sam_sizes"][rows])

    def _idle(self, images: VisionOutput | None, videos: VisionOutput | None, output: Any) -> torch.Tensor:
        zero = output.logits.new_zeros(())
        if images is None and videos is None:
            zero = zero + self.vision.encode_dummy()
        for seen in (images, videos):
            if seen is not None and seen.idle is not None:
                zero = zero + seen.idle
        unused: list[nn.Module] = [self.mask_head] if len(output.seg.row) == 0 else []
        unused += [self.box_head] if len(output.loc.row) == 0 else []
        return zero + zero_of(*unused) if unused else zero

    # ------------------------------------------------------------ generation
    @torch.no_grad()
    def generate(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """GenerationMixin's ``generate`` with KV cache on text whose pictures were encoded once; left-padded rows.

        Returned sequences hold the expanded prompt ids followed by the new ones. A model cannot say a picture, so the
        placeholders of pictures and videos are never generated.
        """
        placeholders = {self.config.image_patch_id, self.config.video_patch_id} - {None}
        kwargs["suppress_tokens"] = sorted(placeholders.union(kwargs.get("suppress_tokens") or ()))
        if kwargs.get("inputs_embeds") is not None:
            return super().generate(input_ids=input_ids, **kwargs)
        batch = {key: kwargs.pop(key) for key in list(kwargs) if key in BATCH_KEYS or key.startswith(PIXELS)}
        text, embeddings, *_ = self._splice_prompts(input_ids, kwargs.pop("attention_mask", None), batch)
        return super().generate(
            input_ids=text.input_ids, attention_mask=text.attention_mask, inputs_embeds=embeddings, **kwargs
        )

    def _splice_prompts(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, batch: Batch
    ) -> Spliced:
        given = _given(input_ids, attention_mask, None)
        if given.attention_mask is None:
            given = replace(given, attention_mask=torch.ones_like(given.input_ids))
        return self._splice(given, batch, left_pad=True)

    @torch.no_grad()
    def generate_grounded(self, batch: Batch, *, read_history: bool = False, **generation: Any) -> GroundedGeneration:
        """Generate, then read masks and boxes from the states of the same pass; one sequence for each prompt.

        With ``read_history`` those that a prompt already speaks of are read too, before the new ones, as u-LLaVA does.
        """
        if generation.get("num_beams", 1) != 1 or generation.get("num_return_sequences", 1) != 1:
            raise UserError("grounded generation keeps one sequence per prompt: leave num_beams and "
                            "num_return_sequences at 1")  # fmt: skip
        spliced = self._splice_prompts(batch.get("input_ids"), batch.get("attention_mask"), batch)
        result = self.generate(
            spliced.text.input_ids,
            attention_mask=spliced.text.attention_mask,
            inputs_embeds=spliced.embeddings,
            return_dict_in_generate=True,
            output_hidden_states=True,
            use_cache=True,
            **generation,
        )
        steps = torch.stack([states[-1][:, -1] for states in result.hidden_states], dim=1)
        new_ids = result.sequences[:, -steps.shape[1] :]
        prompt_ids = result.sequences[:, : -steps.shape[1]]
        tokens = new_ids
        if read_history:  # the prompt's states came with the first step
            steps = torch.cat([result.hidden_states[0][-1][:, :-1], steps], dim=1)
            steps = torch.cat([steps[:, :1], steps], dim=1)
            tokens = prompt_ids = result.sequences
        if self.config.head_state == "token":  # the state at a token is the next step's; the last token has none
            steps = torch.cat([steps[:, 1:], steps[:, -1:]], dim=1)
            tokens = torch.cat([tokens[:, :-1], torch.full_like(tokens[:, -1:], IGNORE_LABEL)], dim=1)
        seen = (spliced.images, spliced.videos)
        chosen = chosen_by(self.vision.choices, *seen, batch, len(new_ids))
        grounded = GroundedGeneration(new_ids=new_ids, chosen=chosen)
        self._read_into(grounded, steps, tokens, prompt_ids, batch)
        return grounded


def _given(
    input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, labels: torch.Tensor | None
) -> ExpandedText:
    """Gather the text of a batch as it came."""
    if input_ids is None:
        raise UserError("the batch holds neither input_ids nor inputs_embeds")
    return ExpandedText(input_ids, attention_mask, labels)
