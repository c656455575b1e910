"""The records that travel between the layers, and the legend of letters, frames and units.

Letters in shape comments: B rows of text, L tokens, D model width, V vocabulary, I distinct images of a batch,
K grounded tokens (``[SEG]`` or ``[LOC]``) of a batch in reading order, N visual tokens, H x W original pixels,
h x w pixels of a resized view, R side of the square CLIP view, S side of the square SAM view.

Frames in names: ``_px`` original pixels (x right, y down, corner 0,0; boxes are half-open, so a full-image box is
0, 0, W, H); ``_norm`` the same divided by W and H; ``_padsq`` the center-padded square, normalized by max(W, H);
``_lowres`` SAM's low-resolution mask plane; ``_orig`` a mask plane of the original H x W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from ullava.geometry.video_masks import VideoMasks

BoxXYXY = tuple[float, float, float, float]
MaskArray = NDArray[np.bool_]
ImageArray = NDArray[np.uint8]

Task = Literal["text", "caption", "vqa", "res", "rec", "salient", "semantic", "instance", "gcg", "rvos"]
Protocol = Literal["generate", "teacher_forced"]
FrameSampling = Literal["uniform", "head_tail", "original_uniform", "original_head_tail"]
MaskCarrying = Literal["memory", "frames", "none"]
"""How a ``[SEG]`` of a clip gets its masks: carried from frame to frame by the mask head's memory, asked anew in every
frame, or not at all."""
CandidateSource = Literal["beams", "rephrased", "multimask", "box"]
"""Where candidates for a mask come from, beside the model's own (docs/candidates.md)."""
_FORMS = "ullava.exports.in_memory"
GROUNDING_TASKS: frozenset[Task] = frozenset({"res", "rec", "salient", "semantic", "instance", "gcg", "rvos"})
"""Tasks whose answers point at things."""


@dataclass(frozen=True, slots=True)
class Region:
    """One grounded thing of an answer: what it is called, where it is. Mask is bool [H, W]; None = not given.

    ``video_masks``: where it is in every frame of the sample's one video, in the place of a mask in an image.
    """

    phrase: str
    mask: MaskArray | None = None
    box_xyxy_px: BoxXYXY | None = None
    video_masks: VideoMasks | None = None


@dataclass(frozen=True, slots=True)
class RegionPrompt:
    """A region that a question points at.

    ``box_xyxy_px``: in original pixels; ``mask``: bool [H, W] where the region is not all of its box. ``image``: its
    image's place among those of the question, from 0; None = the last.
    """

    box_xyxy_px: BoxXYXY
    mask: MaskArray | None = None
    image: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer.

    The k-th ``[SEG]`` of ``answer`` belongs to the k-th region that has a mask (or masks of a video), the k-th
    ``[LOC]`` to the k-th region that has a box. ``question`` may hold one ``<image>`` marker for each image, in order.
    ``prompts``: what the question points at, one for each ``<region>`` of it, in order; without any, ``<region>`` is a
    word like others.
    """

    question: str
    answer: str
    regions: tuple[Region, ...] = ()
    prompts: tuple[RegionPrompt, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class DetectedBoxes:
    """Things that somebody found in one image: boxes [k, 4] in original pixels, scores [k] and what they are called.

    No rows = looked, and nothing there. Two of them are equal only if they are the same object.
    """

    boxes_xyxy_px: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """A video file, and which of its frames the model sees (``ullava.media.frames``); ``seed`` is for those by lot.

    ``length``: how many frames its annotation speaks of, where it speaks of frames; the file has to hold as many.
    ``path`` may be a folder of JPEG frames (``ullava.media.frame_folder``).
    """

    path: Path
    sampling: FrameSampling = "uniform"
    seed: int = 0
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a reader makes of one annotation: images and videos by path, turns in words, regions in original pixels.

    Questions hold one ``<image>`` for each of ``images`` and one ``<video>`` for each of ``videos``, in order.
    ``name`` finds it again (``dataset/split/index``). ``truth`` holds what the metric of the task needs beyond the
    regions (reference captions, accepted answers, a class id). ``things`` are all things in the image, for teaching
    its visual tokens their names, whatever the turns ask; empty = the annotation does not tell. ``boxes``: what was
    found in each of ``images``, None = nobody looked (empty: in none of them); ``frame_boxes``: the same for the frames
    of each of ``videos``.
    """

    name: str
    dataset: str
    task: Task
    images: tuple[Path, ...]
    turns: tuple[Turn, ...]
    truth: Mapping[str, Any] = field(default_factory=dict)
    things: tuple[Region, ...] = ()
    videos: tuple[Clip, ...] = ()
    boxes: tuple[DetectedBoxes | None, ...] = ()
    frame_boxes: tuple[tuple[DetectedBoxes | None, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class MasksOverTime:
    """Where one thing is in every frame of a clip of T frames, None where it is not there (hidden, not yet in view).

    ``presence`` [T]: how likely it is there, 1 of a mask head that does not tell; ``scores`` [T]: of its masks, with
    that taken in. Both lie in [0, 1]. ``video``: the clip's place among the question's videos.
    """

    masks: VideoMasks
    presence: tuple[float, ...]
    scores: tuple[float, ...]
    video: int = 0

    @property
    def score(self) -> float:
        """The mean score of the frames that show it; 0 where none does."""
        shown = [score for score, code in zip(self.scores, self.masks.counts, strict=True) if code is not None]
        return sum(shown) / len(shown) if shown else 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of several masks that a thing of an answer was chosen from (docs/candidates.md).

    ``provenance``: ``single``, what the model answers without candidates, or one of ``CandidateSource``. ``phrase``:
    what its own answer calls it; ``mask`` bool [H, W]; ``score``: of the mask, in [0, 1]; ``judged``: what the choice
    went by, comparable among the candidates of one thing alone, the higher the better.
    """

    provenance: str
    phrase: str
    mask: MaskArray
    box_xyxy_px: BoxXYXY | None
    score: float
    judged: float = 0.0


@dataclass(frozen=True, slots=True)
class GroundedObject:
    """One object of an answer. ``span`` are the characters of ``Answer.text`` that speak of it, ``plain_span`` those of
    its name in the words alone (``strip_grounding``). Objects of one phrase have the same ``group``, counted from 0;
    None: not known, it stands alone.

    ``mask`` is bool [H, W] of the original image ``image`` (its place among the question's images). ``score`` is
    the mask's score where there is a mask, else the box's; all scores lie in [0, 1]. A thing of a video has
    ``over_time`` in the place of a mask.

    ``provenance`` and ``alternatives``, where candidates were asked for: which of them it is, and all of them, what the
    model answers without them first.
    """

    phrase: str
    span: tuple[int, int]
    mask: MaskArray | None
    box_xyxy_px: BoxXYXY | None
    score: float
    mask_score: float | None = None
    box_score: float | None = None
    image: int = 0
    plain_span: tuple[int, int] = (0, 0)
    group: int | None = None
    over_time: MasksOverTime | None = None
    provenance: str | None = None
    alternatives: tuple[Candidate, ...] = ()

    @property
    def masks(self) -> VideoMasks | None:
        """Its masks in the frames of a video, in frame order; None of a thing in an image."""
        return None if self.over_time is None else self.over_time.masks


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said and the objects it grounded. ``finished``: it ended by itself.

    ``text`` holds the special tokens too; ``ullava.text.tokens.strip_grounding(text)`` gives the words alone.
    ``surprise``: how unlikely a given answer was to the model, (sum of -ln p of its tokens, number of them), where that
    was asked for (``Predictor.surprise``).
    ``chosen``: what a vision encoder that chooses took for each image of the question, by name ({"granularity":
    (64,)}).
    ``not_found``: the names of what the words offered a mask for and the mask head found nowhere in the image.
    ``presence``: how likely what each ``[SEG]`` of ``text`` stands for is in the image, in [0, 1] (in a clip, in the
    frame where that is likeliest); empty = the mask head does not tell.
    ``images``: what the question showed, each a path or pixels uint8 [H, W, 3]; empty = not known.

    The methods give it in other forms. They are found when they are called: these records import nothing, and
    the libraries of the forms are extras.
    """

    text: str
    objects: tuple[GroundedObject, ...] = ()
    finished: bool = True
    new_tokens: int = 0
    chosen: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    surprise: tuple[float, int] | None = None
    not_found: tuple[str, ...] = ()
    presence: tuple[float, ...] = ()
    images: tuple[Path | ImageArray, ...] = field(default=(), compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, as ``answer.json`` holds it; masks as run-length code of COCO."""
        value: dict[str, Any] = import_module("ullava.inference.export").answer_to_json(self)
        return value

    def to_supervision(self, image: int | None = None) -> Any:
        """Return it as ``supervision.Detections``: xyxy in pixels (the model's box, else the mask's), masks bool
        [n, H, W], confidence, and in ``data`` class_name, phrase, span and group (-1: not known). ``class_id`` counts
        the answer's phrases in sorted order, from 0.

        Where some objects have a mask and some have not, those get an empty one. An object without box and mask has no
        place and is left out. ``image``: of which image of the question, from 0 (None: the one that has objects).

        Raises:
            UserError: supervision is not installed; the objects are on several images and none was said.
        """
        return import_module(_FORMS).to_supervision(self, image)

    def to_fiftyone(self, image: int | None = None, size_wh: tuple[int, int] | None = None) -> Any:
        """Return it as ``fiftyone.Detections``: boxes [x, y, width, height] by the image's size, masks cut to the box.

        A mask's box is its tight one; the model's own is the attribute ``model_box`` then. ``span`` and ``group`` are
        attributes.
        ``size_wh``: the image's (W, H), for boxes without masks of an answer that does not know its image.

        Raises:
            UserError: as ``to_supervision``; the size of the image is not known.
        """
        return import_module(_FORMS).to_fiftyone(self, image, size_wh)

    def to_pil(self, image: Any = None, *, show_scores: bool = True) -> PillowImage:
        """Return the image as a Pillow image, masks and boxes drawn with phrases and scores.

        Small images are enlarged (``ullava.inference.overlay``). ``image``: what to draw on, or the place of one of the
        question's images from 0; None: the one that has objects, of those that the question showed.

        Raises:
            UserError: no image is known, it cannot be read, or as ``to_supervision``. ValueError: a mask has another
                size than the image.
        """
        drawn: PillowImage = import_module(_FORMS).to_pil(self, image, show_scores=show_scores)
        return drawn
