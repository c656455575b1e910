"""From the answers of a demo to its report: which questions are shown, and how each one is put."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ullava.demo.report import Card, Report, ReportImage, Section, Table, Verdict
from ullava.demo.run import PHOTO_DATASET, DemoItem, DemoRun, seen_by
from ullava.geometry import mask_iou
from ullava.inference.overlay import draw_overlay
from ullava.media.images import read_image_rgb_u8
from ullava.media.video import read_clip
from ullava.structures import Clip, GroundedObject, ImageArray, MaskArray, Region
from ullava.text.tokens import IMAGE_MARKER, VIDEO_MARKER, strip_grounding

_TEXT_PX = 26
_STRIP_FRAMES = 6
_RIGHT, _NEAR = 0.75, 0.5

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("ordinal", re.compile(r"\b(first|second|third|fourth|fifth|sixth)\b.* from the\b")),
    ("relation", re.compile(r"\b(left of|right of|above|over|below|under|nearest|closest)\b")),
    ("extreme", re.compile(r"\b(\w+most|highest|lowest|largest|biggest|smallest)\b")),
    ("position", re.compile(r"\b(on the (left|right)|at the (top|bottom)|in the (middle|[\w-]+ corner))\b")),
)


@dataclass(frozen=True, slots=True)
class Topic:
    """One section: its data set, its words, the figures that the table shows, and what makes questions differ."""

    dataset: str
    title: str
    text: str
    figures: tuple[tuple[str, str], ...]
    kind: Callable[[DemoItem], str]


def expression_kind(words: str) -> str:
    """Say what an expression of the synthetic world leans on: ordinal, relation, extreme, position or attributes."""
    return next((name for name, pattern in _KINDS if pattern.search(words.lower())), "attributes")


def _number_of_targets(asked: DemoItem) -> str:
    count = len(asked.sample.turns[0].regions)
    return "no target" if count == 0 else "one target" if count == 1 else "several targets"


def _answer_type(asked: DemoItem) -> str:
    return str(asked.sample.truth.get("answer_type") or "")


TOPICS: tuple[Topic, ...] = (
    Topic(
        PHOTO_DATASET,
        "Photographs: everything of a class",
        "One mask for all that a word names, or the answer that it is not there.",
        (("gres", "gIoU"), ("gres", "cIoU"), ("gres", "N-acc"), ("gres", "T-acc")),
        lambda asked: str(asked.sample.images[0].stem),
    ),
    Topic(
        "shapes_res",
        "Referring expressions",
        "One expression, one object, by attributes, relation, order, extreme or position: its mask and its box.",
        (("res", "cIoU"), ("res", "P@0.5"), ("rec", "Acc@0.5")),
        lambda asked: expression_kind(str(asked.sample.truth.get("expression", ""))),
    ),
    Topic(
        "shapes_gres",
        "Several objects, or none",
        "An expression may mean several objects, or something that is not there: then the answer has to say so.",
        (("gres", "gIoU"), ("gres", "N-acc"), ("gres", "T-acc")),
        _number_of_targets,
    ),
    Topic(
        "shapes_salient",
        "What stands out",
        "The object that stands out, and why.",
        (("salient", "mIoU"), ("salient", "maxF"), ("salient", "MAE")),
        lambda asked: "",
    ),
    Topic(
        "shapes_semantic",
        "All pixels of a class",
        "One mask for everything of a class.",
        (("semantic", "mIoU"),),
        lambda asked: "",
    ),
    Topic(
        "shapes_instances",
        "Every object of a class",
        "One mask and box for each, from left to right.",
        (("instance", "AP"), ("instance", "AP50")),
        _number_of_targets,
    ),
    Topic(
        "shapes_parts", "Parts", "The core or the rim of an object.", (("res", "cIoU"), ("res", "P@0.5")), lambda a: ""
    ),
    Topic(
        "shapes_caption",
        "Captions",
        "What the image shows. Right: every color, shape, size and number that is named is true.",
        (("caption", "facts"), ("caption", "CIDEr"), ("caption", "BLEU-4")),
        lambda asked: "",
    ),
    Topic(
        "shapes_vqa",
        "Questions about the image",
        "Short answers.",
        (("vqa", "accuracy"),),
        _answer_type,
    ),
    Topic("shapes_text", "Questions without an image", "Small sums and words.", (("text", "accuracy"),), _answer_type),
    Topic(
        "shapes_video_caption",
        "Captions of clips",
        "What moves where. Right: every color, shape, direction and number that is named is true.",
        (("caption", "facts"),),
        lambda asked: "",
    ),
    Topic(
        "shapes_video_qa",
        "Questions about clips",
        "Direction, color and shape of what moves.",
        (("vqa", "accuracy"),),
        _answer_type,
    ),
)


def build_report(run: DemoRun, lead: str, facts: Sequence[tuple[str, str]], card_text: str) -> Report:
    """Lay out the report of a demo. Images are read here, so the synthetic worlds must still be there.

    Shown of each task: for each kind of question and split the first one about an image not shown yet, then the worst
    answer of all; nothing is picked by hand. ``card_text`` is the model's card.
    """
    sections = []
    for topic in TOPICS:
        mine = [asked for asked in run.asked if asked.dataset == topic.dataset]
        if mine:
            sections.append(Section(topic.title, topic.text, tuple(_cards(mine, topic))))
    return Report("ullava demo", lead, tuple(facts), results_table(run), tuple(sections), "The model's card", card_text)


def results_table(run: DemoRun) -> Table:
    """Return the figures of ``TOPICS`` with a column for each split; percent, and the number of questions."""
    found = {(entry["dataset"], entry["split"], entry["task"]): entry for entry in run.results}
    splits = list(dict.fromkeys(entry["split"] for entry in run.results))
    rows = []
    for topic in TOPICS:
        for task, figure in topic.figures:
            entries = [found.get((topic.dataset, split, task)) for split in splits]
            values = [None if entry is None else entry["metrics"].get(figure) for entry in entries]
            if any(value is not None for value in values):
                counts = " + ".join(str(entry["n"]) if entry else "0" for entry in entries)
                shown = ["-" if value is None else f"{value:.1f}" for value in values]
                rows.append((topic.title, figure, *shown, counts))
    return Table(("task", "figure", *splits, "questions"), tuple(rows))


def quality(asked: DemoItem) -> float:
    """Return how good an answer is, in [0, 1]: the IoU of the united masks, or whether the words are right."""
    if asked.family in ("vqa", "text", "caption"):
        return float(bool(asked.row["right"]))
    shown = _united(item.mask for item in asked.answer.objects)
    true = _united(region.mask for region in asked.sample.turns[0].regions)
    if shown is None or true is None:
        return float(shown is None and true is None)
    return mask_iou(shown, true)


def _united(masks: Iterable[MaskArray | None]) -> MaskArray | None:
    present = [mask for mask in masks if mask is not None]
    return np.asarray(np.logical_or.reduce(present), np.bool_) if present else None


def _cards(mine: Sequence[DemoItem], topic: Topic) -> list[Card]:
    """Return the cards of one section: of each kind and split the first about a new image, then the worst answer."""
    groups: dict[tuple[str, bool], list[DemoItem]] = {}
    for asked in mine:
        groups.setdefault((topic.kind(asked), asked.split == "unseen"), []).append(asked)
    chosen: list[DemoItem] = []
    for key in sorted(groups):
        used = {seen_by(asked.sample) for asked in chosen}
        fresh = [asked for asked in groups[key] if seen_by(asked.sample) not in used]
        chosen.append((fresh or groups[key])[0])
    cards = [_card(asked, ", ".join(filter(None, (asked.split, topic.kind(asked))))) for asked in chosen]
    worst = min(mine, key=quality)
    if worst not in chosen and quality(worst) < 1:
        cards.append(_card(worst, f"{worst.split}, the worst answer of {len(mine)}"))
    return cards


def _card(asked: DemoItem, note: str) -> Card:
    """Return one question with its images: the model's objects beside the true ones."""
    turn = asked.sample.turns[0]
    value = quality(asked)
    verdict: Verdict = "right" if value >= _RIGHT else "near" if value >= _NEAR else "wrong"
    answer = strip_grounding(asked.answer.text) + ("" if asked.answer.finished else " ... (cut off)")
    question = turn.question.replace(IMAGE_MARKER, "").replace(VIDEO_MARKER, "").strip()
    return Card(question, answer, _truth(asked), verdict, _figures(asked, value), note, _images(asked))


def _truth(asked: DemoItem) -> str:
    """Return the truth in words."""
    turn = asked.sample.turns[0]
    if asked.family in ("caption", "vqa", "text"):
        accepted = asked.sample.truth.get("accepted")
        return " or ".join(accepted) if accepted else turn.answer
    if not turn.regions:
        return "no such object"
    phrases = [region.phrase for region in turn.regions]
    return phrases[0] if len(phrases) == 1 else f"{len(phrases)} objects: {', '.join(phrases)}"


def _figures(asked: DemoItem, value: float) -> str:
    """Return what was measured on one answer, in words."""
    if asked.family in ("caption", "vqa", "text"):
        return ""
    if not asked.sample.turns[0].regions:
        return "" if value == 1 else f"named {len(asked.answer.objects)} objects"
    parts = [f"mask IoU {value:.2f}"]
    if "box_iou" in asked.row:
        parts.append(f"box IoU {asked.row['box_iou']:.2f}")
    found, wanted = len(asked.answer.objects), len(asked.sample.turns[0].regions)
    if found != wanted:
        parts.append(f"{found} objects instead of {wanted}")
    return ", ".join(parts)


def _filmstrip(clip: Clip) -> ImageArray:
    """Frames of a clip at equal steps, side by side, a white line between them: uint8 [H, W', 3]."""
    frames = read_clip(replace(clip, sampling="uniform"), _STRIP_FRAMES)
    return np.concatenate([np.pad(frame, ((0, 0), (0, 2), (0, 0)), constant_values=255) for frame in frames], axis=1)


def _images(asked: DemoItem) -> tuple[ReportImage, ...]:
    if asked.sample.videos:
        return (ReportImage("the clip", _filmstrip(asked.sample.videos[0])),)
    if not asked.sample.images:
        return ()
    image = read_image_rgb_u8(asked.sample.images[0])
    if asked.family in ("caption", "vqa"):
        return (ReportImage("the image", draw_overlay(image, [])),)
    true = [_as_object(region) for region in asked.sample.turns[0].regions]
    return (
        ReportImage("the model's answer", draw_overlay(image, asked.answer.objects, text_px=_TEXT_PX)),
        ReportImage("the truth", draw_overlay(image, true, show_scores=False, text_px=_TEXT_PX)),
    )


def _as_object(region: Region) -> GroundedObject:
    return GroundedObject(region.phrase, (0, 0), region.mask, region.box_xyxy_px, 1.0)
