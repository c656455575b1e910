"""``/v1/chat/completions`` in OpenAI's shape; masks and boxes in ``choices[i].message.grounding``."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from ullava.inference.export import object_to_json
from ullava.serving.chat_bodies import ChatRequest
from ullava.serving.json_bodies import json_bytes
from ullava.serving.predictions import REFUSALS, ServiceOf
from ullava.serving.refusals import RefusedError, internal
from ullava.serving.service import Query, Reply, Service
from ullava.structures import Answer
from ullava.text.tokens import strip_grounding

router = APIRouter(tags=["chat"])
_log = logging.getLogger(__name__)


@router.post("/v1/chat/completions", responses=REFUSALS)
async def complete(body: ChatRequest, service: ServiceOf) -> Response:
    """Answer the last message of a dialogue about images and videos.

    ``message.content`` is the text with its special tokens, so that it can be sent back as history; ``grounding``: a
    list of things with phrase, span (characters of the content), image, score, box_xyxy_px and mask (COCO RLE);
    ``plain_text``: the words alone.
    """
    query = body.query(service.limits.max_turns)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = _Events(service, query, usage)
        await events.begin()
        return StreamingResponse(events.lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})
    reply = await service.ask(query)
    return Response(await service.write(lambda: json_bytes(_completion(reply))), 200, None, "application/json")


def _completion(reply: Reply) -> dict[str, Any]:
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": answer.text, "refusal": None, **_grounded(answer)},
            "logprobs": None,
            "finish_reason": _reason(answer),
        }
        for number, answer in enumerate(reply.answers)
    ]
    return {**_head("chat.completion", reply.model), "choices": choices, "usage": _usage(reply)}


def _grounded(answer: Answer) -> dict[str, Any]:
    return {
        "grounding": [object_to_json(item) for item in answer.objects],
        "plain_text": strip_grounding(answer.text),
    }


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _reason(answer: Answer) -> str:
    return "stop" if answer.finished else "length"


def _usage(reply: Reply) -> dict[str, Any]:
    read, written = reply.input_tokens, reply.output_tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "times_ms": dict(reply.times_ms),
    }


class _Events:
    """An answer as server-sent events. What goes wrong before the first of them is a refusal with its own status."""

    def __init__(self, service: Service, query: Query, usage: bool) -> None:
        self._service = service
        self._query = query
        self._with_usage = usage
        self._words: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        self._head = _head("chat.completion.chunk", service.registry.check(query.model))

    async def begin(self) -> None:
        """Wait for the first words. Raises RefusedError."""
        loop = asyncio.get_running_loop()

        def hear(number: int, words: str) -> None:
            loop.call_soon_threadsafe(self._words.put_nowait, (number, words))

        self._task = asyncio.ensure_future(self._service.ask(self._query, hear))
        self._task.add_done_callback(lambda task: self._words.put_nowait(None))
        try:
            self._first = await self._words.get()
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._first is None:
            await self._task  # raises what went wrong; an empty answer goes on

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the events; leaving early gives the question up."""
        try:
            for number in range(self._query.answers):
                yield self._chunk(number, {"role": "assistant", "content": ""})
            heard = self._first
            while heard is not None:
                yield self._chunk(heard[0], {"content": heard[1]})
                heard = await self._words.get()
            reply = await self._task
            for number, answer in enumerate(reply.answers):
                grounded = await self._service.write(partial(_grounded, answer))
                yield self._chunk(number, grounded, _reason(answer))
            if self._with_usage:
                yield self._event({**self._head, "choices": [], "usage": _usage(reply)})
            yield b"data: [DONE]\n\n"
        except RefusedError as refusal:
            yield self._event(refusal.body())
        except Exception:  # the answer has begun, so its status is gone: the reader is told in an event
            _log.exception("a streamed answer failed")
            yield self._event(internal().body())
        finally:
            self._task.cancel()

    def _chunk(self, number: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._event({**self._head, "choices": [choice]})

    def _event(self, value: dict[str, Any]) -> bytes:
        return b"data: " + json_bytes(value) + b"\n\n"
