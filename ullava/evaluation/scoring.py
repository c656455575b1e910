"""From an answer to a row of figures: one scorer for each task family. A scorer sees whole image groups.

``res``      union of the answer's masks against the union of the true ones
``gres``     the same with no-target expressions; an answer names nothing if no object of it has a mask
``rec``      the box of the highest-scoring object that has one; under the protocol ``text_box`` the one in the words
``grec``     the same with no-target expressions, and all boxes as a set
``salient``  union of the masks
``semantic`` union of the masks, class by class; the classes of one image are judged together
``instance`` each mask with its score
``rvos``     masks through a clip, united, against the united true ones
``caption``  the words, against references and, in drawn scenes, against the scene
``gcg``      the words of a caption, and for each phrase its masks (the filled boxes, where the truth has no masks)
``vqa``, ``text``  the words, against the accepted answers; of ``text`` also how likely the reference answer is
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, cast

import numpy as np

from ullava.data.readers.base import Reader, TaskDataset
from ullava.data.readers.boxes import reader_of
from ullava.errors import ConfigError, DataError, SampleError, did_you_mean
from ullava.evaluation.metrics.answers import ReadAnswers, ShortAnswers
from ullava.evaluation.metrics.boxes import GeneralizedReferringBoxes, ReferringBoxes, WrittenBoxes
from ullava.evaluation.metrics.candidates import candidate_fields
from ullava.evaluation.metrics.captions import Captions
from ullava.evaluation.metrics.concepts import CONFIDENT, THINGS, best_of, paired
from ullava.evaluation.metrics.grounded_captions import GroundedCaptions, GroundedPhrase
from ullava.evaluation.metrics.instances import InstanceMasks
from ullava.evaluation.metrics.masks import GeneralizedReferringMasks, ReferringMasks
from ullava.evaluation.metrics.rows import CLASS, GROUPS, Metric, Row
from ullava.evaluation.metrics.salient import SalientMaps
from ullava.evaluation.metrics.selective import THERE
from ullava.evaluation.metrics.semantic import ClassAnswer, SemanticMasks
from ullava.evaluation.metrics.video import VideoReferringMasks
from ullava.evaluation.phrase_similarity import PhraseSimilarity, WordSimilarity
from ullava.evaluation.text_boxes import TextBoxFrame, place_text_box, read_text_box
from ullava.geometry import box_iou, mask_ious, mask_to_box_xyxy_px, segmentation_to_mask, united
from ullava.structures import Answer, BoxXYXY, GroundedObject, MaskArray, Sample
from ullava.synthetic.facts import check_facts
from ullava.text.tokens import strip_grounding


class Scorer(ABC):
    """Scores the answers of one task family into ``metric``."""

    kind: ClassVar[type[Metric]]

    def __init__(self) -> None:
        self.metric = self.kind()

    def score_image(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> list[Row]:
        """Score all answered queries of one image, in order; one row for each.

        Where the annotations sort their questions (``truth["groups"]``, ``truth["average_over"]``), the rows say how.
        """
        rows = [self.score(sample, answer) for sample, answer in zip(samples, answers, strict=True)]
        for row, sample in zip(rows, samples, strict=True):
            if sample.truth.get("groups"):
                row[GROUPS] = list(sample.truth["groups"])
            if sample.truth.get("average_over"):
                row[CLASS] = str(sample.truth["average_over"])
        return rows

    @abstractmethod
    def score(self, sample: Sample, answer: Answer) -> Row:
        """Score one query. Raises SampleError if the sample lacks what the metric compares with."""


class ResScorer(Scorer):
    """Referring segmentation: the union of the answer's masks."""

    kind = ReferringMasks

    def score(self, sample: Sample, answer: Answer) -> Row:
        """See Scorer."""
        truth, ignore = true_mask(sample), ignored_pixels(sample)
        row = cast(ReferringMasks, self.metric).update(united_mask(answer), truth, ignore)
        row.update(candidate_fields(answer, truth, ignore))
        return row


class _Gres(Scorer):
    kind = GeneralizedReferringMasks

    def score(self, sample: Sample, answer: Answer) -> Row:
        regions, ignore = sample.turns[0].regions, ignored_pixels(sample)
        row = self._judged(sample, answer, ignore) | {THERE: likely_there(answer)}
        true = [region.mask for region in regions if region.mask is not None]
        said = [thing.mask for thing in confident(answer) if thing.mask is not None]
        if len(true) < len(regions):
            return self.metric.add(row | {THINGS: {"said": len(said), "true": len(regions)}})
        seen = [true, *sample.truth.get("alternatives", ())]
        return self.metric.add(row | {THINGS: best_of([paired(mask_ious(said, masks, ignore)) for masks in seen])})

    @staticmethod
    def _judged(sample: Sample, answer: Answer, ignore: MaskArray | None) -> Row:
        metric = GeneralizedReferringMasks()
        if not sample.turns[0].regions:
            return metric.update(united_mask(answer), None, no_target=True)
        if all(region.mask is None for region in sample.turns[0].regions):
            return metric.update_boxed(united_mask(answer), true_box(sample))
        return metric.update(united_mask(answer), true_mask(sample), no_target=False, ignore=ignore)


class RecScorer(Scorer):
    """Referring comprehension: the box of the best object."""

    kind = ReferringBoxes

    def score(self, sample: Sample, answer: Answer) -> Row:
        """See Scorer."""
        return cast(ReferringBoxes, self.metric).update(best_box(answer), true_box(sample))


class _Grec(Scorer):
    kind = GeneralizedReferringBoxes

    def score(self, sample: Sample, answer: Answer) -> Row:
        boxes = [thing.box_xyxy_px for thing in answer.objects if thing.box_xyxy_px is not None and thing.image == 0]
        truth = [region.box_xyxy_px for region in sample.turns[0].regions]
        if any(box is None for box in truth):
            raise SampleError(sample.name, "has a target without a box")
        targets = [box for box in truth if box is not None]
        row = GeneralizedReferringBoxes().update(boxes, best_box(answer), targets)
        sure = [thing.box_xyxy_px for thing in confident(answer) if thing.box_xyxy_px is not None]
        ious = box_iou(sure, targets) if sure and targets else np.zeros((len(sure), len(targets)))
        return self.metric.add(row | {THERE: likely_there(answer), THINGS: paired(ious)})


class _Salient(Scorer):
    kind = SalientMaps

    def score(self, sample: Sample, answer: Answer) -> Row:
        return cast(SalientMaps, self.metric).update(united_mask(answer), true_mask(sample))


class _Semantic(Scorer):
    kind = SemanticMasks

    def score(self, sample: Sample, answer: Answer) -> Row:
        return self.score_image([sample], [answer])[0]

    def score_image(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> list[Row]:
        classes = [
            ClassAnswer(
                name=str(needed(sample, "class")),
                predicted=united_mask(answer),
                score=max((thing.score for thing in answer.objects if thing.mask is not None), default=0.0),
                truth=true_mask(sample),
            )
            for sample, answer in zip(samples, answers, strict=True)
        ]
        ignore = ignored_pixels(samples[0]) if samples else None
        return cast(SemanticMasks, self.metric).update(classes, ignore)


class _Instance(Scorer):
    kind = InstanceMasks

    def score(self, sample: Sample, answer: Answer) -> Row:
        found = [(thing.mask, thing.score) for thing in answer.objects if thing.mask is not None and thing.image == 0]
        truth = [region.mask for region in sample.turns[0].regions if region.mask is not None]
        crowds = [_crowd_mask(sample, segmentation) for segmentation in sample.truth.get("crowd", ())]
        return cast(InstanceMasks, self.metric).update(
            image=str(needed(sample, "image_id")),
            category=str(needed(sample, "category")),
            predicted=found,
            truth=[*truth, *crowds],
            crowd=[False] * len(truth) + [True] * len(crowds),
        )


class _Rvos(Scorer):
    kind = VideoReferringMasks

    def score(self, sample: Sample, answer: Answer) -> Row:
        metric = cast(VideoReferringMasks, self.metric)
        found = [thing.masks for thing in answer.objects if thing.masks is not None]
        if sample.truth.get("masks") is None:
            return metric.update_unpublished()
        try:
            said = united(found) if found else None
            return metric.update(said, sample.truth["masks"], sample.truth.get("ignore_masks"))
        except (ValueError, DataError) as error:
            raise SampleError(sample.name, str(error)) from error


class _Caption(Scorer):
    kind = Captions

    def score(self, sample: Sample, answer: Answer) -> Row:
        references = sample.truth.get("references") or [sample.turns[0].answer]
        scene = sample.truth.get("facts")
        caption = strip_grounding(answer.text)
        facts = check_facts(caption, scene) if isinstance(scene, Mapping) else None
        return cast(Captions, self.metric).update(caption, references, facts)


class GroundedCaptionScorer(Scorer):
    """A caption with masks. ``similarity``: when two phrases are alike."""

    kind = GroundedCaptions

    def __init__(self, similarity: PhraseSimilarity | None = None) -> None:
        super().__init__()
        self.similarity = similarity or WordSimilarity()

    def score(self, sample: Sample, answer: Answer) -> Row:
        """See Scorer. Objects of one ``group`` are one phrase."""
        size = (int(needed(sample, "height")), int(needed(sample, "width")))
        regions = iter(sample.turns[0].regions)
        parts = [(told["words"], list(islice(regions, told["objects"]))) for told in needed(sample, "phrases")]
        boxed = any(region.mask is None for region in sample.turns[0].regions)
        true = [
            GroundedPhrase(words, tuple(_pixels(thing.mask, thing.box_xyxy_px, boxed, size) for thing in things))
            for words, things in parts
        ]
        grouped: dict[object, list[GroundedObject]] = {}
        for number, thing in enumerate(answer.objects):
            if thing.image == 0 and (boxed or thing.mask is not None):
                grouped.setdefault(thing.group if thing.group is not None else f"alone {number}", []).append(thing)
        said = [
            GroundedPhrase(
                things[0].phrase, tuple(_pixels(thing.mask, thing.box_xyxy_px, boxed, size) for thing in things)
            )
            for things in grouped.values()
        ]
        return cast(GroundedCaptions, self.metric).update(
            strip_grounding(answer.text),
            needed(sample, "references"),
            true,
            said,
            self.similarity([phrase.words for phrase in true], [phrase.words for phrase in said]),
            self.similarity.name,
            boxed,
        )


class _Words(Scorer):
    kind = ShortAnswers

    def score(self, sample: Sample, answer: Answer) -> Row:
        accepted = sample.truth.get("accepted") or [sample.turns[0].answer]
        metric = cast(ShortAnswers, self.metric)
        return metric.update(strip_grounding(answer.text), accepted, str(sample.truth.get("answer_type") or ""))


class _Text(_Words):
    kind = ReadAnswers

    def score(self, sample: Sample, answer: Answer) -> Row:
        row = super().score(sample, answer)
        if answer.surprise is not None:
            row["nats"], row["tokens"] = answer.surprise
        return row


SCORERS: dict[str, type[Scorer]] = {
    "res": ResScorer,
    "gres": _Gres,
    "rec": RecScorer,
    "grec": _Grec,
    "salient": _Salient,
    "semantic": _Semantic,
    "instance": _Instance,
    "rvos": _Rvos,
    "caption": _Caption,
    "gcg": GroundedCaptionScorer,
    "vqa": _Words,
    "text": _Text,
}


class _WrittenRec(Scorer):
    kind = WrittenBoxes
    frame: ClassVar[TextBoxFrame] = "padsq"

    def score(self, sample: Sample, answer: Answer) -> Row:
        box = read_text_box(answer.text)
        if box is not None:
            box = place_text_box(box, (int(needed(sample, "width")), int(needed(sample, "height"))), self.frame)
        row = cast(WrittenBoxes, self.metric).update(box, true_box(sample))
        row["box_xyxy_px"] = None if box is None else list(box)
        return row


class _WrittenRecOfImage(_WrittenRec):
    frame = "norm"


WRITTEN: dict[str, type[Scorer]] = {"padsq": _WrittenRec, "norm": _WrittenRecOfImage}
"""``text_box_frame`` -> scorer of the task rec under the protocol ``text_box``."""


def family_of(dataset: TaskDataset) -> str:
    """Return the task family by which a data set is scored: its task, and ``gres``, ``grec`` for any number of targets.

    Raises ConfigError for a task that nothing scores.
    """
    reader = reader_of(dataset)
    if isinstance(reader, Reader) and reader.may_lack_targets and dataset.task in ("res", "rec"):
        return f"g{dataset.task}"
    if dataset.task not in SCORERS:
        raise ConfigError(f"dataset {dataset.id}: unknown task '{dataset.task}'{did_you_mean(dataset.task, SCORERS)}")
    return dataset.task


def united_mask(answer: Answer, image: int = 0) -> MaskArray | None:
    """Return the union [H, W] of an answer's masks on one image; None if no object there has a mask."""
    return _union(thing.mask for thing in answer.objects if thing.image == image)


def true_mask(sample: Sample) -> MaskArray:
    """Return the union [H, W] of the true masks. Raises SampleError if there is none."""
    united = _union(region.mask for region in sample.turns[0].regions)
    if united is None:
        raise SampleError(sample.name, "has no mask to compare with")
    return united


def true_box(sample: Sample) -> BoxXYXY:
    """Return the box of the only true region (from its mask if it has none of its own).

    Raises SampleError if the sample has no region, or several: an expression for one box names one object.
    """
    regions = sample.turns[0].regions
    if len(regions) != 1:
        raise SampleError(sample.name, f"task rec needs one target, this query has {len(regions)}")
    box = regions[0].box_xyxy_px
    if box is None and regions[0].mask is not None:
        box = mask_to_box_xyxy_px(regions[0].mask)
    if box is None:
        raise SampleError(sample.name, "has no box to compare with")
    return box


def best_box(answer: Answer) -> BoxXYXY | None:
    """Return the box of the highest-scoring object of the first image that has a box, or None."""
    boxed = [thing for thing in answer.objects if thing.box_xyxy_px is not None and thing.image == 0]
    return max(boxed, key=lambda thing: thing.score).box_xyxy_px if boxed else None


def likely_there(answer: Answer) -> float:
    """Return how likely an answer holds it that what was asked for is in the image, in [0, 1].

    The most likely of its ``presence``; of a mask head that tells none, the best score of its objects. 0 where it
    offers nothing: the words deny it.
    """
    told = answer.presence or tuple(thing.score for thing in answer.objects)
    return round(min(max((0.0, *told)), 1.0), 6)


def confident(answer: Answer) -> list[GroundedObject]:
    """Return the objects of the first image that an answer is sure of (``CONFIDENT``)."""
    return [thing for thing in answer.objects if thing.image == 0 and thing.score >= CONFIDENT]


def ignored_pixels(sample: Sample) -> MaskArray | None:
    """Return the pixels [H, W] that the annotation leaves open (``truth["ignore_mask"]``), if it says so."""
    mask = sample.truth.get("ignore_mask")
    return None if mask is None else np.asarray(mask, dtype=np.bool_)


def needed(sample: Sample, key: str) -> Any:
    """Return a field of ``truth``. Raises SampleError if it is missing."""
    if sample.truth.get(key) is None:
        raise SampleError(sample.name, f"its truth has no '{key}', which the metric needs")
    return sample.truth[key]


def _pixels(mask: MaskArray | None, box_xyxy_px: BoxXYXY | None, boxed: bool, size_hw: tuple[int, int]) -> MaskArray:
    """Return a thing as a mask [H, W]: its own, or with ``boxed`` its box (else that of its mask), filled."""
    if not boxed and mask is not None:
        return mask
    box = box_xyxy_px
    if box is None and mask is not None:
        box = mask_to_box_xyxy_px(mask)
    filled: MaskArray = np.zeros(size_hw, dtype=np.bool_)
    if box is not None:
        x0, y0, x1, y1 = (max(round(value), 0) for value in box)
        filled[y0:y1, x0:x1] = True
    return filled


def _crowd_mask(sample: Sample, segmentation: Any) -> MaskArray:
    try:
        return segmentation_to_mask(segmentation, needed(sample, "height"), needed(sample, "width"))
    except DataError as error:
        raise SampleError(sample.name, f"crowd: {error}") from None


def _union(masks: Iterable[MaskArray | None]) -> MaskArray | None:
    present = [mask for mask in masks if mask is not None]
    return np.asarray(np.logical_or.reduce(present), dtype=np.bool_) if present else None
