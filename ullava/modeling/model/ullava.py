"""``UllavaForConditionalGeneration``: a core reads text and images, the heads read its states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationMixin, LogitsProcessorList, PreTrainedModel

from ullava.errors import UserError
from ullava.examples import HeadImages, ModelInputs, PatchNames, is_model_input
from ullava.losses import token_cross_entropy
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.cores.core_contract import CoreInputs
from ullava.modeling.cores.core_table import build_core
from ullava.modeling.heads.box_contract import FoundBoxes, PhrasePrompts, read_boxes, read_mask_boxes
from ullava.modeling.heads.box_table import build_box_head
from ullava.modeling.heads.grounding_layer import PassStates, check_grounding_layer, tapped_layer
from ullava.modeling.heads.mask_contract import DecodedMasks, Pyramid, VideoMaskHead
from ullava.modeling.heads.mask_table import build_mask_head
from ullava.modeling.heads.outputs import CACHE, GroundedGeneration, MaskReading, SegOutput, UllavaOutput
from ullava.modeling.heads.read_heads import TokenStates, align_states, read_heads, states_of_sequences
from ullava.modeling.model.clips import read_clip_prompts, teach_clip_masks
from ullava.modeling.model.never_said import NeverSaid
from ullava.modeling.vision.patches import patch_cross_entropy
from ullava.modeling.vision.strategy import VisionOutput, VisionStrategy, zero_loss_of
from ullava.modeling.vision.vision_batch import chosen_by, summed_aux, told_by
from ullava.stage_clock import stage
from ullava.text.tokens import IGNORE_LABEL


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
    quantized: str | None = None
    """What ``ullava.load(quantize=...)`` holds its large linear layers in."""

    def __init__(self, config: UllavaConfig) -> None:
        super().__init__(config)
        check_grounding_layer(config.grounding_layer, config.text_config)
        width = int(config.text_config.hidden_size)
        self.core = build_core(config)
        for name, network in self.core.modules().items():
            self.add_module(name, network)
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
        """The core's."""
        return self.core.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the core's input embedding."""
        self.core.set_input_embeddings(value)

    def set_strategy(self, strategy: VisionStrategy) -> None:
        """Take another vision strategy. Raises UserError where the core has none."""
        self.core.set_strategy(strategy)
        for name, network in self.core.modules().items():
            setattr(self, name, network)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """PreTrainedModel's, under the names that the weights have here.

        Transformers would write some parts (Swin's) under names of older files. It reads those too, but the checks of
        resumed runs, adapters and shards compare names. Raises UserError for a quantized model.
        """
        if self.quantized is not None:
            raise UserError(f"a model in {self.quantized} is not saved: load it without quantize and save that")
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
        return self.core.get_output_embeddings()

    # ------------------------------------------------------------ one pass
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        **batch: Any,
    ) -> UllavaOutput:
        """One pass; with ``labels`` there is a ``loss``, and heads are read wherever a grounded token is supervised.

        ``past_key_values`` and ``cache``: two names for the cache, the second since transformers 5.24. ``batch``: the
        other keys of ModelInputs. Raises UserError for a key that is none of its, and for ``return_dict=False``: an
        output has names only.
        """
        if return_dict is False:
            raise UserError("return_dict=False: the model returns an UllavaOutput always")
        cache = past_key_values if cache is None else cache
        text_inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        inputs = self._unsaid(ModelInputs.from_kwargs(text_inputs | batch))
        labels = inputs.labels
        if inputs_embeds is None:
            with stage("vision encoder"):
                prepared = self.core.prepare(inputs, left_pad=False)
            input_ids, labels = prepared.input_ids, prepared.labels
            inputs = replace(inputs, dialogues=prepared.dialogues)
        else:
            given = {"inputs_embeds": inputs_embeds}
            prepared = CoreInputs(input_ids=input_ids, attention_mask=attention_mask, labels=labels, arguments=given)
        words_judged = not inputs.heads_only or self.config.grounding_layer is None
        first = cache is None or cache.get_seq_length() == 0
        tapped = tapped_layer(self.core.decoder, self.config.grounding_layer, last_needed=words_judged)
        with stage("prefill" if first else "decode"), tapped as tap:
            result = self.core.decode(
                prepared,
                position_ids=position_ids,
                use_cache=use_cache if labels is None else False,
                **{CACHE: cache},
            )
        hidden = result.last_hidden_state
        states = PassStates(hidden if tap is None else tap.states, hidden)
        output = UllavaOutput(
            hidden_states=None if not output_hidden_states else (hidden,) if tap is None else tuple(states),
            input_ids=input_ids,
            aux=summed_aux(prepared.visual()),
            diagnostics=told_by(prepared.images, prepared.videos),
            **{CACHE: result.get(CACHE)},
        )
        if not inputs.supervised_only:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            output.logits = self.core.logits(hidden[:, kept])
        if labels is None:
            return output
        if input_ids is None:
            raise UserError("supervision needs input_ids, to know which image a grounded token speaks of")
        supervised = (
            labels[:, 1:] != IGNORE_LABEL if words_judged else torch.zeros_like(labels[:, 1:], dtype=torch.bool)
        )
        output.supervised_logits = self.core.logits(hidden[:, :-1][supervised])
        output.targets = labels[:, 1:][supervised]
        with torch.autocast(hidden.device.type, enabled=False):
            output.loss = token_cross_entropy(output.supervised_logits, output.targets)
        aligned = align_states(states, self.config.head_state)
        self._read_into(output, aligned, labels, input_ids, inputs, prepared.images)
        teach_clip_masks(self, output, inputs)
        if prepared.images is not None and inputs.patches is not None:
            output.patch_nll = self._patch_nll(prepared.images, inputs.patches)
        output.idle = self._idle(prepared, output) if self.training else hidden.new_zeros(())
        output.chosen = chosen_by(self.core.choices, prepared.images, prepared.videos, inputs, len(input_ids))
        return output

    def _unsaid(self, inputs: ModelInputs) -> ModelInputs:
        """The same inputs, no visual place supervised: a collator that copies ids for labels need not know them."""
        if inputs.labels is None or inputs.input_ids is None:
            return inputs
        labels = inputs.labels
        for patch_id in self.core.placeholder_ids:
            labels = labels.masked_fill(inputs.input_ids == patch_id, IGNORE_LABEL)
        return replace(inputs, labels=labels)

    def _patch_nll(self, visual: VisionOutput, named: PatchNames) -> torch.Tensor:
        pieces = visual.tokens.split(list(visual.counts))
        shown = [pieces[place] for place in named.image.tolist()]
        given = torch.cat([block[: len(piece)] for block, piece in zip(named.words, shown, strict=True)])
        vocabulary = self.get_input_embeddings().weight
        return patch_cross_entropy(torch.cat(shown), given, cast(torch.Tensor, vocabulary))

    def _read_into(
        self,
        output: Any,
        aligned: PassStates,
        tokens: torch.Tensor,
        input_ids: torch.Tensor,
        inputs: ModelInputs,
        images: VisionOutput | None,
    ) -> None:
        """Fill ``output.seg`` and ``output.loc`` from states aligned with ``tokens`` [B, L]."""
        items = self.core.items(input_ids, inputs)
        if items.shape != tokens.shape:  # generation: every new token speaks of the row's last image
            items = items[:, -1:].expand(-1, tokens.shape[1])
        output.clips = read_clip_prompts(self, aligned, tokens, items, input_ids, inputs)
        seg = read_heads(aligned, tokens, items, self.config.seg_id)
        loc = read_heads(aligned, tokens, items, self.config.loc_id)
        if not self.box_head.reads_masks:
            kept, masks, read = self._decode_masks(seg, inputs, images)
            output.seg = self._seg_output(seg.chosen(kept), masks, inputs, read)
            probability = self._probability(loc.last, self.config.loc_id)
            with stage("box head"):
                output.loc = read_boxes(self.box_head, loc, self._image_of(loc, inputs), probability, inputs.box_images)
            return
        kept, decoded, read = self._decode_masks(seg.followed_by(loc), inputs, images)  # images are embedded once
        of_seg, of_loc = kept.split([len(seg.row), len(loc.row)])
        masks, planes = decoded.parted(int(of_seg.sum()))
        output.seg = self._seg_output(seg.chosen(of_seg), masks, inputs, read)
        loc = loc.chosen(of_loc)
        probability = self._probability(loc.last, self.config.loc_id)
        if not self.training:
            planes = replace(planes, mask_logits_lowres=self.config.mask_cut.without_faint(planes.mask_logits_lowres))
        with stage("box head"):
            output.loc = read_mask_boxes(self.box_head, loc, self._image_of(loc, inputs), probability, planes)

    def find_boxes(self, prompts: PhrasePrompts, inputs: ModelInputs) -> FoundBoxes | None:
        """Let the box head find phrases in the images of a batch; None where those have no view for it."""
        with stage("box head"):
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
            return self.core.logits(states.detach()).float().softmax(dim=-1)[:, token_id]

    def _decode_masks(
        self, found: TokenStates, inputs: ModelInputs, images: VisionOutput | None
    ) -> tuple[torch.Tensor, DecodedMasks, MaskReading | None]:
        """Which of the tokens [K] speak of an image that the mask head sees, their masks, and what these were made of.

        Its encoder runs once for each image.
        """
        image = self._image_of(found, inputs)
        shown: HeadImages | Pyramid | None = inputs.mask_images
        if self.mask_head.reads_pyramid:
            shown = None if images is None else images.pyramid
        view = torch.full_like(image, -1) if shown is None else image
        view = shown.rows(image) if isinstance(shown, HeadImages) else view
        kept = view >= 0
        states = found.states
        if not bool(kept.all()):
            states, view = states[kept], view[kept]
        if shown is None or len(view) == 0:
            return kept, self.mask_head.none(states), None
        used, place = view.unique(return_inverse=True)
        content_hw = None
        if inputs.content_only and isinstance(shown, HeadImages):
            content_hw = tuple(shown.sizes[used].amax(dim=0).tolist())
        with stage("mask encoder"):
            features = self.mask_head.embed(shown, used)
        with stage("mask decoder"):
            decoded = self.mask_head.decode(states, features, place, content_hw)
        if not self.training:
            decoded = decoded.calibrated(self.config.presence_scale, self.config.presence_shift)
        return kept, decoded, MaskReading(states, features, place) if inputs.masks_read else None

    def _seg_output(
        self, seg: TokenStates, decoded: DecodedMasks, inputs: ModelInputs, read: MaskReading | None
    ) -> SegOutput:
        """Masks whose cells belong to them above 0, in answers by the config's ``mask_cut``."""
        logits = decoded.mask_logits_lowres
        return SegOutput(
            mask_logits_lowres=logits if self.training else self.config.mask_cut.cut(logits),
            iou_scores=decoded.scores,
            presence_logits=decoded.presence_logits,
            row=seg.row,
            image=self._image_of(seg, inputs),
            token_probability=self._probability(seg.last, self.config.seg_id),
            read=read,
        )

    def _idle(self, prepared: CoreInputs, output: Any) -> torch.Tensor:
        zero = self.core.idle(prepared, output.supervised_logits.new_zeros(()))
        if len(output.seg.row) == 0 and prepared.images is not None:
            zero = zero + sum(plane.sum() * 0.0 for plane in prepared.images.pyramid)
        remembers = isinstance(self.mask_head, VideoMaskHead) and output.seg.target is None  # no clip used its memory
        unused: list[nn.Module] = [self.mask_head] if remembers or len(output.seg.row) == 0 else []
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
        if kwargs.get("inputs_embeds") is not None:
            given = {"inputs_embeds": kwargs.pop("inputs_embeds")}
            mask = kwargs.pop("attention_mask", None)
            return self._continue(CoreInputs(input_ids=input_ids, attention_mask=mask, arguments=given), **kwargs)
        batch = {key: kwargs.pop(key) for key in list(kwargs) if is_model_input(key)}
        inputs = ModelInputs.from_kwargs({"input_ids": input_ids} | batch)
        prepared = self._prepare_prompts(inputs)
        made = self._continue(prepared, **kwargs)
        asked = cast(torch.Tensor, prepared.input_ids)
        if input_ids is None or asked.shape == input_ids.shape:
            return made
        sequences = made if isinstance(made, torch.Tensor) else made.sequences
        new_ids = sequences[:, asked.shape[1] :]
        prompts = input_ids.repeat_interleave(len(new_ids) // len(input_ids), dim=0)
        sequences = torch.cat([prompts, new_ids], dim=1)
        if isinstance(made, torch.Tensor):
            return sequences
        made.sequences = sequences
        return made

    def _prepare_prompts(self, inputs: ModelInputs) -> CoreInputs:
        inputs = replace(inputs, labels=None)
        if inputs.attention_mask is None and inputs.input_ids is not None:
            inputs = replace(inputs, attention_mask=torch.ones_like(inputs.input_ids))
        with stage("vision encoder"):
            return self.core.prepare(inputs, left_pad=True)

    def _continue(self, prepared: CoreInputs, **generation: Any) -> Any:
        """Let the core's own network generate, or GenerationMixin with this one; the settings are ours."""
        asked = {"input_ids": prepared.input_ids, "attention_mask": prepared.attention_mask, **prepared.arguments}
        never = NeverSaid(self.core.placeholder_ids)
        generation["logits_processor"] = LogitsProcessorList([*(generation.get("logits_processor") or ()), never])
        # A process answers alone, with all weights (whole_weights): transformers would have a sharded one wait for all.
        generation.setdefault("synced_gpus", False)
        if self.core.generator is None:
            return super().generate(**asked, **generation)
        generation.setdefault("generation_config", self.generation_config)
        return self.core.generator.generate(**asked, **generation)

    @torch.no_grad()
    def generate_grounded(
        self, inputs: ModelInputs | Mapping[str, Any], *, read_history: bool = False, **generation: Any
    ) -> GroundedGeneration:
        """Generate, then read masks and boxes from the states of the same pass; one sequence for each prompt.

        ``inputs``: also as the processor returns them. ``num_beams``: the states are those of the beams that the
        sequence came from.
        With ``read_history`` those that a prompt already speaks of are read too, before the new ones, as u-LLaVA does.
        """
        if generation.get("num_return_sequences", 1) != 1:
            raise UserError("grounded generation keeps one sequence per prompt: leave num_return_sequences at 1")
        inputs = inputs if isinstance(inputs, ModelInputs) else ModelInputs.from_kwargs(inputs)
        prepared = self._prepare_prompts(inputs)
        with stage("decode"):
            result = self._continue(
                prepared,
                return_dict_in_generate=True,
                output_hidden_states=True,
                use_cache=True,
                output_scores=int(generation.get("num_beams") or 1) > 1,
                **generation,
            )
        first, new = states_of_sequences(result)
        new_ids = result.sequences[:, -new[0].shape[1] :]
        prompt_ids = result.sequences[:, : -new[0].shape[1]]
        tokens = new_ids
        if read_history:  # the prompt's states came with the first step
            whole = [torch.cat([prompt[:, :-1], steps], dim=1) for prompt, steps in zip(first, new, strict=True)]
            new = [torch.cat([steps[:, :1], steps], dim=1) for steps in whole]
            tokens = prompt_ids = result.sequences
        if self.config.head_state == "token":  # the state at a token is the next step's; the last token has none
            new = [torch.cat([steps[:, 1:], steps[:, -1:]], dim=1) for steps in new]
            tokens = torch.cat([tokens[:, :-1], torch.full_like(tokens[:, -1:], IGNORE_LABEL)], dim=1)
        chosen = chosen_by(self.core.choices, prepared.images, prepared.videos, inputs, len(new_ids))
        grounded = GroundedGeneration(new_ids=new_ids, chosen=chosen)
        self._read_into(grounded, PassStates(new[0], new[-1]), tokens, prompt_ids, inputs, prepared.images)
        return grounded
