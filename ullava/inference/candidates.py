"""Several masks for what a question asks for, and the choice among them (docs/candidates.md).

The model answers as always. To an answer that points at one thing in an image, other masks are found (``SOURCES`` of
``ullava.config.candidates``), and all of them read in one more pass: how likely the words are that each comes from, the
state that prompted it, what the mask head's map holds under it. A judge, or a rule, takes one. Other answers (of
several things, of none, in a clip) stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ullava.config.candidates import CandidatesConfig
from ullava.config.defaults import MAX_NEW_TOKENS
from ullava.errors import UserError
from ullava.examples import NOTHING
from ullava.geometry import box_iou, mask_ious, mask_to_box_xyxy_px
from ullava.inference.clip_masks import ClipChoice
from ullava.inference.other_answers import OtherAnswers, SaidText, points_at_one
from ullava.inference.predictor import Predictor
from ullava.losses import row_surprises
from ullava.modeling.heads.judge import FACTS, NATS, PROVENANCES, CandidateJudge, read_judge
from ullava.modeling.heads.outputs import certainty_of
from ullava.structures import Answer, BoxXYXY, Candidate, GroundedObject, MaskArray, Region, Sample, Turn
from ullava.text.tokens import LOC, SEG

READ_AT_ONCE = 64
"""How many answers are read in one pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """One candidate: the answer that would be given, and what it is judged by.

    ``thing``: its object; ``nats``: -ln p of the answer's words; ``state`` [D] and ``pooled`` [C], fp32.
    """

    provenance: str
    answer: Answer
    thing: GroundedObject
    nats: float
    state: torch.Tensor
    pooled: torch.Tensor

    @property
    def mask(self) -> MaskArray:
        """Its mask, bool [H, W]."""
        assert self.thing.mask is not None
        return self.thing.mask


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What one pass told of a given answer. ``others``: source, mask [H, W], score, pooled map of other masks."""

    answer: Answer
    nats: float
    state: torch.Tensor
    pooled: torch.Tensor
    others: tuple[tuple[str, MaskArray, float, torch.Tensor], ...]


class Candidates:
    """Finds and reads candidates with ``predictor``, from the sources of ``config``."""

    def __init__(self, predictor: Predictor, config: CandidatesConfig) -> None:
        self.predictor = predictor
        self.config = config
        self.others = OtherAnswers(predictor, config.sources, config.beams)

    def offers(
        self,
        samples: Sequence[Sample],
        answers: Sequence[Answer],
        *,
        max_new_tokens: int,
        overrides: Mapping[str, Any] = NOTHING,
    ) -> list[list[Offer]]:
        """For each sample its candidates, the model's own answer (``single``) first; [] where that is left as it is."""
        asked = [place for place in range(len(samples)) if _is_choosable(samples[place], answers[place])]
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "overrides": overrides}
        more = self.others.find([samples[place] for place in asked], **options) if asked else []
        rows: list[tuple[int, SaidText]] = []
        sizes: dict[int, tuple[int, int]] = {}
        for place, texts in zip(asked, more, strict=True):
            own = answers[place]
            sizes[place] = _mask_of(own).shape
            rows.append((place, SaidText(own.text, "single", own.new_tokens)))
            rows += [(place, said) for said in texts if said.text != own.text]
        found: list[list[Offer]] = [[] for _ in samples]
        for start in range(0, len(rows), READ_AT_ONCE):
            part = rows[start : start + READ_AT_ONCE]
            given = [_answered(samples[place], said.text, sizes[place]) for place, said in part]
            read = self._read([said for _, said in part], given, overrides)
            for (place, said), row in zip(part, read, strict=True):
                found[place] += _offers_of(said, row, answers[place])
        return found

    @torch.inference_mode()
    def _read(
        self, texts: Sequence[SaidText], given: Sequence[Sample], overrides: Mapping[str, Any]
    ) -> list[_Read | None]:
        """Read given answers, each with one ``[SEG]``; None where the mask is of something that is not there."""
        predictor = self.predictor
        examples, output, inputs = predictor.read_given(given, overrides, whole=True)
        answers = predictor.given_answers(given, examples, output, inputs, ClipChoice().settled(predictor.model))
        nats = row_surprises(output.supervised_logits, output.targets, inputs.labels)
        seg = output.seg
        if seg.read is None or seg.row.tolist() != list(range(len(given))):
            raise RuntimeError("a given answer with one [SEG] has not been read as one")
        head, planes = predictor.model.mask_head, seg.mask_logits_lowres
        states, images = seg.read.states[: len(given)], seg.read.image[: len(given)]
        plane_map = head.coarse_map(seg.read.features)
        pooled = pooled_under(plane_map, images, planes)
        others = self._other_masks(texts, answers, seg, examples, plane_map)
        made: list[_Read | None] = []
        for place, said in enumerate(texts):
            answer = replace(answers[place], new_tokens=said.new_tokens)
            told = _Read(answer, nats[place][0], states[place].float().cpu(), pooled[place], tuple(others[place]))
            made.append(told if _the_thing(answer) is not None else None)
        return made

    def _other_masks(
        self,
        texts: Sequence[SaidText],
        answers: Sequence[Answer],
        seg: Any,
        examples: Sequence[Any],
        plane_map: torch.Tensor,
    ) -> list[list[tuple[str, MaskArray, float, torch.Tensor]]]:
        """What the mask head makes of the states of the model's own answers beside their masks."""
        found: list[list[tuple[str, MaskArray, float, torch.Tensor]]] = [[] for _ in texts]
        rules, head = self.predictor.processor.masks, self.predictor.model.mask_head
        own = [place for place, said in enumerate(texts) if said.provenance == "single"]
        boxed = {place: box for place in own if (box := _own_box(answers[place])) is not None}
        for source, places in (("multimask", own), ("box", list(boxed))):
            if source not in self.config.sources or not places:
                continue
            sizes = [examples[place].images[-1].original_hw for place in places]
            boxes = None
            if source == "box":
                seen = [
                    _to_view(boxed[place], size, rules.content_hw(size))
                    for place, size in zip(places, sizes, strict=True)
                ]
                boxes = torch.tensor(seen, dtype=torch.float32, device=plane_map.device)
            at = torch.tensor(places, device=plane_map.device)
            images = seg.read.image[at]
            made = head.several(seg.read.states[at], seg.read.features, images, boxes)
            several = made.mask_logits_lowres.shape[1]
            presence = None if seg.presence_logits is None else seg.presence_logits[at, None].expand(-1, several)
            scores = certainty_of(made.scores, presence)
            planes = self.predictor.model.config.mask_cut.cut(made.mask_logits_lowres.float().flatten(0, 1))
            under = pooled_under(plane_map, images.repeat_interleave(several), planes)
            for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
                full = rules.to_original(planes[number * several : (number + 1) * several].cpu(), size)
                for which in range(several):
                    mask = (full[which] > 0).numpy()
                    if mask.any():
                        score = rules.score(full[which], float(scores[number, which]))
                        found[place].append((source, mask, score, under[number * several + which]))
        return found


class WithCandidates:
    """A predictor that chooses: ``judge`` of ``config.choose`` judge, None = by the rule ``score``."""

    def __init__(self, predictor: Predictor, config: CandidatesConfig, judge: CandidateJudge | None) -> None:
        self.predictor = predictor
        self.model, self.processor, self.name = predictor.model, predictor.processor, predictor.name
        self.config = config
        self.candidates = Candidates(predictor, config)
        self.judge = judge

    def answer_samples(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        overrides: Mapping[str, Any] = NOTHING,
        **generation: Any,
    ) -> list[Answer]:
        """Answer samples as Predictor does; things that were chosen tell their ``provenance`` and ``alternatives``."""
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "overrides": overrides}
        answers = self.predictor.answer_samples(samples, **options, **generation)
        offers = self.candidates.offers(samples, answers, **options)
        return [
            chosen(answer, found, self.judge) if found else answer
            for answer, found in zip(answers, offers, strict=True)
        ]

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.predictor.device

    @property
    def masks_in_videos(self) -> bool:
        """See Predictor; masks in videos are not chosen."""
        return self.predictor.masks_in_videos

    def teacher_forced(self, samples: Sequence[Sample]) -> list[Answer]:
        """See Predictor; nothing is chosen where the words are given."""
        return self.predictor.teacher_forced(samples)

    def surprise(self, samples: Sequence[Sample]) -> list[tuple[float, int]]:
        """See Predictor."""
        return self.predictor.surprise(samples)


def chosen(answer: Answer, offers: Sequence[Offer], judge: CandidateJudge | None) -> Answer:
    """Return the answer of the candidate that is judged best, told of all of them; ``answer`` is the model's own."""
    judged = judged_by(judge, offers)
    told = tuple(
        Candidate(one.provenance, one.thing.phrase, one.mask, one.thing.box_xyxy_px, one.thing.score, value)
        for one, value in zip(offers, judged, strict=True)
    )
    best = offers[int(np.argmax(judged))]
    thing = replace(best.thing, provenance=best.provenance, alternatives=told)
    objects = tuple(thing if other is best.thing else other for other in best.answer.objects)
    return replace(best.answer, objects=objects, images=answer.images)


def judged_by(judge: CandidateJudge | None, offers: Sequence[Offer]) -> list[float]:
    """How good each candidate of one thing is: the judge's logits, or the rule: ln p of its words + ln of its score."""
    if judge is None:
        return [math.log(max(one.thing.score, 1e-6)) - one.nats for one in offers]
    with torch.inference_mode():
        logits: list[float] = judge(*judged_tensors([offers])).tolist()
    return logits


def judged_tensors(
    things: Sequence[Sequence[Offer]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """States [n, D], pooled [n, C], facts [n, F] and thing [n] of all candidates, as ``CandidateJudge`` reads them."""
    every = [one for offers in things for one in offers]
    facts = np.concatenate([facts_of(offers) for offers in things])
    number = [place for place, offers in enumerate(things) for _ in offers]
    return (
        torch.stack([one.state for one in every]),
        torch.stack([one.pooled for one in every]),
        torch.from_numpy(facts).float(),
        torch.tensor(number),
    )


def facts_of(offers: Sequence[Offer]) -> NDArray[np.float64]:
    """``FACTS`` [n, F] of the candidates of one thing."""
    nats = np.asarray([one.nats for one in offers])
    least = float(nats.min())
    masks = [one.mask for one in offers]
    ious = mask_ious(masks, masks)
    likely = np.exp(least - nats)
    expected = ious @ (likely / likely.sum())
    rows = []
    for place, one in enumerate(offers):
        box = mask_to_box_xyxy_px(one.mask)
        near = 0.0
        if box is not None and one.thing.box_xyxy_px is not None:
            near = float(box_iou([box], [one.thing.box_xyxy_px])[0, 0])
        others = np.delete(ious[place], place)
        rows.append(
            [
                -one.nats / NATS,
                (least - one.nats) / NATS,
                float(expected[place]),
                one.thing.score,
                math.sqrt(float(one.mask.mean())),
                float(others.mean()) if len(others) else 1.0,
                near,
                *(float(one.provenance == name) for name in PROVENANCES),
            ]
        )
    made = np.asarray(rows, dtype=np.float64)
    assert made.shape[1] == len(FACTS)
    return made


def pooled_under(plane_map: torch.Tensor, images: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """Means [K, C] of the maps [I, C, g, g] of ``images`` [K] under masks, logits [K, h, w] on the same square; fp32.

    Under a mask without a cell it is 0.
    """
    inside = (planes > 0).float()[:, None]
    weights = functional.interpolate(inside, plane_map.shape[-2:], mode="area")
    sums = (plane_map[images].float() * weights).sum(dim=(2, 3))
    return (sums / weights.sum(dim=(2, 3)).clamp(min=1e-6)).cpu()


def choosing(predictor: Predictor, config: CandidatesConfig, folder: Path) -> WithCandidates:
    """Return ``predictor``, whose model is in ``folder``, as one that chooses.

    Raises UserError for sources that the model does not have, and where its judge is missing or of another model.
    """
    check_sources(predictor, config)
    if config.choose == "score":
        return WithCandidates(predictor, config, None)
    return WithCandidates(predictor, config, read_judge(folder, *judged_widths(predictor)))


def judged_widths(predictor: Predictor) -> tuple[int, int]:
    """The widths of states and of the mask head's map that a judge of this model reads."""
    return int(predictor.model.config.text_config.hidden_size), predictor.model.mask_head.map_width


def check_sources(predictor: Predictor, config: CandidatesConfig) -> None:
    """Refuse sources that the model's mask head does not have. Raises UserError."""
    model, head = predictor.model, predictor.model.mask_head
    for source in ("multimask", "box"):
        if source in config.sources and not head.makes_several:
            head.several(torch.empty(0), None, torch.empty(0), None if source == "multimask" else torch.empty(0, 4))
    if "beams" in config.sources and model.core.generator is not None:
        raise UserError("candidates: beams: this model's core generates by itself; ask for other sources")


def _offers_of(said: SaidText, row: _Read | None, own: Answer) -> list[Offer]:
    if said.provenance == "single":
        thing = _the_thing(own)
        assert thing is not None
        if row is None:  # read again, the mask came out empty
            return []
        made = [Offer("single", own, thing, row.nats, row.state, row.pooled)]
        for source, mask, score, pooled in row.others:
            other = replace(thing, mask=mask, score=score, mask_score=score)
            objects = tuple(other if one is thing else one for one in own.objects)
            made.append(Offer(source, replace(own, objects=objects), other, row.nats, row.state, pooled))
        return made
    if row is None:
        return []
    thing = _the_thing(row.answer)
    assert thing is not None
    return [Offer(said.provenance, row.answer, thing, row.nats, row.state, row.pooled)]


def _the_thing(answer: Answer) -> GroundedObject | None:
    """The one object with a mask, where there is one that has a pixel."""
    masked = [thing for thing in answer.objects if thing.mask is not None]
    return masked[0] if len(masked) == 1 and masked[0].mask is not None and masked[0].mask.any() else None


def _mask_of(answer: Answer) -> MaskArray:
    thing = _the_thing(answer)
    assert thing is not None and thing.mask is not None
    return thing.mask


def _is_choosable(sample: Sample, answer: Answer) -> bool:
    """One question about images, and an answer that points at one thing."""
    alone = bool(sample.images) and not sample.videos and len(sample.turns) == 1
    return alone and points_at_one(answer.text) and _the_thing(answer) is not None


def _own_box(answer: Answer) -> BoxXYXY | None:
    thing = _the_thing(answer)
    return None if thing is None else thing.box_xyxy_px


def _to_view(box_xyxy_px: BoxXYXY, original_hw: Sequence[int], content_hw: Sequence[int]) -> list[float]:
    """A box in original pixels -> in those of the encoder's square, whose top left the image covers."""
    down, across = content_hw[0] / original_hw[0], content_hw[1] / original_hw[1]
    x0, y0, x1, y1 = box_xyxy_px
    return [x0 * across, y0 * down, x1 * across, y1 * down]


def _answered(sample: Sample, text: str, size_hw: tuple[int, int]) -> Sample:
    """The sample with this answer to its last question; its regions stand for places in the text, nothing else."""
    masks, boxes = text.count(SEG), text.count(LOC)
    regions = tuple(
        Region(
            "",
            np.zeros(size_hw, dtype=np.bool_) if number < masks else None,
            (0.0, 0.0, float(size_hw[1]), float(size_hw[0])) if number < boxes else None,
        )
        for number in range(max(masks, boxes))
    )
    last = sample.turns[-1]
    turn = Turn(last.question, text, regions, last.prompts)
    return replace(sample, turns=(*sample.turns[:-1], turn), things=())
