"""From a question to its answer: limits, media, the queue of the model. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ullava.errors import UserError
from ullava.inference.generation import decoding_of
from ullava.serving.batcher import ClosedError, QueueFullError
from ullava.serving.engine import AbandonedError, Asked, Done, Engine, OnWords
from ullava.serving.fetch import Fetcher
from ullava.serving.limits import Limits
from ullava.serving.metrics import Metrics
from ullava.serving.refusals import RefusedError, internal, invalid, invalid_of, too_large
from ullava.serving.registry import ModelRegistry
from ullava.serving.sources import Source, check_pixels, read_image, read_video
from ullava.structures import Answer, ImageArray, RegionPrompt

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Query:
    """One question as a request asks it. ``history``: earlier questions with their answers.

    Questions hold ``<image>`` and ``<video>`` where these belong, or none of them: then they come first.
    ``regions``: what the ``<region>`` of all questions point at, in order. ``max_new_tokens`` None: the default.
    ``generation``: options of ``Predictor.answer``.
    """

    prompt: str
    model: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    images: tuple[Source, ...] = ()
    videos: tuple[Source, ...] = ()
    max_new_tokens: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    answers: int = 1
    tokens_param: str = "max_tokens"
    regions: tuple[RegionPrompt, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """Answers to one question. ``images_hw``: (H, W) of each image; times in milliseconds."""

    model: str
    answers: tuple[Answer, ...]
    images_hw: tuple[tuple[int, int], ...]
    input_tokens: int
    times_ms: Mapping[str, float]
    batch_rows: int

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(answer.new_tokens for answer in self.answers)


class Service:
    """Answers questions with the models of a registry. ``fetcher`` None: urls are refused.

    ``default_tokens``: length of an answer where a request says nothing.
    """

    def __init__(
        self,
        registry: ModelRegistry[Engine],
        limits: Limits,
        metrics: Metrics,
        fetcher: Fetcher | None = None,
        default_tokens: int = 256,
    ) -> None:
        self.registry = registry
        self.limits = limits
        self.metrics = metrics
        self.default_tokens = min(default_tokens, limits.max_new_tokens)
        self._fetcher = fetcher
        self._prepare_pool = ThreadPoolExecutor(limits.prepare_threads, "ullava-prepare")
        self._fetch_pool = ThreadPoolExecutor(8, "ullava-fetch")
        metrics.watch(lambda: len(registry.engines()), {name: partial(self._waiting, name) for name in registry.names})

    async def ask(self, query: Query, on_words: OnWords | None = None) -> Reply:
        """Answer a question. ``on_words`` is told the words as they come, from another thread.

        Cancelling it gives the question up. Raises RefusedError.
        """
        tokens = self._check(query)
        begun = time.monotonic()
        async with self.registry.lease(query.model) as engine:
            loaded = time.monotonic()
            try:
                with engine.batcher.place(query.answers) as submit:
                    row, images_hw = await self._row(engine, query, tokens)
                    copies = query.answers if _draws(query.generation) else 1
                    job = engine.job(row, copies, tokens, query.generation, _fanned(on_words, query.answers, copies))
                    prepared = time.monotonic()
                    submit(job)
                    try:
                        done: Done = await asyncio.wrap_future(job.future)
                    finally:
                        job.leave()
            except QueueFullError as error:
                raise queue_full(error.retry_after_s) from None
            except ClosedError:
                raise RefusedError(503, "stopping", "the server is stopping") from None
            except UserError as error:
                raise invalid_of(error) from None
            except (RefusedError, AbandonedError):
                raise
            except Exception as error:  # foreign code on foreign input: the sender learns that, the log learns why
                _log.exception("a question to model %s failed", engine.name)
                raise internal() from error
        self.metrics.queue_seconds.labels(engine.name).observe(job.started - job.submitted)
        answers = tuple(done.answers) if copies == query.answers else tuple(done.answers) * query.answers
        seconds = {
            "load_time_ms": loaded - begun,
            "tokenize_time_ms": prepared - loaded,
            "queue_ms": job.started - job.submitted,
            "prefill_time_ms": done.prefill_s,
            "decode_time_ms": done.decode_s,
            "finalize_time_ms": done.finalize_s,
            "inference_time_ms": done.prefill_s + done.decode_s + done.finalize_s,
            "total_time_ms": time.monotonic() - begun,
        }
        reply = Reply(
            engine.name,
            answers,
            images_hw,
            len(row.input_ids),
            {name: round(1000 * value, 3) for name, value in seconds.items()},
            done.batch_rows,
        )
        self.metrics.tokens.labels(engine.name, "read").inc(reply.input_tokens)
        self.metrics.tokens.labels(engine.name, "written").inc(reply.output_tokens)
        return reply

    async def ask_all(self, queries: Sequence[Query]) -> list[Reply]:
        """Answer several questions, which may share a batch. Raises the first RefusedError, the others are given up."""
        tasks = [asyncio.ensure_future(self.ask(query)) for query in queries]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def write(self, make: Callable[[], T]) -> T:
        """Run ``make``, which turns masks into JSON, where it does not hold up others."""
        return await asyncio.get_running_loop().run_in_executor(self._prepare_pool, make)

    def retry_after_s(self) -> int:
        """Return the seconds after which there is likely room."""
        return max((engine.batcher.retry_after_s() for engine in self.registry.engines().values()), default=1)

    async def close(self) -> None:
        """Finish what was accepted and let the models go."""
        await self.registry.close()
        self._prepare_pool.shutdown(wait=False)
        self._fetch_pool.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------
    def _waiting(self, name: str) -> int:
        engine = self.registry.engines().get(name)
        return 0 if engine is None else engine.batcher.waiting

    def _check(self, query: Query) -> int:
        """Judge what can be judged before anything is read; return how long an answer may be."""
        limits = self.limits
        self.registry.check(query.model)
        for sources, most, what in (
            (query.images, limits.max_images, "image"),
            (query.videos, limits.max_videos, "video"),
        ):
            if len(sources) > most:
                raise too_large(f"{len(sources)} {what}s are more than the limit of {most}", sources[most].param)
        words = len(query.prompt) + sum(len(asked) + len(said) for asked, said in query.history)
        if words > limits.max_characters:
            raise too_large(f"{words} characters are more than the limit of {limits.max_characters}")
        if not 1 <= query.answers <= limits.max_choices:
            raise invalid(f"n: expected 1 to {limits.max_choices}, not {query.answers}", "n")
        try:
            decoding_of(query.generation)
        except UserError as error:
            raise invalid_of(error) from None
        tokens = self.default_tokens if query.max_new_tokens is None else query.max_new_tokens
        if not 1 <= tokens <= limits.max_new_tokens:
            raise invalid(f"expected 1 to {limits.max_new_tokens} new tokens, not {tokens}", query.tokens_param)
        if self._fetcher is None:
            for source in (*query.images, *query.videos):
                if source.url is not None:
                    raise RefusedError(
                        403, "urls_not_allowed", "this server reads no urls; send the file as a data URI", source.param
                    )
        return tokens

    async def _row(self, engine: Engine, query: Query, tokens: int) -> tuple[Any, tuple[tuple[int, int], ...]]:
        loop = asyncio.get_running_loop()
        sources = (*query.images, *query.videos)
        files = await asyncio.gather(*(self._data(source) for source in sources))

        def make() -> tuple[Any, tuple[tuple[int, int], ...]]:
            found: dict[bytes, tuple[str, ImageArray]] = {}
            images: list[tuple[str, ImageArray]] = []
            for data, source in zip(files, query.images, strict=False):
                if data not in found:
                    found[data] = read_image(data, source.param, self.limits)
                images.append(found[data])
                check_pixels(images, self.limits)
            videos = [
                read_video(data, source.param, engine.read_video)
                for data, source in zip(files[len(query.images) :], query.videos, strict=True)
            ]
            row = engine.row(Asked(query.prompt, query.history, tuple(images), tuple(videos), query.regions), tokens)
            return row, tuple((pixels.shape[0], pixels.shape[1]) for _, pixels in images)

        return await loop.run_in_executor(self._prepare_pool, make)

    async def _data(self, source: Source) -> bytes:
        if (url := source.url) is None or self._fetcher is None:
            return source.data()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._fetch_pool, self._fetcher.get, url, source.param)


def queue_full(retry_after_s: int) -> RefusedError:
    """Return the refusal of a request that comes on top of a full queue."""
    return RefusedError(429, "queue_full", "too many requests wait already; come again later", None, retry_after_s)


def _draws(generation: Mapping[str, Any]) -> bool:
    return any(generation.get(key) is not None for key in ("temperature", "top_p", "top_k")) and (
        generation.get("temperature") != 0
    )


def _fanned(on_words: OnWords | None, answers: int, copies: int) -> OnWords | None:
    """Tell the words of one answer as those of all, where all are the same."""
    if on_words is None or copies == answers:
        return on_words
    told = on_words

    def tell(number: int, words: str) -> None:
        for place in range(answers):
            told(place, words)

    return tell
