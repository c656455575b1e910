"""What the benchmark harnesses (lmms-eval, VLMEvalKit) have in common: conversations in, answers as text out.

A harness knows answers as text alone. ``form`` says how an answer becomes one:

``words``  what the model says, without the special tokens
``box``    the best box as ``[x0, y0, x1, y1]`` in fractions of the image's width and height, the one form that the
           parsers of both harnesses read alike; no box: the words
``json``   masks, boxes and scores, as lmms-eval's own segmenting models write them (``answer_json``)
``auto``   ``box`` where the harness asks for the coordinates of something (``asked_of``), else ``words``
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args

from ullava.config.defaults import MAX_NEW_TOKENS
from ullava.errors import UserError, did_you_mean
from ullava.evaluation.scoring import best_box
from ullava.evaluation.text_boxes import TextBoxFrame, place_text_box, read_text_box
from ullava.geometry import clip_boxes_px, px_to_norm, rle_encode
from ullava.inference.export import box_of
from ullava.structures import Answer, BoxXYXY
from ullava.text.tokens import IMAGE_MARKER, VIDEO_MARKER, strip_grounding
from ullava.text.wording import PredictionTask, question_of

if TYPE_CHECKING:
    from ullava.inference.predictor import Predictor

AnswerForm = Literal["auto", "words", "box", "json"]
Ask = Literal["question", "segmentation", "detection"]

_CHOICES: Mapping[str, Any] = {"answer": AnswerForm, "ask": Ask, "text_box_frame": TextBoxFrame}
_REGION = re.compile(r"\b(?:bounding box|coordinates?)\b.*\b(?:sentence|expression|phrase) describes\s*:\s*(.+)", re.S)
"""How both harnesses ask for a box; the rest of the text is the expression."""
_TAGS = re.compile(r"</?(?:ref|p)>")
_SEVERAL_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Options:
    """How questions are put and answers told; both harnesses take them as arguments of the model.

    ``answer``: a form of the module's docstring; ``ask``: ``segmentation`` or ``detection`` make a question of a bare
    name or expression ("red circle"), ``question`` leaves texts as they are. ``batch_size``: questions answered
    together. ``max_new_tokens``: answers end there even where a task would allow for more. ``text_box_frame``: what
    the numbers are fractions of that a model writes into its words (ullava.evaluation.text_boxes).
    Raises UserError for an unknown value.
    """

    answer: str = "auto"
    ask: str = "question"
    batch_size: int = 1
    max_new_tokens: int = MAX_NEW_TOKENS
    text_box_frame: str = "padsq"

    def __post_init__(self) -> None:
        chosen = ((name, getattr(self, name), get_args(kind)) for name, kind in _CHOICES.items())
        problems = [_not_known(name, value, known) for name, value, known in chosen if value not in known]
        for name in ("batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                problems.append(f"{name}: expected a whole number above 0, not {value!r}")
        if problems:
            raise UserError(problems)


def _not_known(name: str, value: Any, known: Sequence[str]) -> str:
    return f"{name}: '{value}' is not a choice{did_you_mean(str(value), known) or '; known: ' + ', '.join(known)}"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: its words with a marker for each image and video, these in order, what was said before it.

    ``form``: how its answer is told (the module's docstring, without ``auto``).
    """

    question: str
    images: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    form: str = "words"


def asked_of(messages: Sequence[Mapping[str, Any]], options: Options, form: str | None = None) -> Asked:
    """Return a conversation as a question.

    ``messages``: {"role": user, assistant or system, "content": [{"type": text, image or video, "value": ...}]} in
    order; a system's words come before the first question. ``form`` overrides ``options.answer``.
    Raises UserError: nothing is asked, roles out of turn, a kind of content that no model here reads.
    """
    before = ""
    turns: list[tuple[str, str]] = []
    pending: str | None = None
    media: dict[str, list[Any]] = {"image": [], "video": []}
    for message in messages:
        role = message.get("role", "user")
        words = _worded(message["content"], media)
        if role == "system":
            before += words + "\n"
        elif role == "user":
            pending = words if pending is None else f"{pending}\n{words}"
        elif role == "assistant" and pending is not None:
            turns.append((pending, words))
            pending = None
        else:
            raise UserError(f"a conversation has turns of user and assistant, '{role}' is out of turn")
    if pending is None or not pending.replace(IMAGE_MARKER, "").replace(VIDEO_MARKER, "").strip():
        raise UserError("the harness asked nothing: the conversation does not end in words of the user")
    chosen = form or options.answer
    if chosen not in get_args(AnswerForm):
        raise UserError(_not_known("answer", chosen, get_args(AnswerForm)))
    question, chosen = _worded_for_us(pending, options, chosen)
    if before and turns:
        turns[0] = (before + turns[0][0], turns[0][1])
    else:
        question = before + question
    return Asked(question, tuple(media["image"]), tuple(media["video"]), tuple(turns), chosen)


def _worded(content: Sequence[Mapping[str, Any]], media: dict[str, list[Any]]) -> str:
    """Return the words of one message, images and videos as markers; put those into ``media``."""
    parts = []
    for item in content:
        kind, value = item.get("type"), item.get("value")
        if kind == "text":
            parts.append(str(value))
        elif kind in media:
            media[kind].append(value)
            parts.append(IMAGE_MARKER if kind == "image" else VIDEO_MARKER)
        else:
            raise UserError(f"the harness shows something of kind '{kind}'; this model reads texts, images and videos")
    return "".join(part if part in (IMAGE_MARKER, VIDEO_MARKER) else f"{part}\n" for part in parts).strip()


def _worded_for_us(words: str, options: Options, form: str) -> tuple[str, str]:
    """Return a question in the words that models are taught, and the form of its answer where that was left open."""
    markers, text = _split_markers(words)
    found = _REGION.search(text)
    if found is not None:
        expression = _TAGS.sub("", found.group(1)).strip()
        return markers + question_of(expression, "detection"), "box" if form == "auto" else form
    task: PredictionTask = options.ask  # type: ignore[assignment]  # checked by Options
    return markers + question_of(text, task), "words" if form == "auto" else form


def _split_markers(words: str) -> tuple[str, str]:
    """Return markers that stand in front, and the rest."""
    found = re.match(rf"(?:\s*(?:{IMAGE_MARKER}|{VIDEO_MARKER}))*", words)
    end = 0 if found is None else found.end()
    return words[:end], words[end:].strip()


def generation_of(given: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return a harness's settings of generation as options of ``Predictor.answer``.

    ``until`` becomes ``stop``; ``max_new_tokens`` is at most ``most``; temperature 0 or ``do_sample: false`` is greedy.
    Settings that are about other models' preprocessing are left out.
    """
    found: dict[str, Any] = {"max_new_tokens": min(int(given.get("max_new_tokens") or most), most)}
    until = given.get("until") or ()
    stop = [text for text in ([until] if isinstance(until, str) else until) if text]
    if stop:
        found["stop"] = stop
    if (given.get("num_beams") or 1) != 1:
        found["num_beams"] = given["num_beams"]
    temperature = given.get("temperature")
    if given.get("do_sample") and temperature != 0:
        found["do_sample"] = True
        chosen = {name: given.get(name) for name in ("temperature", "top_p", "top_k", "seed")}
        found |= {name: value for name, value in chosen.items() if value}
    return found


def answer_all(
    predictor: Predictor, asked: Iterable[Asked], options: Options, generation: Mapping[str, Any]
) -> Iterator[tuple[str, Answer]]:
    """Yield the answer to each question as the harness's text, and as it is; ``batch_size`` are answered together.

    Raises UserError: an image that cannot be read, more images than the question has places for, a model that reads
    none, a question that is longer than what the model reads.
    """
    from ullava.inference.asking import read_shown

    rest = iter(asked)
    while chunk := list(islice(rest, options.batch_size)):
        rows, shown = [], []
        for one in chunk:
            seen = read_shown(one.images or None, one.videos or None, (), predictor.processor.video_frames)
            sample = seen.named_by_content().sample(one.question, one.history)
            rows.append(predictor.processor.encode(sample, seen.images, prompt_only=True, videos=seen.videos))
            shown.append(seen)
        answers = predictor.answer_examples(rows, clip_masks="none", **generation)  # no harness reads masks of videos
        for one, seen, answer in zip(chunk, shown, answers, strict=True):
            sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in seen.images]
            yield told(answer, one.form, sizes, options), answer


def told(answer: Answer, form: str, sizes_wh: Sequence[tuple[int, int]], options: Options) -> str:
    """Return an answer in a form of the module's docstring. ``sizes_wh``: (W, H) of each image of the question."""
    words = strip_grounding(answer.text).strip()
    if form == "words" or not sizes_wh:
        return words
    if form == "json":
        return json.dumps({**answer_json(answer, sizes_wh), "text": words}, ensure_ascii=False)
    box = _one_box(answer, words, sizes_wh[0], options)
    return words if box is None else "[" + ", ".join(f"{value:.{_SEVERAL_DIGITS}f}" for value in box) + "]"


def _one_box(answer: Answer, words: str, size_wh: tuple[int, int], options: Options) -> BoxXYXY | None:
    """Return the best box of the first image in fractions of it: of a head, else in the words, else of a mask."""
    box = best_box(answer)
    if box is None and (written := read_text_box(words)) is not None:
        frame: TextBoxFrame = options.text_box_frame  # type: ignore[assignment]  # checked by Options
        box = place_text_box(written, size_wh, frame)
    if box is None:
        masked = [thing for thing in answer.objects if thing.image == 0 and box_of(thing) is not None]
        box = box_of(max(masked, key=lambda thing: thing.score)) if masked else None
    return None if box is None else _fractions(box, size_wh)


def _fractions(box_xyxy_px: BoxXYXY, size_wh: tuple[int, int]) -> BoxXYXY:
    """Return a box of original pixels as fractions of the image, within it."""
    left, top, right, bottom = px_to_norm(clip_boxes_px(box_xyxy_px, size_wh), size_wh)
    return (float(left), float(top), float(right), float(bottom))


def answer_json(answer: Answer, sizes_wh: Sequence[tuple[int, int]]) -> dict[str, list[Any]]:
    """Return the things of an answer as lmms-eval's SAM 3 writes them: three lists, one entry for each thing.

    ``masks``: COCO run-length code {"size": [H, W], "counts": str}; ``boxes``: the model's own as fractions of the
    image {"x_min", "y_min", "x_max", "y_max"}; ``scores`` in [0, 1]. null where a thing has no mask or no box of its
    own. Things of the first image alone: the form has no place for others.
    """
    found: dict[str, list[Any]] = {"masks": [], "boxes": [], "scores": []}
    width, height = sizes_wh[0]
    for thing in answer.objects:
        if thing.image != 0:
            continue
        found["masks"].append(None if thing.mask is None else rle_encode(thing.mask))
        box = thing.box_xyxy_px
        corners = None if box is None else (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
        names = ("x_min", "y_min", "x_max", "y_max")
        found["boxes"].append(None if corners is None else dict(zip(names, map(float, corners), strict=True)))
        found["scores"].append(float(thing.score) if math.isfinite(thing.score) else 0.0)
    return found
