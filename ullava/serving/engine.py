"""One loaded model behind its queue: questions become rows, rows become batches, batches become answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from transformers.generation import BaseStreamer

from ullava.errors import UserError
from ullava.inference.asking import Shown
from ullava.inference.generation import decoding_of
from ullava.media.video import read_frames
from ullava.modeling.processing.region_rows import check_pointed
from ullava.serving.batcher import Batcher, Job
from ullava.serving.limits import Limits
from ullava.structures import Answer, Clip, ImageArray, RegionPrompt

if TYPE_CHECKING:
    from ullava.examples import Example
    from ullava.inference.predictor import Predictor

_ONE_ROW_AT_A_TIME = Lock()
"""transformers compiles a chat template once for all tokenizers, and what it notes the answers' places in cannot be
shared: "AssistantTracker should not be reused before closed" (``transformers/utils/chat_template_utils.py``)."""

OnWords = Callable[[int, str], None]
"""Takes the number of an answer (0, 1, ...) and the words that it has gained."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a batch does for one request: ``rows`` in, an answer for each out."""

    rows: tuple[Example, ...]
    max_new_tokens: int
    generation: Mapping[str, Any]
    on_words: OnWords | None = None


@dataclass(slots=True)
class Done:
    """Answers of one request. Seconds: of the pass over the prompt, of the words behind it, of masks and boxes."""

    answers: list[Answer]
    prefill_s: float = 0.0
    decode_s: float = 0.0
    finalize_s: float = 0.0
    batch_rows: int = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with everything that it is about, decoded. ``images`` by the digest of their files.

    ``regions``: what the ``<region>`` of history and prompt point at.
    """

    prompt: str
    history: tuple[tuple[str, str], ...] = ()
    images: tuple[tuple[str, ImageArray], ...] = ()
    videos: tuple[tuple[str, ImageArray], ...] = ()
    regions: tuple[RegionPrompt, ...] = ()


class AbandonedError(Exception):
    """Nobody waits for any answer of the batch."""


class _Progress(BaseStreamer):
    """Hears every new token of a batch: tells words to those who read along, ends it where nobody waits."""

    def __init__(self, jobs: Sequence[Job[Work, Done]], decode: Callable[[Sequence[int]], str]) -> None:
        self._jobs = jobs
        self._decode = decode
        self._decoding = decoding_of(jobs[0].payload.generation)
        self._rows = [(job, number) for job in jobs for number in range(len(job.payload.rows))]
        self._ids: list[list[int]] = [[] for _ in self._rows]
        self._shown = [""] * len(self._rows)
        self._prompt_passed = False
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        """Take the prompt first, then the ids [B] of one step."""
        if all(job.left.is_set() for job in self._jobs):
            raise AbandonedError
        if not self._prompt_passed:
            self._prompt_passed = True
            return
        if not self.times:
            self.times.append(time.monotonic())
        for place, ((job, number), new) in enumerate(zip(self._rows, value.reshape(-1).tolist(), strict=True)):
            if job.payload.on_words is not None and not job.left.is_set():
                self._ids[place].append(new)
                settled = self._decoding.settled(self._decode(self._ids[place]))
                self._tell(place, job, number, settled)

    def end(self) -> None:
        """Note when the last word was there."""
        self.times.append(time.monotonic())

    def finish(self, answers: Sequence[Answer]) -> None:
        """Tell what is left of each answer."""
        for place, ((job, number), answer) in enumerate(zip(self._rows, answers, strict=True)):
            self._tell(place, job, number, answer.text)

    def _tell(self, place: int, job: Job[Work, Done], number: int, text: str) -> None:
        gained = text[len(self._shown[place]) :]
        if gained and job.payload.on_words is not None:
            self._shown[place] = text
            job.payload.on_words(number, gained)


@dataclass(eq=False)
class Engine:
    """A predictor and its batcher. ``observe`` hears of every batch: rows, seconds.

    ``row_processor``: makes the rows, in other threads than the one that answers, so it is a copy of the predictor's:
    the Rust part of a tokenizer serves one thread at a time. None = the predictor's own, which must then bear both.
    """

    name: str
    predictor: Predictor
    limits: Limits
    observe: Callable[[str, int, float], None] = lambda name, rows, seconds: None
    row_processor: Any = None
    batcher: Batcher[Work, Done] = field(init=False)

    def __post_init__(self) -> None:
        if self.row_processor is None:
            self.row_processor = self.predictor.processor
        self.batcher = Batcher(
            self._run,
            max_batch=self.limits.max_batch,
            max_wait_s=self.limits.max_wait_ms / 1000,
            max_queue=self.limits.max_queue * self.limits.max_choices,
            name=self.name,
        )

    @property
    def frames(self) -> int:
        """How many frames of a video the model sees."""
        return int(self.predictor.processor.video_frames)

    def read_video(self, path: Path) -> ImageArray:
        """Decode the frames of a video that the model sees, uint8 [T, H, W, 3]. Raises DataError as ``read_frames``."""
        from ullava.errors import DataError
        from ullava.media.frames import choose_frames

        def choose(length: int) -> list[int]:
            if length > self.limits.max_frames:
                raise DataError(f"{path}: {length} frames are more than the limit of {self.limits.max_frames}")
            return choose_frames(length, self.frames)

        return read_frames(path, choose)

    def row(self, asked: Asked, max_new_tokens: int) -> Example:
        """Make the row of a question. Raises UserError for one that the model cannot be asked."""
        self.predictor.check_length(max_new_tokens)
        shown = Shown(
            tuple(Path(key) for key, _ in asked.images),
            tuple(image for _, image in asked.images),
            tuple(Clip(Path(key)) for key, _ in asked.videos),
            tuple(frames for _, frames in asked.videos),
            (),
        )
        sample = shown.sample(asked.prompt, asked.history, asked.regions)
        check_pointed(sample, self.row_processor.region_grid)
        with _ONE_ROW_AT_A_TIME:
            row: Example = self.row_processor.encode(
                sample, shown.images, prompt_only=True, videos=shown.videos, overrides=self.predictor.overrides
            )
        return row

    def job(
        self, row: Example, answers: int, max_new_tokens: int, generation: Mapping[str, Any], on_words: OnWords | None
    ) -> Job[Work, Done]:
        """Return the job of ``answers`` answers to one row. Draws from a seed are done alone, to be the same again.

        Raises UserError for options out of range.
        """
        decoding_of(generation)
        key = (max_new_tokens, tuple(sorted((name, _frozen(value)) for name, value in generation.items())))
        work = Work((row,) * answers, max_new_tokens, generation, on_words)
        return Job(work, key, size=answers, alone="seed" in generation)

    def close(self) -> None:
        """Finish what was accepted; the engine answers nothing after that."""
        self.batcher.close()

    def _run(self, jobs: Sequence[Job[Work, Done]]) -> list[Done]:
        processor = self.predictor.processor
        progress = _Progress(jobs, lambda ids: processor.decode_text(ids)[0])
        rows = [row for job in jobs for row in job.payload.rows]
        work = jobs[0].payload
        begun = time.monotonic()
        answers = self.predictor.answer_examples(  # the file of a request's video is gone when its frames were read
            rows, max_new_tokens=work.max_new_tokens, streamer=progress, clip_masks="none", **work.generation
        )
        progress.finish(answers)
        ended = time.monotonic()
        first, last = (*progress.times, ended, ended)[:2] if progress.times else (ended, ended)
        self.observe(self.name, len(rows), ended - begun)
        done = []
        for job in jobs:
            own, answers = answers[: len(job.payload.rows)], answers[len(job.payload.rows) :]
            done.append(Done(own, first - begun, last - first, ended - last, len(rows)))
        return done


def load_engine(
    name: str,
    where: str,
    limits: Limits,
    loading: Mapping[str, Any],
    observe: Callable[[str, int, float], None] = lambda name, rows, seconds: None,
) -> Engine:
    """Load a model by name, folder or Hub id and put it behind a queue. Raises UserError as ``ullava.load``.

    ``loading``: its options.
    """
    from ullava.inference.load import load

    predictor = load(where, **loading)
    return Engine(name, predictor, limits, observe, deepcopy(predictor.processor))


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if not isinstance(value, str | int | float | None):
        raise UserError(f"expected a number or a text, not {type(value).__name__}")
    return value
