"""Questions to several models at once, and their words as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from ullava.serving.refusals import RefusedError, timed_out
from ullava.serving.service import Query, Reply, Service

_PAUSE_S = 0.05
"""Words that come closer together than this are shown together."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an answer is: its text with special tokens so far; in the end a ``reply``, or why there is none."""

    text: str = ""
    reply: Reply | None = None
    refusal: str = ""


async def follow(
    service: Service, queries: Sequence[Query], timeout_s: float
) -> AsyncGenerator[tuple[Progress, ...], None]:
    """Ask all of ``queries`` and yield how far each is, whenever one has gained something, until all have ended.

    Leaving it early gives the questions up, and so does ``timeout_s`` seconds for each.
    """
    loop = asyncio.get_running_loop()
    states = [Progress() for _ in queries]
    changed = asyncio.Event()

    def gain(place: int, words: str) -> None:
        if not states[place].reply and not states[place].refusal:
            states[place] = replace(states[place], text=states[place].text + words)
            changed.set()

    async def ask(place: int, query: Query) -> None:
        def hear(number: int, words: str) -> None:
            loop.call_soon_threadsafe(gain, place, words)

        try:
            async with asyncio.timeout(timeout_s):
                reply = await service.ask(query, hear)
            states[place] = Progress(reply.answers[0].text, reply)
        except TimeoutError:
            states[place] = replace(states[place], refusal=timed_out(round(timeout_s)).message)
        except RefusedError as refusal:
            states[place] = replace(states[place], refusal=refusal.message)
        finally:
            changed.set()

    tasks = [asyncio.ensure_future(ask(place, query)) for place, query in enumerate(queries)]
    try:
        while True:
            await changed.wait()
            changed.clear()
            ended = all(task.done() for task in tasks)
            yield tuple(states)
            if ended:
                await asyncio.gather(*tasks)
                return
            await asyncio.sleep(_PAUSE_S)
    finally:
        for task in tasks:
            task.cancel()
