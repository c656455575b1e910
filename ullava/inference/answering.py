"""Many questions answered: in batches, written as it goes, resumed where it stopped (``ullava.inference.batch`` reads
them).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from ullava.atomic_write import append, make_folder, whole
from ullava.data.loading.encode import images_ahead
from ullava.inference.answer_files import answer_record, lines_of, write_overlays
from ullava.inference.answered import read_answered
from ullava.inference.batch import Question
from ullava.media.images import read_image_rgb_u8
from ullava.structures import Answer, ImageArray, Sample

GENERATION = ("max_new_tokens", "temperature", "top_p", "seed", "stop", "clip_masks", "prompt_frame")
"""The settings that say how an answer is chosen, and how things in videos are masked."""
BESIDE = 2
"""How many threads read images and draw overlays while answers are made."""
AHEAD = 8
"""How many images are held for the next batch at the most: 50 million pixels are 150 MB. It reads the others itself."""


class Answerer(Protocol):
    """What answers: a ``Predictor``, or anything of that shape."""

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int, **generation: Any) -> list[Answer]:
        """Answer single-turn samples, in order; ``generation``: see Predictor.answer."""
        ...


def answer_one(
    predictor: Answerer, question: Question, folder: Path | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """Answer one question; with ``folder``, write ``answer.json`` and ``overlay.png`` there. Returns the record.

    ``settings`` holds ``model``, ``max_new_tokens`` and further ``GENERATION``; they are part of the record.
    """
    answer = predictor.answer_samples([question.sample()], **_generation(settings))[0]
    record = answer_record(question, answer, settings)
    if folder is not None:
        make_folder(folder)
        with whole(folder / "answer.json") as unfinished:  # takes its place when the overlays are there
            unfinished.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            write_overlays(question.images, answer, folder, "overlay", question.videos)
    return record


def answer_all(
    predictor: Answerer,
    questions: Sequence[Question],
    folder: Path | None,
    settings: dict[str, Any],
    batch_size: int,
    each: Callable[[dict[str, Any]], None],
    draw: bool = True,
) -> None:
    """Answer in batches; ``each`` is called with every new record, in order.

    With ``folder``, ``answers.jsonl`` grows under the name ``answers.jsonl.part`` and is renamed at the end;
    ``overlays/<id>.png`` is written before its line, unless ``draw`` is False. Questions that a previous run with the
    same prompts and settings has answered are skipped.

    Raises:
        UserError: the folder holds answers to other questions or of another model.
    """
    done: set[str] = set()
    if folder is not None:
        make_folder(folder / "overlays" if draw else folder)
        done = _resume(folder, questions, settings)
    left = [question for question in questions if question.id not in done]
    overlays = folder / "overlays" if folder is not None and draw else None
    with tqdm(total=len(questions), initial=len(done), desc="answering", unit="question") as bar:
        for records in answer_batches(predictor, left, overlays, settings, batch_size):
            if folder is not None:
                append(folder / "answers.jsonl.part", lines_of(records))
            for record in records:
                each(record)
            bar.update(len(records))
    if folder is not None and left:
        os.replace(folder / "answers.jsonl.part", folder / "answers.jsonl")


def answer_batches(
    predictor: Answerer,
    questions: Sequence[Question],
    overlays: Path | None,
    settings: Mapping[str, Any],
    batch_size: int,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of one batch after the other, their overlays written into ``overlays`` before.

    Beside the answers of a batch the next one's images are decoded, and the one before is drawn and written down; so
    its records come when those answers are there.
    """
    starts = range(0, len(questions), batch_size)
    batches = [*(questions[start : start + batch_size] for start in starts), ()]  # nothing follows the last
    with ThreadPoolExecutor(BESIDE) as pool:
        before: list[Future[dict[str, Any]]] = []
        images = _read_ahead(pool, batches[0])
        for batch, following in pairwise(batches):
            try:
                with images_ahead(images):
                    images = _read_ahead(pool, following)
                    answers = predictor.answer_samples([one.sample() for one in batch], **_generation(settings))
            except (Exception, KeyboardInterrupt):  # what is answered already is not lost with it
                yield from _finished(before)
                raise
            yield from _finished(before)
            pairs = zip(batch, answers, strict=True)
            before = [pool.submit(_record, *pair, overlays, settings) for pair in pairs]
        yield from _finished(before)


def _finished(before: Sequence[Future[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of a batch when all are there, nothing where there was none; raises what kept one from it."""
    if before:
        yield [one.result() for one in before]


def _read_ahead(pool: ThreadPoolExecutor, batch: Sequence[Question]) -> dict[Path, Future[ImageArray]]:
    paths = dict.fromkeys(path for question in batch for path in question.images)
    return {path: pool.submit(read_image_rgb_u8, path) for path in islice(paths, AHEAD)}


def _record(question: Question, answer: Answer, overlays: Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    if overlays is not None:
        write_overlays(question.images, answer, overlays, question.id, question.videos)
    return answer_record(question, answer, settings)


def _generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in GENERATION if key in settings}


def _resume(folder: Path, questions: Sequence[Question], settings: Mapping[str, Any]) -> set[str]:
    """Return the ids answered before, after checking that they were the same questions.

    A finished ``answers.jsonl`` that lacks some questions becomes the ``.part`` file again; a line cut off by a kill is
    dropped.
    """
    part, final = folder / "answers.jsonl.part", folder / "answers.jsonl"
    source = part if part.exists() else final
    if not source.exists():
        return set()
    done, whole = read_answered(source, questions, settings)
    if len(done) < len(questions):
        if source == final:
            os.replace(final, part)
        os.truncate(part, whole)
    else:
        os.truncate(source, whole)
        os.replace(source, final)
    return set(done)
