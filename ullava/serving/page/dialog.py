"""What a visitor has asked one model so far, kept between questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ullava.geometry import rle_decode
from ullava.geometry.region_prompts import region_to_json
from ullava.inference.export import answer_to_json
from ullava.serving.refusals import RefusedError, invalid
from ullava.serving.service import Query, Reply
from ullava.serving.sources import Source
from ullava.structures import MaskArray, RegionPrompt
from ullava.text.tokens import IMAGE_MARKER, REGION_MARKER, VIDEO_MARKER, mark_places, strip_grounding

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".gif")
"""Files that are shown to a model as videos; everything else is an image or is refused as one."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question on its way: ``words`` as typed, the same with markers (``prompt``), the files that came with it.

    ``regions``: what its ``<region>`` point at.
    """

    words: str
    prompt: str
    files: tuple[Path, ...]
    regions: tuple[RegionPrompt, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer. ``record``: the answer as ``ullava predict`` writes it (``answer_to_json``).

    ``images``: how many images of the dialog the question could see.
    """

    ask: Ask
    model: str
    record: Mapping[str, Any]
    images: int

    @property
    def words(self) -> str:
        """The answer without special tokens."""
        return strip_grounding(str(self.record["text"]))

    @property
    def objects(self) -> Sequence[Mapping[str, Any]]:
        """Its things, as ``object_to_json`` gives them."""
        things: Sequence[Mapping[str, Any]] = self.record["objects"]
        return things


@dataclass(frozen=True, slots=True)
class Dialog:
    """Files by kind in the order in which they came, and what was said. Files are paths of the page's own folder."""

    images: tuple[Path, ...] = ()
    videos: tuple[Path, ...] = ()
    exchanges: tuple[Exchange, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, images first."""
        return (*self.images, *self.videos)

    def asking(self, words: str, files: Sequence[Path], regions: tuple[RegionPrompt, ...] = ()) -> Ask:
        """Return the next question. Raises RefusedError for none, or for markers that do not fit files and regions."""
        if not words.strip():
            raise invalid("type a question")
        images, videos = _by_kind(files)
        for marker, count in ((IMAGE_MARKER, len(images)), (VIDEO_MARKER, len(videos))):
            if words.count(marker) not in (0, count):
                raise invalid(f"{words.count(marker)} {marker} markers for {count} new files")
        if regions and words.count(REGION_MARKER) != len(regions):
            raise invalid(f"{words.count(REGION_MARKER)} {REGION_MARKER} markers for {len(regions)} boxes")
        return Ask(words, mark_places(words, len(images), len(videos)), tuple(files), regions)

    def query(self, ask: Ask, model: str, max_new_tokens: int) -> Query:
        """Return a question as the service takes it. Raises RefusedError when a file is no longer there."""
        seen = self.having(ask)
        return Query(
            ask.prompt,
            model,
            tuple((done.ask.prompt, str(done.record["text"])) for done in self.exchanges),
            tuple(Source(_content(path), "image") for path in seen.images),
            tuple(Source(_content(path), "video") for path in seen.videos),
            max_new_tokens,
            regions=tuple(
                region for asked in (*(done.ask for done in self.exchanges), ask) for region in asked.regions
            ),
        )

    def having(self, ask: Ask) -> Dialog:
        """Return it with the files of a question."""
        images, videos = _by_kind(ask.files)
        return replace(self, images=(*self.images, *images), videos=(*self.videos, *videos))

    def after(self, ask: Ask, reply: Reply) -> Dialog:
        """Return it with a question and its answer."""
        seen = self.having(ask)
        exchange = Exchange(ask, reply.model, answer_to_json(reply.answers[0]), len(seen.images))
        return replace(seen, exchanges=(*self.exchanges, exchange))


def mask_of(thing: Mapping[str, Any]) -> MaskArray | None:
    """Return the mask of a thing of an exchange, bool [H, W]; None without one, or without a pixel in it."""
    mask = None if thing["mask"] is None else rle_decode(thing["mask"])
    return mask if mask is not None and mask.any() else None


def record_line(exchange: Exchange, number: int, images: Sequence[str]) -> str:
    """Return an exchange as a line of ``answers.jsonl``; ``images``: names of the files that its question saw."""
    asked = {"id": f"turn-{number}", "images": list(images), "prompt": exchange.ask.words}
    pointed = [region_to_json(region) for region in exchange.ask.regions]
    told = {**asked, **({"regions": pointed} if pointed else {}), "model": exchange.model, **exchange.record}
    return json.dumps(told, ensure_ascii=False) + "\n"


def _by_kind(files: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    videos = tuple(path for path in files if path.suffix.lower() in VIDEO_SUFFIXES)
    return tuple(path for path in files if path not in videos), videos


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise RefusedError(404, "file_gone", f"{path.name} is no longer here; begin a new chat") from None
