"""The model's part in masks of videos: it reads their prompts, embeds frames, and teaches masks in a batch's clips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from ullava.errors import UserError
from ullava.examples import BASE_VIEW, HeadImages, ModelInputs, Views
from ullava.modeling.heads.clip_states import with_clip_masks
from ullava.modeling.heads.grounding_layer import PassStates
from ullava.modeling.heads.outputs import ClipPrompts
from ullava.modeling.heads.read_heads import read_heads
from ullava.stage_clock import stage

if TYPE_CHECKING:
    from ullava.modeling.model.ullava import UllavaForConditionalGeneration


def embed_frames(model: UllavaForConditionalGeneration, shown: HeadImages | Views) -> Any:
    """What the mask head's encoder makes of all frames: its own views of them, or those of the vision strategy."""
    with stage("mask encoder"):
        if isinstance(shown, HeadImages):
            return model.mask_head.embed(shown, torch.arange(len(shown.pixels), device=shown.pixels.device))
        strategy = model.core.strategy
        if strategy is None:
            raise UserError("the core has no vision strategy whose maps the mask head could read")
        maps = strategy.encode(shown).pyramid
        return model.mask_head.embed(maps, torch.arange(len(maps[0]), device=maps[0].device))


def read_clip_prompts(
    model: UllavaForConditionalGeneration,
    aligned: PassStates,
    tokens: torch.Tensor,
    image_items: torch.Tensor,
    input_ids: torch.Tensor,
    inputs: ModelInputs,
) -> ClipPrompts | None:
    """The ``[SEG]`` in ``tokens`` [B, L] that speak of a video: one is begun before them, and no image.

    ``image_items`` [B, L]: see ``Core.items``. None where there is no such token.
    """
    if inputs.videos is None:
        return None
    items = model.core.video_items(input_ids, inputs)
    if items.shape != tokens.shape:  # generation: every new token speaks of the row's last video
        items = items[:, -1:].expand(-1, tokens.shape[1])
    found = read_heads(aligned, tokens, items.masked_fill(image_items >= 0, -1), model.config.seg_id)
    found = found.chosen(found.item >= 0)
    if len(found.row) == 0:
        return None
    with torch.no_grad():
        said = model.core.logits(found.last.detach()).float().softmax(dim=-1)[:, model.config.seg_id]
    return ClipPrompts(found.states, found.row, inputs.videos.index[found.item], said)


def teach_clip_masks(model: UllavaForConditionalGeneration, output: Any, inputs: ModelInputs) -> None:
    """Put the masks in the annotated frames of the batch's clips behind those in its images, where there are any."""
    frames, clips = inputs.clip_frames, output.clips
    if frames is None or clips is None:
        return

    def embed(videos: torch.Tensor) -> Any:
        if frames.pixels is None:
            views = cast(Any, inputs.videos).views[BASE_VIEW]
            return embed_frames(model, {BASE_VIEW: views[videos].flatten(0, 1)})
        sizes, starts = cast(torch.Tensor, frames.sizes), cast(torch.Tensor, frames.first_row)
        steps = torch.arange(frames.annotated.shape[1], device=frames.pixels.device)
        rows = (starts.to(steps.device)[videos][:, None] + steps).flatten()
        every = torch.arange(len(rows), device=rows.device)
        return embed_frames(model, HeadImages(pixels=frames.pixels[rows], sizes=sizes[rows], row_of_image=every))

    output.seg = with_clip_masks(model.mask_head, output.seg, clips, frames, embed, inputs.backprop_frames)
