"""The flags by which commands say how answers are chosen."""

from __future__ import annotations

import argparse
from typing import Any

from ullava.config.defaults import MAX_NEW_TOKENS


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; without any of them answers are greedy."""
    parser.add_argument(
        "--max-new-tokens", type=positive, default=MAX_NEW_TOKENS, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="draw the words of answers, the bolder the higher; 0 is greedy"
    )
    parser.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest words, P together")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same again (with the same --batch-size)")
    parser.add_argument(
        "--num-beams", type=positive, metavar="N", help="search for the likeliest answer with N beams (captions: 3)"
    )
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end an answer before TEXT; may be repeated")


def generation_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was given of them, ``max_new_tokens`` always: options of ``Predictor.answer``, checked.

    Raises UserError for values out of range.
    """
    from ullava.inference.generation import decoding_of

    given = {name: getattr(args, name) for name in ("temperature", "top_p", "seed", "num_beams", "stop")}
    given = {name: value for name, value in given.items() if value is not None}
    decoding_of(given)
    return {"max_new_tokens": args.max_new_tokens, **given}


def positive(text: str) -> int:
    """Read a whole number above zero."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, not '{text}'")
    return int(text)
