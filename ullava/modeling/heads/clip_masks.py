"""From ``[SEG]`` states to masks in the frames of a clip: asked anew in each, or carried on by a memory.

Training runs over the T frames of a batch's clips here (``taught_masks``), answers over all frames of a file as they
are decoded (ullava.inference.clip_masks); both start and step a ``Walk``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ullava.modeling.heads.mask_contract import DecodedMasks, MaskHead, VideoMaskHead


class Walk:
    """K things on their way from the frame that prompted them, one frame after the other in one direction of time.

    ``memory``: of ``VideoMaskHead.start``. ``backprop_frames``: no gradient runs back through more steps than these.
    """

    def __init__(self, head: VideoMaskHead, memory: Any, backprop_frames: int | None = None) -> None:
        self.head = head
        self.memory = memory
        self.backprop_frames = backprop_frames
        self.steps = 0

    def step(self, frame: Any) -> DecodedMasks:
        """Find the things in the next frame, as ``VideoMaskHead.step`` takes it."""
        if self.backprop_frames is not None and self.steps and self.steps % self.backprop_frames == 0:
            self.memory = self.head.detached(self.memory)
        tracked = self.head.step(frame, self.memory)
        self.memory = tracked.memory
        self.steps += 1
        return tracked.masks


def carried_masks(
    head: VideoMaskHead,
    features: Any,
    length: int,
    states: Tensor,
    clips: Tensor,
    prompts: Sequence[int],
    backprop: int | None,
) -> DecodedMasks:
    """K * T masks, thing by thing, of states [K, D] of clips ``clips`` [K], which prompt their frames ``prompts`` [K].

    ``features``: the frames of the clips as ``embed`` returns them, ``length`` T of each, clip after clip. From its
    prompt a thing is carried to the last frame and, from the same start again, to the first; things that are prompted
    in the same frame, of whichever clips, are carried together.
    """
    frames: list[DecodedMasks] = []
    places: list[Tensor] = []
    for prompt in sorted(set(prompts)):
        things = torch.tensor([thing for thing, place in enumerate(prompts) if place == prompt], device=states.device)
        first = clips[things] * length
        started = head.start(head.taken(features, first + prompt), states[things])
        frames.append(started.masks)
        places.append(things * length + prompt)
        for way in (range(prompt + 1, length), reversed(range(prompt))):
            walk = Walk(head, started.memory, backprop)
            for place in way:
                frames.append(walk.step(head.taken(features, first + place)))
                places.append(things * length + place)
    return DecodedMasks.joined(frames).taken(torch.cat(places).argsort())


def taught_masks(
    head: MaskHead,
    features: Any,
    states: Tensor,
    clips: Tensor,
    annotated: Tensor,
    prompts: Sequence[int],
    backprop: int | None,
) -> DecodedMasks:
    """The masks of K things of a batch's clips that are judged: in every annotated frame, thing by thing.

    ``annotated`` bool [K, T]; the others as in ``carried_masks``. First those that the head makes when it is asked anew
    in the frame, by which it learns to tell frames that show the thing from others, so that a prompt can be chosen;
    then, of a head with a memory, those that it carries there.
    """
    thing, frame = annotated.nonzero(as_tuple=True)
    length = annotated.shape[1]
    anew = head.decode(states[thing], features, clips[thing] * length + frame)
    if not isinstance(head, VideoMaskHead):
        return anew
    carried = carried_masks(head, features, length, states, clips, prompts, backprop)
    return DecodedMasks.joined([anew, carried.taken(thing * length + frame)])
