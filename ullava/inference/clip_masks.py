"""Masks in all frames of a video file, which are decoded, encoded and dropped one after the other.

Two ways lead to them (``MaskCarrying``). By ``memory`` a thing is prompted in one frame, and the mask head carries it
from there to the end of the clip and, from the same start, back to its beginning. By ``frames`` the head is asked anew
in every frame with the same state. What is held at a time is a frame, the head's memory and the masks found so far as
run-length codes; frames before the prompted one are decoded a few at a time, since files are read forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from ullava.errors import DataError, UserError, did_you_mean
from ullava.examples import NOTHING, HeadImages, VideoExample, Views, moved
from ullava.geometry import Rle, VideoMasks, rle_encode
from ullava.media.frames import uniform_frames
from ullava.media.video import count_frames, iter_frames, iter_frames_backwards, read_frames
from ullava.modeling.heads.clip_masks import Walk
from ullava.modeling.heads.mask_contract import DecodedMasks, VideoMaskHead, video_head
from ullava.modeling.heads.outputs import SegOutput
from ullava.modeling.model.clips import embed_frames
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.modeling.vision.strategy import ItemNotes
from ullava.stage_clock import stage
from ullava.structures import ImageArray, MaskCarrying, MasksOverTime

PROMPT_CANDIDATES = 5
"""Evenly spaced frames among which the one is chosen that is prompted."""
BACKWARD_PIXELS = 50_000_000
"""Of the frames that are held at a time on the way back: 24 of 1920 x 1080."""


@dataclass(frozen=True, slots=True)
class ClipChoice:
    """How a ``[SEG]`` of a video gets its masks; ``carrying`` None: by memory where the mask head has one, else not.

    ``prompt_frame``: the frame that is prompted, from 0. None: the first of a few evenly spaced ones in which the thing
    is rather there, else the one where that is likeliest; the clip's first of a head that does not tell.
    """

    carrying: MaskCarrying | None = None
    prompt_frame: int | None = None

    def settled(self, model: UllavaForConditionalGeneration) -> ClipChoice:
        """The choice for one model. Raises UserError for words that are none, and what the mask head cannot do."""
        known = get_args(MaskCarrying)
        if self.carrying is not None and self.carrying not in known:
            raise UserError(f"masks over time: unknown '{self.carrying}'{did_you_mean(str(self.carrying), known)}")
        if self.carrying == "memory":
            video_head(model.mask_head, model.config.mask_kind)
        default: MaskCarrying = "memory" if isinstance(model.mask_head, VideoMaskHead) else "none"
        carrying = self.carrying or default
        if self.prompt_frame is not None and carrying != "memory":
            raise UserError(f"prompt_frame is of masks that are carried by memory, here they are made by: {carrying}")
        return ClipChoice(carrying, self.prompt_frame)

    def check_clip(self, path: Path) -> int:
        """Return how many frames a file has. Raises UserError where it lacks the prompted one, DataError of reading."""
        length = count_frames(path)
        if self.prompt_frame is not None and not 0 <= self.prompt_frame < length:
            raise UserError(f"{path}: prompt_frame {self.prompt_frame}: the clip has frames 0 to {length - 1}")
        return length


@dataclass(slots=True)
class _Found:
    """One thing's frames so far, by number."""

    rles: dict[int, Rle | None] = field(default_factory=dict)
    presence: dict[int, float] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    def over_time(self, size_hw: tuple[int, int], video: int) -> MasksOverTime:
        order = range(len(self.rles))
        masks = VideoMasks.from_rles([self.rles[number] for number in order], size_hw)
        return MasksOverTime(
            masks, tuple(self.presence[number] for number in order), tuple(self.scores[n] for n in order), video
        )


class ClipTracker:
    """Finds the things of one clip in all of its frames; ``overrides``: of the vision encoder."""

    def __init__(
        self,
        model: UllavaForConditionalGeneration,
        processor: UllavaProcessor,
        choice: ClipChoice,
        overrides: Mapping[str, Any] = NOTHING,
    ) -> None:
        self.model = model
        self.processor = processor
        self.choice = choice
        self.overrides = overrides

    def track(self, path: Path, states: Tensor, videos: Sequence[int]) -> list[MasksOverTime]:
        """Masks of the things that K states [K, D] stand for; ``videos`` [K]: the clip's place in each question.

        Raises DataError for a file that cannot be read, whose frames are not of one size, or that holds none;
        UserError for a prompted frame that it does not have.
        """
        self.choice.check_clip(path)
        found = [_Found() for _ in states]
        every = list(range(len(states)))
        if self.choice.carrying == "frames":
            for number, frame in iter_frames(path):
                self._note(found, every, number, frame, self._anew(self._embedded(frame), states))
        else:
            frame = self._carry(path, states, self._prompts(path, states), found)
        size_hw = (frame.shape[0], frame.shape[1])
        return [one.over_time(size_hw, video) for one, video in zip(found, videos, strict=True)]

    # ------------------------------------------------------------ by memory
    def _prompts(self, path: Path, states: Tensor) -> list[int]:
        """The frame in which each state prompts its mask."""
        if self.choice.prompt_frame is not None:
            return [self.choice.prompt_frame] * len(states)
        numbers: list[int] = []

        def choose(length: int) -> list[int]:
            numbers[:] = dict.fromkeys(uniform_frames(length, PROMPT_CANDIDATES))
            return numbers

        candidates = read_frames(path, choose)
        told = [self._anew(self._embedded(frame), states).presence_logits for frame in candidates]
        known = [logits for logits in told if logits is not None]
        if not known:
            return [numbers[0]] * len(states)
        logits = torch.stack(known, dim=1)
        there = logits > 0
        best = torch.where(there.any(dim=1), there.int().argmax(dim=1), logits.argmax(dim=1))
        return [numbers[place] for place in best.tolist()]

    def _carry(self, path: Path, states: Tensor, prompts: Sequence[int], found: list[_Found]) -> ImageArray:
        """Note the things in every frame; return one of the frames."""
        head = cast(VideoMaskHead, self.model.mask_head)
        groups = {prompt: [k for k, own in enumerate(prompts) if own == prompt] for prompt in sorted(set(prompts))}
        walks: dict[int, Walk] = {}
        back: dict[int, Walk] = {}
        for number, frame in iter_frames(path):
            if number < min(groups):
                continue
            features = self._embedded(frame)
            for prompt, things in groups.items():
                if number == prompt:
                    with stage("mask decoder"):
                        started = head.start(features, states[things])
                    walks[prompt], back[prompt] = Walk(head, started.memory), Walk(head, started.memory)
                    self._note(found, things, number, frame, self._calibrated(started.masks))
                elif number > prompt:
                    self._step(walks[prompt], features, found, things, number, frame)
        if number < max(groups):  # some encoders store packets that show nothing, which only decoding tells
            raise DataError(f"{path}: prompt_frame {max(groups)}: only {number + 1} frames can be decoded")
        walks.clear()
        at_once = max(1, BACKWARD_PIXELS // (frame.shape[0] * frame.shape[1]))
        for number, frame in iter_frames_backwards(path, max(groups), at_once):
            features = self._embedded(frame)
            for prompt, things in groups.items():
                if number < prompt:
                    self._step(back[prompt], features, found, things, number, frame)
        return frame

    def _step(
        self, walk: Walk, features: Any, found: list[_Found], things: Sequence[int], number: int, frame: ImageArray
    ) -> None:
        with stage("mask decoder"):
            masks = walk.step(features)
        self._note(found, things, number, frame, self._calibrated(masks))

    # ------------------------------------------------------------ one frame
    def _embedded(self, frame: ImageArray) -> Any:
        """What the mask head's encoder makes of one frame uint8 [H, W, 3], which it is shown as an image is."""
        with stage("preprocess"):
            shown = self._shown(frame)
        return embed_frames(self.model, shown)

    def _shown(self, frame: ImageArray) -> HeadImages | Views:
        view = self.processor.masks.view(frame)
        if view is None:
            views = self.processor.vision.preprocess(frame, ItemNotes(overrides=self.overrides)).views
            return {name: torch.from_numpy(value)[None].to(self.model.device) for name, value in views.items()}
        sizes = torch.tensor([view.shape[1:]])
        pixels = torch.from_numpy(view)[None]
        return moved(
            HeadImages(pixels=pixels, sizes=sizes, row_of_image=torch.zeros(1, dtype=torch.long)), self.model.device
        )

    def _anew(self, features: Any, states: Tensor) -> DecodedMasks:
        """The masks of K states in one embedded frame, as in an image."""
        with stage("mask decoder"):
            place = torch.zeros(len(states), dtype=torch.long, device=states.device)
            return self._calibrated(self.model.mask_head.decode(states, features, place))

    def _calibrated(self, masks: DecodedMasks) -> DecodedMasks:
        return masks.calibrated(self.model.config.presence_scale, self.model.config.presence_shift)

    def _note(
        self, found: list[_Found], things: Sequence[int], number: int, frame: ImageArray, masks: DecodedMasks
    ) -> None:
        """Bring the masks of ``things`` to the frame's pixels, and keep them as run-length codes."""
        cut = self.model.config.mask_cut.cut(masks.mask_logits_lowres)
        seg = SegOutput(cut, masks.scores, masks.presence_logits)
        logits, scores = seg.judged()
        told = masks.presence_logits
        presence = torch.ones_like(scores) if told is None else told.float().sigmoid()
        with stage("post-process"):
            whole = self.processor.masks.to_original(logits, frame.shape[:2])
            for place, thing in enumerate(things):
                mask = (whole[place] > 0).cpu().numpy()
                one = found[thing]
                one.rles[number] = rle_encode(mask) if mask.any() else None
                one.presence[number] = float(presence[place])
                one.scores[number] = self.processor.masks.score(whole[place], float(scores[place]))


def row_masks(
    tracker: ClipTracker, clips: Any, videos_of_row: Sequence[Sequence[VideoExample]]
) -> list[list[MasksOverTime]]:
    """Masks over time of each row of a batch, one for each of its ``[SEG]`` in order; ``clips``: a ClipPrompts.

    A file is decoded once for all that is asked about it. Raises UserError for a video that has no file.
    """
    made: list[list[MasksOverTime]] = [[] for _ in videos_of_row]
    if clips is None or tracker.choice.carrying == "none":
        return made
    distinct = list({video.key: video for videos in videos_of_row for video in videos}.values())
    shown = [distinct[number] for number in clips.video.tolist()]
    row = clips.row.tolist()
    place = [[video.key for video in videos_of_row[r]].index(video.key) for r, video in zip(row, shown, strict=True)]
    done: dict[int, MasksOverTime] = {}
    for path in dict.fromkeys(video.path for video in shown):
        if path is None:
            raise UserError("masks over time need the video's file, which this row does not name")
        things = [thing for thing, video in enumerate(shown) if video.path == path]
        tracked = tracker.track(path, clips.states[things], [place[thing] for thing in things])
        done |= dict(zip(things, tracked, strict=True))
    for thing in sorted(done):
        made[row[thing]].append(done[thing])
    return made
