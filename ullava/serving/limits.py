"""Every limit of the server, with its default; the flags of ``ullava serve`` are made of this list."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ullava.errors import UserError

MIB = 1024 * 1024


def _limit(default: int, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may bring and take. All are whole numbers above zero (``max_wait_ms``: or zero)."""

    max_body_mib: int = _limit(32, "MiB of one request, and of one file behind a url")
    max_bodies_mib: int = _limit(1024, "MiB of all requests together that are not answered yet")
    max_images: int = _limit(8, "images of a request")
    max_videos: int = _limit(2, "videos of a request")
    max_megapixels: int = _limit(25, "million pixels of an image, and 4 times as many of all images of a request")
    max_frames: int = _limit(3000, "frames of a video file")
    max_turns: int = _limit(64, "messages of a chat")
    max_characters: int = _limit(20_000, "characters of all words of a request")
    max_new_tokens: int = _limit(1024, "tokens of an answer")
    max_choices: int = _limit(8, "answers to one request (n)")
    max_batch: int = _limit(16, "answers that a model writes at once")
    max_wait_ms: int = _limit(5, "milliseconds that a request waits for others to share its batch")
    max_queue: int = _limit(256, "requests that are not answered yet; further ones get 429")
    max_loaded: int = _limit(1, "models in memory; the least recently used one makes room")
    timeout_s: int = _limit(60, "seconds from the first byte of a request to the last of its answer")
    fetch_timeout_s: int = _limit(10, "seconds for the file behind a url")
    max_redirects: int = _limit(3, "redirects that are followed on the way to it")
    prepare_threads: int = _limit(2, "threads that decode images")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), 0 if item.name in ("max_wait_ms", "max_redirects") else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{flag_of(item.name)}: expected a whole number of {least} or more, not {value!r}")


def flag_of(name: str) -> str:
    """Return the flag of a limit: ``max_queue`` -> ``--max-queue``."""
    return "--" + name.replace("_", "-")
