"""``UllavaForConditionalGeneration``: encode images, splice, language model, read the heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel

from ullava.errors import UserError
from ullava.examples import ModelInputs, PatchNames, VisualInputs, is_model_input
from ullava.losses import token_cross_entropy
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.box_contract import FoundBoxes, PhrasePrompts, read_boxes
from ullava.modeling.heads.box_table import build_box_head
from ullava.modeling.heads.mask_table import build_mask_head
from ullava.modeling.heads.outputs import GroundedGeneration, SegOutput, UllavaOutput
from ullava.modeling.heads.read_heads import TokenStates, align_states, item_of_position, read_heads
from ullava.modeling.model.released_gradient import embed_as_configured
from ullava.modeling.model.splice import ExpandedText, VisualItems, splice_visual
from ullava.modeling.model.vision_batch import chosen_by, context_of, summed_aux, told_by, views_of
from ullava.modeling.vision.patches import patch_cross_entropy
from ullava.modeling.vision.strategies import build_strategy
from ullava.modeling.vision.strategy import EncodeContext, VisionOutput, zero_loss_of
from ullava.text.tokens import IGNORE_LABEL


class Spliced(NamedTuple):
    """Expanded text, its embeddings [B, L', D], and what images and videos gave (None where there are none)."""

    text: ExpandedText
    embeddings: torch.Tensor
    images: VisionOutput | None
    videos: VisionOutput | None


class UllavaForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Text, masks and boxes from images and words.

    ``forward`` is the same in training and evaluation; ``generate`` is GenerationMixin's, with images encoded once
    before it starts; ``generate_grounded`` adds masks and boxes from the states of that same pass.

    What it reads of a batch is ullava.examples.ModelInputs, handed over as keyword arguments (``as_kwargs``).
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
        self.mask_head = build_mask_head(config, width)
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

    def _splice(self, inputs: ModelInputs, left_pad: bool) -> Spliced:
        if inputs.input_ids is None:
            raise UserError("the batch holds neither input_ids nor inputs_embeds")
        text = ExpandedText(inputs.input_ids, inputs.attention_mask, inputs.labels)
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
                kinds.append(VisualItems(patch_id, output.tokens, output.counts, places, bounds, output.literal_ids))
            elif patch_id is not None and bool((text.input_ids == patch_id).any()):
                raise UserError(f"the text holds visual placeholders, the batch no {name}")
        embed = embed_as_configured(self.get_input_embeddings(), self.config)
        pad_id = self.config.pad_token_id or 0
        text, embeddings = splice_visual(text, embed, kinds, pad_id=pad_id, left_pad=left_pad)
        return Spliced(text, embeddings, outputs.get("images"), outputs.get("videos"))

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
        return_dict: bool | None = None,
        **batch: Any,
    ) -> UllavaOutput:
        """One pass; with ``labels`` there is a ``loss``, and heads are read wherever a grounded token is supervised.

        ``batch``: the other keys of ModelInputs. Raises UserError for a key that is none of its, and for
        ``return_dict=False``: an output has names only.
        """
        if return_dict is False:
            raise UserError("return_dict=False: the model returns an UllavaOutput always")
        text_inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        inputs = self._unsaid(ModelInputs.from_kwargs(text_inputs | batch))
        labels = inputs.labels
        images = videos = None
        if inputs_embeds is None:
            text, inputs_embeds, images, videos = self._splice(inputs, left_pad=False)
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
        if not inputs.supervised_only:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            output.logits = self._logits(hidden[:, kept])
        if labels is None:
            return output
        if input_ids is None:
            raise UserError("supervision needs input_ids, to know which image a grounded token speaks of")
        supervised = labels[:, 1:] != IGNORE_LABEL
        output.supervised_logits = self._logits(hidden[:, :-1][supervised])
        output.targets = labels[:, 1:][supervised]
        with torch.autocast(hidden.device.type, enabled=False):
            output.loss = token_cross_entropy(output.supervised_logits, output.targets)
        self._read_into(output, align_states(hidden, self.config.head_state), labels, input_ids, inputs)
        if images is not None and inputs.patches is not None:
            output.patch_nll = self._patch_nll(images, inputs.patches)
        output.idle = self._idle(images, videos, output) if self.training else hidden.new_zeros(())
        output.chosen = chosen_by(self.vision.choices, images, videos, inputs, len(input_ids))
        return output

    def _unsaid(self, inputs: ModelInputs) -> ModelInputs:
        """The same inputs, no visual place supervised: a collator that copies ids for labels need not know them."""
        if inputs.labels is None or inputs.input_ids is None:
            return inputs
        labels = inputs.labels
        for patch_id in (self.config.image_patch_id, self.config.video_patch_id):
            if patch_id is not None:
                labels = labels.masked_fill(inputs.input_ids == patch_id, IGNORE_LABEL)
        return replace(inputs, labels=labels)

    def _patch_nll(self, visual: VisionOutput, named: PatchNames) -> torch.Tensor:
        pieces = visual.tokens.split(list(visual.counts))
        shown = [pieces[place] for place in named.image.tolist()]
        given = torch.cat([block[: len(piece)] for block, piece in zip(named.words, shown, strict=True)])
        vocabulary = self.get_input_embeddings().weight
        return patch_cross_entropy(torch.cat(shown), given, cast(torch.Tensor, vocabulary))

    def _read_into(
        self, output: Any, aligned: torch.Tensor, tokens: torch.Tensor, input_ids: torch.Tensor, inputs: ModelInputs
    ) -> None:
        """Fill ``output.seg`` and ``output.loc`` from states aligned with ``tokens`` [B, L]."""
        items = item_of_position(input_ids, self.config.image_start_id)
        if items.shape != tokens.shape:  # generation: every new token speaks of the row's last image
            items = items[:, -1:].expand(-1, tokens.shape[1])
        seg = read_heads(aligned, tokens, items, self.config.seg_id)
        loc = read_heads(aligned, tokens, items, self.config.loc_id)
        output.seg = self._decode_masks(seg, inputs)
        probability = self._probability(loc.states, self.config.loc_id)
        output.loc = read_boxes(self.box_head, loc, self._image_of(loc, inputs), probability, inputs.box_images)

    def find_boxes(self, prompts: PhrasePrompts, inputs: ModelInputs) -> FoundBoxes | None:
        """Let the box head find phrases in the images of a batch; None where those have no view for it."""
        return None if inputs.box_images is None else self.box_head.find(prompts, inputs.box_images)

    @staticmethod
    def _image_of(found: TokenStates, inputs: ModelInputs) -> torch.Tensor:
        """Item numbers -> distinct images of the batch; -1 (a token in a text-only row) stays -1."""
        if inputs.images is None or len(inputs.images.index) == 0:
            return torch.full_like(found.item, -1)
        return torch.where(found.item >= 0, inputs.images.index[found.item.clamp(min=0)], found.item)

    def _probability(self, states: torch.Tensor, token_id: int) -> torch.Tensor:
        """Probability [K] that the language head gave the token; a score, so no gradient runs through it."""
        with torch.no_grad():
            return self._logits(states.detach()).float().softmax(dim=-1)[:, token_id]

    def _decode_masks(self, seg: TokenStates, inputs: ModelInputs) -> SegOutput:
        """Decode the masks of tokens whose image the mask head sees; its encoder runs once for each image."""
        image, shown = self._image_of(seg, inputs), inputs.mask_images
        view = torch.full_like(image, -1) if shown is None else shown.rows(image)
        if len(view) and bool((view < 0).any()):
            keep = view >= 0
            seg = TokenStates(seg.states[keep], seg.row[keep], seg.item[keep])
            image, view = image[keep], view[keep]
        if shown is None or len(view) == 0:
            decoded = self.mask_head.none(seg.states)
        else:
            used, place = view.unique(return_inverse=True)
            content_hw = tuple(shown.sizes[used].amax(dim=0).tolist()) if inputs.content_only else None
            decoded = self.mask_head.decode(seg.states, self.mask_head.embed(shown, used), place, content_hw)
        return SegOutput(
            mask_logits_lowres=decoded.mask_logits_lowres,
            iou_scores=decoded.scores,
            row=seg.row,
            image=image,
            token_probability=self._probability(seg.states, self.config.seg_id),
        )

    def _idle(self, images: VisionOutput | None, videos: VisionOutput | None, output: Any) -> torch.Tensor:
        zero = output.supervised_logits.new_zeros(())
        if images is None and videos is None:
            zero = zero + self.vision.encode_dummy()
        for seen in (images, videos):
            if seen is not None and seen.idle is not None:
                zero = zero + seen.idle
        unused: list[nn.Module] = [self.mask_head] if len(output.seg.row) == 0 else []
        unused += [self.box_head] if len(output.loc.row) == 0 else []
        return zero + zero_loss_of(*unused) if unused else zero

    # ------------------------------------------------------------ generation
    @torch.no_grad()
    def generate(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """GenerationMixin's ``generate`` with KV cache on text whose images were encoded once; left-padded rows.

        Returned sequences hold the prompt's ids as they were given, followed by the new ones, also where a vision
        encoder made the prompt longer. A model cannot say an image, so the placeholders of images and videos are never
        generated.
        """
        placeholders = {self.config.image_patch_id, self.config.video_patch_id} - {None}
        kwargs["suppress_tokens"] = sorted(placeholders.union(kwargs.get("suppress_tokens") or ()))
        if kwargs.get("inputs_embeds") is not None:
            return super().generate(input_ids=input_ids, **kwargs)
        batch = {key: kwargs.pop(key) for key in list(kwargs) if is_model_input(key)}
        inputs = ModelInputs.from_kwargs({"input_ids": input_ids} | batch)
        text, embeddings, *_ = self._splice_prompts(inputs)
        made = super().generate(
            input_ids=text.input_ids, attention_mask=text.attention_mask, inputs_embeds=embeddings, **kwargs
        )
        if input_ids is None or text.input_ids.shape == input_ids.shape:
            return made
        sequences = made if isinstance(made, torch.Tensor) else made.sequences
        new_ids = sequences[:, text.input_ids.shape[1] :]
        prompts = input_ids.repeat_interleave(len(new_ids) // len(input_ids), dim=0)
        sequences = torch.cat([prompts, new_ids], dim=1)
        if isinstance(made, torch.Tensor):
            return sequences
        made.sequences = sequences
        return made

    def _splice_prompts(self, inputs: ModelInputs) -> Spliced:
        inputs = replace(inputs, labels=None)
        if inputs.attention_mask is None and inputs.input_ids is not None:
            inputs = replace(inputs, attention_mask=torch.ones_like(inputs.input_ids))
        return self._splice(inputs, left_pad=True)

    @torch.no_grad()
    def generate_grounded(
        self, inputs: ModelInputs, *, read_history: bool = False, **generation: Any
    ) -> GroundedGeneration:
        """Generate, then read masks and boxes from the states of the same pass; one sequence for each prompt.

        With ``read_history`` those that a prompt already speaks of are read too, before the new ones, as u-LLaVA does.
        """
        if generation.get("num_beams", 1) != 1 or generation.get("num_return_sequences", 1) != 1:
            raise UserError("grounded generation keeps one sequence per prompt: leave num_beams and "
                            "num_return_sequences at 1")  # fmt: skip
        spliced = self._splice_prompts(inputs)
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
        chosen = chosen_by(self.vision.choices, *seen, inputs, len(new_ids))
        grounded = GroundedGeneration(new_ids=new_ids, chosen=chosen)
        self._read_into(grounded, steps, tokens, prompt_ids, inputs)
        return grounded
