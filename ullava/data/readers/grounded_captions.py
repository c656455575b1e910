"""Captions whose phrases have places: ``{image_path, height, width, caption, phrases: [{span, annotations}]}``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ullava.data.readers.base import Reader
from ullava.data.readers.record import Record, left_to_right
from ullava.structures import Region, Sample, Turn
from ullava.text.answers import CaptionPhrase, grounded_caption
from ullava.text.phrases import expression_fault


@dataclass(frozen=True, slots=True)
class _Phrase:
    """Words with what they speak of, from left to right; ``span``: their characters in the caption, None = not told."""

    words: str
    span: tuple[int, int] | None
    regions: tuple[Region, ...]


class GroundedCaptionReader(Reader):
    """One question an image: its caption, and a mask (``[SEG]``) for every thing that a phrase speaks of.

    ``span``: where the phrase stands in ``caption``, [first character, the one behind its last]; phrases stand in order
    and do not overlap. A phrase whose place is not known has ``words`` instead; such a record can be measured and not
    trained on. Each of its ``annotations`` has a ``segmentation``, or a ``bbox`` alone, which is answered by ``[LOC]``.
    ``references``: further captions that are right, for measuring the words.
    """

    layout = "grounded_captions"
    tasks = ("gcg",)
    default_template = "GCG.json"
    has_phrase = False

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the caption."""
        return [value["caption"]]

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return the caption with its phrases marked, asked for by a drawn template."""
        record = self.record(index, self.name(index))
        caption, phrases = self._read(record)
        for place, phrase in enumerate(phrases):
            if phrase.span is None:
                record.fail(f"'phrases[{place}]' ('{phrase.words:.60}') has no 'span', so it cannot be trained on")
        return self._asked(record, record.sample, self.templates().pick(rng), caption, phrases)

    def queries(self, index: int) -> list[Sample]:
        """Return the one query; ``truth`` has ``references`` and, for each phrase, ``words`` and how many ``objects``.

        The turn's regions are those of the phrases one after the other.
        """
        record = self.record(index, self.name(index))
        caption, phrases = self._read(record)
        return [self._asked(record, f"{record.sample}/0", self.templates().first, caption, phrases)]

    def _asked(self, record: Record, name: str, template: str, caption: str, phrases: Sequence[_Phrase]) -> Sample:
        size = record.size_hw()
        placed = [CaptionPhrase(phrase.span, phrase.regions) for phrase in phrases if phrase.span is not None]
        regions = tuple(region for phrase in phrases for region in phrase.regions)
        references = record.texts("references") if "references" in record.value else [caption]
        truth = {
            "height": size[0],
            "width": size[1],
            "references": references,
            "phrases": [{"words": phrase.words, "objects": len(phrase.regions)} for phrase in phrases],
        }
        turn = Turn(self.templates().fill(template), grounded_caption(caption, placed), regions)
        return Sample(name, self.id, self.task, (self.image(record),), (turn,), truth)

    @staticmethod
    def _read(record: Record) -> tuple[str, list[_Phrase]]:
        caption, size = record.expression("caption"), record.size_hw()
        if caption != record.value["caption"]:
            record.fail("'caption' begins or ends with white space, which shifts the spans of its phrases")
        phrases: list[_Phrase] = []
        behind = 0
        for part in record.parts("phrases"):
            span = _span(part, behind, len(caption)) if "span" in part.value else None
            words = part.expression("words") if span is None else caption[slice(*span)]
            behind = behind if span is None else span[1]
            if fault := expression_fault(words):
                part.fail(f"what stands at 'span' {fault}")
            found = [_thing(thing, words, size) for thing in part.parts("annotations")]
            if not found:
                part.fail("'annotations' is empty; a phrase that has no place in the image is no phrase here")
            phrases.append(_Phrase(words, span, left_to_right(found)))
        return caption, phrases


def _span(part: Record, behind: int, length: int) -> tuple[int, int]:
    """Return where a phrase stands; it begins at ``behind`` or later and ends at ``length`` or before."""
    span = part.items("span")
    if len(span) != 2 or not all(isinstance(place, int) and not isinstance(place, bool) for place in span):
        part.fail("'span' has to be two whole numbers: the first character, and the one behind the last")
    start, end = span
    if not behind <= start < end <= length:
        part.fail(
            f"'span' {span} has to lie within the caption of {length} characters, behind the phrase before it "
            f"(from {behind} on)"
        )
    return start, end


def _thing(part: Record, words: str, size_hw: tuple[int, int]) -> Region:
    """Return a thing by its mask, or by its box where it has no mask."""
    if "segmentation" in part.value:
        return Region(words, part.mask(size_hw))
    return Region(words, None, part.box_xyxy_px(size_hw))
