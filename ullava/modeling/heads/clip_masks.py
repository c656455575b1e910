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
        """Find the things in the next frame, one image as ``MaskHead.embed`` returns it."""
        if self.backprop_frames is not None and self.steps and self.steps % self.backprop_frames == 0:
            self.memory = self.head.detached(self.memory)
        tracked = self.head.step(frame, self.memory)
        self.memory = tracked.memory
        self.steps += 1
        return tracked.masks


def carried_masks(
    head: VideoMaskHead, features: Any, length: int, states: Tensor, prompts: Sequence[int], backprop: int | None
) -> DecodedMasks:
    """K * T masks, thing by thing, of states [K, D] that prompt frames ``prompts`` [K] of ``length`` T embedded ones.

    From its prompt a thing is carried to the last frame and, from the same start again, to the first.
    """
    found: dict[int, list[DecodedMasks]] = {}
    for prompt in sorted(set(prompts)):
        things = [thing for thing, place in enumerate(prompts) if place == prompt]
        started = head.start(head.one(features, prompt), states[things])
        later, earlier = (Walk(head, started.memory, backprop) for _ in range(2))
        behind = [later.step(head.one(features, place)) for place in range(prompt + 1, length)]
        before = [earlier.step(head.one(features, place)) for place in reversed(range(prompt))]
        frames = [*reversed(before), started.masks, *behind]
        for number, thing in enumerate(things):
            place = torch.tensor([number], device=states.device)
            found[thing] = [masks.taken(place) for masks in frames]
    return DecodedMasks.joined([masks for thing in range(len(prompts)) for masks in found[thing]])


def taught_masks(
    head: MaskHead, features: Any, states: Tensor, annotated: Tensor, prompts: Sequence[int], backprop: int | None
) -> DecodedMasks:
    """The masks of K things of one clip that are judged: in every annotated frame, thing by thing.

    ``annotated`` bool [K, T]. First those that the head makes when it is asked anew in the frame, by which it learns
    to tell frames that show the thing from others, so that a prompt can be chosen; then, of a head with a memory, those
    that it carries there.
    """
    thing, frame = annotated.nonzero(as_tuple=True)
    anew = head.decode(states[thing], features, frame)
    if not isinstance(head, VideoMaskHead):
        return anew
    carried = carried_masks(head, features, annotated.shape[1], states, prompts, backprop)
    return DecodedMasks.joined([anew, carried.taken(thing * annotated.shape[1] + frame)])
