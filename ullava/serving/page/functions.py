"""Three functions for other programs, through gradio's client API and, where the package ``mcp`` is there, as MCP
tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import gradio as gr

from ullava.inference.export import object_to_json
from ullava.serving.predictions import box_of
from ullava.serving.refusals import RefusedError, invalid, timed_out
from ullava.serving.service import Query, Reply, Service
from ullava.serving.sources import Source
from ullava.text.tokens import strip_grounding
from ullava.text.wording import PredictionTask, question_of

Function = Callable[..., Coroutine[Any, Any, dict[str, Any]]]


def functions_of(service: Service) -> list[Function]:
    """Return ``segment``, ``locate`` and ``ask``; each returns JSON values and raises gradio's Error for a refusal."""

    async def segment(image: str, what: str, model: str = "") -> dict[str, Any]:
        """Find things in an image and return their masks.

        Args:
            image: the image file as base64 or as a data URI
            what: what to look for, a name or an expression such as "the dog on the left"
            model: which of the server's models answers; the first one if empty

        Returns:
            the answer's text, and its objects: phrase, score, box_xyxy_px, mask as run-length code of COCO, area_px
        """
        reply = await _asked(service, image, what, model, "segmentation")
        return {"text": _told(reply), "objects": _things(reply, with_masks=True)}

    async def locate(image: str, what: str, model: str = "") -> dict[str, Any]:
        """Find things in an image and return their boxes.

        Args:
            image: the image file as base64 or as a data URI
            what: what to look for, a name or an expression such as "the dog on the left"
            model: which of the server's models answers; the first one if empty

        Returns:
            the answer's text, and its objects: phrase, score, box_xyxy_px (x0, y0, x1, y1 in pixels)
        """
        reply = await _asked(service, image, what, model, "detection")
        return {"text": _told(reply), "objects": _things(reply, with_masks=False)}

    async def ask(image: str, question: str, model: str = "") -> dict[str, Any]:
        """Ask a question about an image and return the answer in words.

        Args:
            image: the image file as base64 or as a data URI; empty for a question without an image
            question: the question
            model: which of the server's models answers; the first one if empty

        Returns:
            the answer's text
        """
        return {"text": _told(await _asked(service, image, question, model, "question"))}

    return [segment, locate, ask]


async def _asked(service: Service, image: str, words: str, model: str, task: PredictionTask) -> Reply:
    try:
        # What comes is what a program sent, whatever the schema says: nothing has checked it.
        for name, value in (("image", image), ("question" if task == "question" else "what", words), ("model", model)):
            if not isinstance(value, str):
                raise invalid(f"{name}: expected text, not {type(value).__name__}", name)
        question = question_of(words, task)
        if not question:
            raise invalid("the question is empty")
        sources = (Source(image, "image", bare=True),) if image else ()
        if not sources and task != "question":
            raise invalid("image: is empty", "image")
        async with asyncio.timeout(service.limits.timeout_s):
            return await service.ask(Query(question, model or None, images=sources))
    except RefusedError as refusal:
        raise gr.Error(refusal.message, print_exception=False) from None
    except TimeoutError:
        raise gr.Error(timed_out(service.limits.timeout_s).message, print_exception=False) from None


def _told(reply: Reply) -> str:
    return strip_grounding(reply.answers[0].text)


def _things(reply: Reply, *, with_masks: bool) -> list[dict[str, Any]]:
    things = []
    for item in reply.answers[0].objects:
        told = object_to_json(item)
        thing = {"phrase": told["phrase"], "score": told["score"], "box_xyxy_px": box_of(item) or None}
        if with_masks:
            thing |= {"mask": told["mask"], "area_px": 0 if item.mask is None else int(item.mask.sum())}
        things.append(thing)
    return things
