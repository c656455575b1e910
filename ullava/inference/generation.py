"""How the words of an answer are chosen, where they stop, and what of it a call may say."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import StoppingCriteria

from ullava.errors import UserError, did_you_mean

SAMPLING = ("temperature", "top_p", "top_k")
PASSED_ON = (
    "do_sample", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens",
    "logits_processor", "stopping_criteria", "streamer", "num_beams", "num_return_sequences",
)  # fmt: skip
"""Options of transformers' ``generate`` that mean the same here; it refuses wrong values itself."""

NOT_DECODING = ("max_new_tokens", "overrides", "clip_masks", "prompt_frame")
"""Options of an answer that do not say how its words are chosen."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """``options`` of ``generate``; ``seed`` of what is drawn, None = torch's own state; ``stop``: texts that end it."""

    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def cut(self, text: str) -> tuple[str, bool]:
        """Return a text up to the first of ``stop`` in it, and whether there was one."""
        ends = [place for place in map(text.find, self.stop) if place >= 0]
        return (text[: min(ends)].rstrip(), True) if ends else (text, False)

    def settled(self, text: str) -> str:
        """Return what of an unfinished text stays as it is: whole words, and nothing that may begin a stop."""
        text, _ = self.cut(text)
        starts = [size for stop in self.stop for size in range(1, len(stop)) if text.endswith(stop[:size])]
        text = text[: len(text) - max(starts, default=0)]
        words = text.rstrip()
        if words == text:  # the last word may still go on
            words = text[: max((place for place, sign in enumerate(text) if sign.isspace()), default=0)]
        return words.rstrip()


def decoding_of(given: Mapping[str, Any]) -> Decoding:
    """Read the options of a call: greedy unless ``temperature``, ``top_p``, ``top_k`` or ``do_sample`` asks for draws.

    Raises UserError for an unknown option and for a value out of range, one line for each.
    """
    known = (*SAMPLING, "seed", "stop", *PASSED_ON)
    problems = [
        f"generation has no option '{key}'{did_you_mean(key, (*known, 'max_new_tokens'))}"
        for key in given
        if key not in known
    ]
    options = {key: value for key, value in given.items() if value is not None}
    numbers = {key: options.pop(key) for key in (*SAMPLING, "seed") if key in options}
    for key, value in numbers.items():
        if (wrong := _out_of_range(key, value)) is not None:
            problems.append(f"{key}: expected {wrong}, not {value!r}")
    stop = options.pop("stop", ())
    stop = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, Sequence) or not all(isinstance(text, str) and text for text in stop):
        problems.append(f"stop: expected a text or several, none of them empty, not {stop!r}")
    if problems:
        raise UserError(problems)
    seed = numbers.pop("seed", None)
    draws = bool(options.pop("do_sample", bool(numbers))) and numbers.get("temperature") != 0
    if "streamer" in options and int(options.get("num_beams") or 1) > 1:
        raise UserError("num_beams: words that may still change are not streamed; leave one of both out")
    if seed is not None and not draws:
        raise UserError("seed: nothing is drawn; give temperature (above 0), top_p or top_k as well")
    if draws:
        options |= {"temperature": 1.0, "top_p": 1.0, "top_k": 0} | numbers
    return Decoding({"do_sample": draws, **options}, seed, tuple(stop))


def _out_of_range(key: str, value: Any) -> str | None:
    """What a value should have been; None where it is right."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = (whole or isinstance(value, float)) and abs(value) <= sys.float_info.max  # isfinite fails on huge ones
    if key == "temperature":
        return None if number and value >= 0 else "a number of 0 or more"
    if key == "top_p":
        return None if number and 0 < value <= 1 else "a number above 0 and up to 1"
    if key == "top_k":
        return None if whole and value >= 1 else "a whole number above 0"
    return None if whole and 0 <= value < 1 << 63 else "a whole number of 0 or more"


@contextmanager
def drawn_from(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from ``seed`` within, and leave torch's own state as it was."""
    if seed is None:
        yield
        return
    with kept_random_state(device):
        torch.manual_seed(seed)
        yield


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Leave torch's random state, on the CPU and on ``device``, as it was."""
    on_cpu = device.type == "cpu"
    kind = {} if on_cpu else {"device_type": device.type}
    with torch.random.fork_rng(devices=[] if on_cpu else [device], **kind):
        yield


class StopAt(StoppingCriteria):
    """Ends each row whose new words hold one of the texts. ``decode``: new ids of a row -> its words."""

    def __init__(self, decoding: Decoding, decode: Any) -> None:
        self.decoding = decoding
        self.decode = decode
        self.prompt: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Tell for each row [B] whether it is done; ``input_ids`` [B, L]: the prompt and, in the first call, one id."""
        if self.prompt is None:
            self.prompt = input_ids.shape[1] - 1
        done = [self.decoding.cut(self.decode(row))[1] for row in input_ids[:, self.prompt :].tolist()]
        return torch.tensor(done, device=input_ids.device)
