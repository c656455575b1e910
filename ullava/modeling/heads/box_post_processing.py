"""The part of a box head that has no weights: its view of an image, its words, and how its boxes become an answer's.

It lives in the processor, runs in data workers and is told nothing but sizes and names, so it can be saved with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.geometry import View, box_iou, mask_to_box_xyxy_px, plan_bounded_view
from ullava.modeling.heads.box import from_head_frame
from ullava.modeling.heads.box_contract import PhrasePrompts
from ullava.modeling.loading.pretrained import read_tokenizer
from ullava.modeling.pixels import resize_planes_u8
from ullava.structures import BoxXYXY, ImageArray, MaskArray
from ullava.text.answers import ObjectSpan, split_objects

PHRASE_FOLDER = "phrase_tokenizer"
"""Below the processor's own folder: the tokenizer of a detector that reads words."""

SEPARATORS = (".", "?")
"""Tokens that part phrases in a prompt; GroundingDINO's text encoder attends between them only."""


@dataclass(frozen=True, slots=True)
class DetectedPhrase:
    """What was found for one thing of an answer: boxes xyxy [Q, 4] in the head's frame, ``scores``, ``word_scores``."""

    boxes_xyxy_head: NDArray[np.float64]
    scores: NDArray[np.float64]
    word_scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AnsweredObject:
    """A thing of an answer as far as it is known: its words, its mask [H, W], and every ``[LOC]`` box of the row.

    ``loc_boxes``: (xyxy [4] in the head's frame, score) in reading order; ``found``: see FoundThing, None = not looked
    for.
    """

    words: ObjectSpan
    mask: MaskArray | None
    mask_score: float | None
    loc_boxes: Sequence[tuple[NDArray[np.float64], float]]
    found: DetectedPhrase | None


class BoxPostProcessor:
    """Rules of heads that read ``[LOC]`` states. ``sides``: (short, long) of the detector's view, None = no view."""

    def __init__(self, frame: str, sides: Sequence[int] | None) -> None:
        self.frame = frame
        self.sides = None if sides is None else (int(sides[0]), int(sides[1]))

    def view(self, image_rgb_u8: ImageArray) -> tuple[NDArray[np.uint8], View] | None:
        """Make the head's own view of an image: uint8 [3, h, w] with its geometry; None where it needs none."""
        if self.sides is None:
            return None
        height, width = image_rgb_u8.shape[:2]
        view = plan_bounded_view((width, height), *self.sides)
        return resize_planes_u8(image_rgb_u8, view.size_wh[1], view.size_wh[0], "bilinear"), view

    def prompts(self, texts: Sequence[str], images: Sequence[int]) -> PhrasePrompts | None:
        """Phrases of the answers ``texts`` on distinct images ``images`` (-1 = none); None: there is none to find."""
        return None

    def box_of(self, thing: AnsweredObject, size_wh: tuple[int, int]) -> tuple[BoxXYXY | None, float | None]:
        """Return the box of a thing in original pixels, and its score in [0, 1]; None for both without a box."""
        ordinal = thing.words.loc_ordinal
        if ordinal is None or ordinal >= len(thing.loc_boxes):
            return None, None
        corners, score = thing.loc_boxes[ordinal]
        return self._to_px(corners, size_wh), float(min(max(score, 0.0), 1.0))

    def save(self, folder: Path) -> None:
        """Write what cannot be told in a few numbers below ``folder``; these rules have nothing of the kind."""

    def load(self, folder: str) -> None:
        """Read what ``save`` wrote; ``folder`` is what the processor was loaded from."""

    def _to_px(self, corners: NDArray[np.float64], size_wh: tuple[int, int]) -> BoxXYXY:
        placed = from_head_frame(np.asarray(corners, dtype=np.float64), size_wh, self.frame)
        x0, y0, x1, y1 = (float(value) for value in placed)
        return x0, y0, x1, y1


class PhrasePostProcessor(BoxPostProcessor):
    """Rules of a head that finds phrases (its first release, arXiv 2311.05348: what was done at evaluation).

    The phrase is prompted in lower case, stripped, with a full stop. Boxes count whose score is above
    ``box_threshold`` and that match a word of the phrase above ``text_threshold``. Of them the one with the largest
    overlap (IoU) with the mask's box is taken. Without one that overlaps, the mask's box with the mask's score. Without
    a mask (or with an empty one), the box of the highest score.
    """

    tokenizer: Any = None
    """The detector's; set by ``load`` or by the builder."""

    def __init__(self, sides: Sequence[int], *, box_threshold: float, text_threshold: float, max_tokens: int) -> None:
        super().__init__("norm", sides)
        self.box_threshold = box_threshold
        self.text_threshold = text_threshold
        self.max_tokens = max_tokens

    def prompts(self, texts: Sequence[str], images: Sequence[int]) -> PhrasePrompts | None:
        """See BoxRules. Things without words, or with more of them than the detector reads, are not looked for."""
        asked: list[tuple[list[int], int, int, int]] = []
        for row, (text, image) in enumerate(zip(texts, images, strict=True)):
            if image < 0:
                continue
            for number, thing in enumerate(split_objects(text)):
                phrase = thing.phrase.lower().strip()
                ids = self.tokenizer(f"{phrase}.", add_special_tokens=True)["input_ids"]
                if phrase and len(ids) <= self.max_tokens:
                    asked.append((ids, image, row, number))
        if not asked:
            return None
        longest = max(len(ids) for ids, *_ in asked)
        table = torch.full((len(asked), longest), self.tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros_like(table)
        for place, (ids, *_) in enumerate(asked):
            table[place, : len(ids)] = torch.tensor(ids)
            mask[place, : len(ids)] = 1
        apart = {*self.tokenizer.all_special_ids, *self.tokenizer.convert_tokens_to_ids(list(SEPARATORS))}
        is_word = mask.bool() & ~torch.isin(table, torch.tensor(sorted(apart)))
        _, image_places, rows, things = zip(*asked, strict=True)
        return PhrasePrompts(table, mask, is_word, torch.tensor(image_places), rows, things)

    def box_of(self, thing: AnsweredObject, size_wh: tuple[int, int]) -> tuple[BoxXYXY | None, float | None]:
        """See the class."""
        mask_box = mask_to_box_xyxy_px(thing.mask) if thing.mask is not None else None
        boxes, scores = self._detections(thing.found, size_wh)
        if mask_box is None:
            return (boxes[int(scores.argmax())], float(scores.max())) if boxes else (None, None)
        if boxes:
            overlap = box_iou(np.asarray(boxes), np.asarray([mask_box]))[:, 0]
            best = int(overlap.argmax())
            if overlap[best] > 0:
                return boxes[best], float(scores[best])
        return mask_box, thing.mask_score

    def _detections(
        self, found: DetectedPhrase | None, size_wh: tuple[int, int]
    ) -> tuple[list[BoxXYXY], NDArray[np.float64]]:
        """Boxes in original pixels and scores of what passes both thresholds."""
        if found is None:
            return [], np.zeros(0)
        kept = (found.scores > self.box_threshold) & (found.word_scores > self.text_threshold)
        return [self._to_px(box, size_wh) for box in found.boxes_xyxy_head[kept]], found.scores[kept]

    def save(self, folder: Path) -> None:
        """Write the detector's tokenizer."""
        self.tokenizer.save_pretrained(str(folder / PHRASE_FOLDER))

    def load(self, folder: str) -> None:
        """Read the detector's tokenizer."""
        self.tokenizer = read_tokenizer(Path(folder) / PHRASE_FOLDER)
