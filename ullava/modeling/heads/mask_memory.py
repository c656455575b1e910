"""SAM 2's and EdgeTAM's memory of frames: a thing that a ``[SEG]`` state prompted in one frame is found in the others.

Of every frame two things are remembered: its coarsest map with the mask drawn in (the memory encoder), and a vector of
the thing (the object pointer). The next frame's coarsest map attends to both before the mask is decoded, without a
prompt then, as published, or with the same one again (``repeats_prompt``): SAM 2 reads corrections of later frames so,
and a state, unlike a click, means the thing in every frame. A frame in which the thing is not (a negative object score)
is remembered as such, so it may come back.
Modules and weights are those of transformers' ``Sam2VideoModel`` and ``EdgeTamVideoModel``; which of them runs on what
is here, since theirs keeps every frame of a clip, one thing at a time, without gradients. SAM 2: Ravi et al.,
arXiv 2408.00714; EdgeTAM, which stores fewer places of each frame: Zhou et al., arXiv 2501.07256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.sam2_video.modeling_sam2_video import get_1d_sine_pe

from ullava.examples import HeadImages
from ullava.modeling.heads.mask_contract import DecodedMasks, Pyramid, Tracked, VideoMaskHead
from ullava.modeling.heads.mask_segmenter import Read, SegmenterMaskHead
from ullava.modeling.heads.outputs import ABSENT_LOGIT


@dataclass(frozen=True, slots=True, eq=False)
class FrameMemory:
    """What is remembered of K things after some frames.

    ``prompted``: [N, K, M], N places of the frame that was prompted; ``recent``: the same of the frames since, the
    latest first, as many as attention reads. ``pointer`` [K, C] and ``pointers`` likewise. ``places`` [N, K, M]: the
    encoding of the places, the same in every frame. ``prompt`` [K, 1, 1, C]: what the next frame is prompted with, if
    anything. ``age``: how many frames the next one is from the prompted one.
    """

    prompted: Tensor
    places: Tensor
    pointer: Tensor
    prompt: Tensor | None = None
    recent: tuple[Tensor, ...] = ()
    pointers: tuple[Tensor, ...] = ()
    age: int = 1


class VideoSegmenterMaskHead(SegmenterMaskHead, VideoMaskHead):
    """Holds the whole segmenter of videos; masks of images are those of ``SegmenterMaskHead``.

    ``repeats_prompt``: every frame is prompted, and not the first alone.
    """

    def __init__(self, config: Any, width_in: int, network: Any, repeats_prompt: bool = False) -> None:
        super().__init__(config, width_in, network)
        self.side = int(config.prompt_encoder_config.image_size)
        several = int(config.mask_decoder_config.num_multimask_outputs) > 0 and config.multimask_min_pt_num <= 0
        self.repeats_prompt = repeats_prompt
        # As in SAM 2, a frame without a prompt shows the best of several masks: which part is meant is not said again.
        tracks_several = config.multimask_output_in_sam and config.multimask_output_for_tracking
        self.best = several and tracks_several and not self.repeats_prompt

    def embed(self, images: HeadImages | Pyramid, rows: Tensor) -> list[Tensor]:
        """See MaskHead; the empty memory is left to ``decode``, since a frame may have another."""
        return self.embed_bare(images, rows)

    def decode(
        self,
        states: Tensor,
        features: Any,
        image_of_state: Tensor,
        content_hw: tuple[int, int] | None = None,
    ) -> DecodedMasks:
        """See SegmenterMaskHead."""
        fine, middle, coarse, _ = features
        return super().decode(states, [fine, middle, self.without_memory(coarse)], image_of_state, content_hw)

    def start(self, frame: Any, states: Tensor) -> Tracked:
        """See VideoMaskHead."""
        fine, middle, coarse = (_for_each(plane, len(states)) for plane in frame[:3])
        prompt = self.projector(states)[:, None, None]
        read = self.read([fine, middle, self.without_memory(coarse)], prompt)
        stored, places = self._stored(coarse, read, prompted=True)
        repeated = prompt if self.repeats_prompt else None
        return Tracked(read.masks, FrameMemory(stored, places, self._pointer(read), repeated))

    def step(self, frame: Any, memory: FrameMemory) -> Tracked:
        """See VideoMaskHead."""
        things = len(memory.pointer)
        fine, middle, coarse, places = (_for_each(plane, things) for plane in frame)
        prompt = memory.prompt
        if prompt is None:
            prompt = self.sam.prompt_encoder.not_a_point_embed.weight.expand(things, 1, 2, -1)  # as transformers pads
        read = self.read([fine, middle, self._recalled(coarse, places, memory)], prompt, best=self.best)
        stored, _ = self._stored(coarse, read, prompted=False)
        config = self.sam.config
        later = replace(
            memory,
            recent=(stored, *memory.recent)[: config.num_maskmem - 1],
            pointers=(self._pointer(read), *memory.pointers)[: config.max_object_pointers_in_encoder - 1],
            age=memory.age + 1,
        )
        return Tracked(read.masks, later)

    def detached(self, memory: FrameMemory) -> FrameMemory:
        """See VideoMaskHead."""
        return replace(
            memory,
            prompted=memory.prompted.detach(),
            places=memory.places.detach(),
            pointer=memory.pointer.detach(),
            recent=tuple(stored.detach() for stored in memory.recent),
            pointers=tuple(pointer.detach() for pointer in memory.pointers),
        )

    # ------------------------------------------------------------ what is kept of a frame
    def _pointer(self, read: Read) -> Tensor:
        """What each thing is like, [K, C]; a vector of its own for one that is not there."""
        pointer: Tensor = self.sam.object_pointer_proj(read.tokens)
        return torch.where(_is_there(read)[:, None], pointer, self.sam.no_object_pointer.to(pointer.dtype))

    def _stored(self, coarse: Tensor, read: Read, *, prompted: bool) -> tuple[Tensor, Tensor]:
        """A frame with the masks drawn in, [N, K, M], and the encoding of its places, [N, K, M]."""
        config, there = self.sam.config, _is_there(read)
        drawn = read.masks.mask_logits_lowres.masked_fill(~there[:, None, None], ABSENT_LOGIT)
        whole = functional.interpolate(drawn[:, None].float(), size=(self.side, self.side), mode="bilinear")
        share = whole.sigmoid()
        if prompted:  # a prompted mask is remembered as it is answered; gradients run as through its probabilities
            share = share + ((whole > 0).to(share.dtype) - share).detach()
        share = share * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        stored, places = self.sam.memory_encoder(coarse, share.to(coarse.dtype))
        if self.sam.occlusion_spatial_embedding_parameter is not None:
            gone = (~there).to(stored.dtype)[:, None, None, None]
            stored = stored + gone * self.sam.occlusion_spatial_embedding_parameter[..., None, None]
        return self._compressed(stored, places)

    def _compressed(self, stored: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [K, M, h, w] -> [h w, K, M]; the memory in bfloat16, as SAM 2 keeps it."""
        return stored.to(torch.bfloat16).flatten(2).permute(2, 0, 1), places.flatten(2).permute(2, 0, 1)

    # ------------------------------------------------------------ what a frame is read with
    def _recalled(self, coarse: Tensor, places: Tensor, memory: FrameMemory) -> Tensor:
        """The coarsest map [K, C, h, w] of the next frame after it attended to the memory."""
        later = self.sam.memory_temporal_positional_encoding  # the last one is the prompted frame's
        stored = [memory.prompted, *memory.recent]
        where = [memory.places + later[-1], *(memory.places + later[offset] for offset in range(len(memory.recent)))]
        pointers, when = self._pointers(memory)
        seen = self.sam.memory_attention(
            coarse.flatten(2).permute(2, 0, 1),
            torch.cat([*stored, pointers]).to(coarse.dtype),
            places.to(coarse.dtype).flatten(2).permute(2, 0, 1),
            torch.cat([*where, when]).to(coarse.dtype),
            len(pointers),
            *self._attention_options(len(stored)),
        )
        return seen[0].transpose(1, 2).reshape(coarse.shape)

    def _attention_options(self, frames: int) -> Sequence[int]:
        """What the memory's attention is told beside that, of ``frames`` remembered ones."""
        return ()

    def _pointers(self, memory: FrameMemory) -> tuple[Tensor, Tensor]:
        """Pointers cut into tokens of the memory's width, [P, K, M], and the encoding of their times, [P, K, M]."""
        config, width = self.sam.config, memory.places.shape[-1]
        vectors = torch.stack([memory.pointer, *memory.pointers])
        count, things, channels = vectors.shape
        if config.enable_temporal_pos_encoding_for_object_pointers:
            times = torch.tensor([memory.age, *range(1, count)], device=vectors.device, dtype=torch.float32)
            times = times / (config.max_object_pointers_in_encoder - 1)
            sines = get_1d_sine_pe(times, dim=channels).to(vectors.dtype)
            when = self.sam.temporal_positional_encoding_projection_layer(sines)[:, None].expand(-1, things, -1)
        else:
            when = vectors.new_zeros(count, things, width)
        tokens = channels // width
        cut = vectors.reshape(count, things, tokens, width).permute(0, 2, 1, 3).flatten(0, 1)
        return cut, when.repeat_interleave(tokens, dim=0)


class EdgeTamVideoMaskHead(VideoSegmenterMaskHead):
    """EdgeTAM's: a perceiver makes a few tokens of each remembered frame, and the attention is told how many frames."""

    def _compressed(self, stored: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [K, M, h, w] -> latents [N, K, M]; transformers' perceiver takes one thing at a time."""
        each = zip(stored.split(1), places.to(stored.dtype).split(1), strict=True)
        latents, where = zip(*(self.sam.spatial_perceiver(one, at) for one, at in each), strict=True)
        return torch.cat(latents).permute(1, 0, 2), torch.cat(where).permute(1, 0, 2)

    def _attention_options(self, frames: int) -> Sequence[int]:
        return (frames,)


def _for_each(plane: Tensor, things: int) -> Tensor:
    """One image's map [1, ...] for each of K things, [K, ...]; a map for each of them, as it is."""
    return plane.expand(things, *plane.shape[1:])


def _is_there(read: Read) -> Tensor:
    """Which of the K things the frame shows, bool [K]."""
    return read.presence_logits > 0
