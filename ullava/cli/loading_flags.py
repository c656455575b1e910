"""The flags by which commands say how a model is loaded."""

from __future__ import annotations

import argparse
from typing import Any

from ullava.config.quantization import QUANTIZATIONS, unknown


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Declare ``--device`` and ``--quantize``."""
    add_device(parser)
    add_quantize(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare ``--device``."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 ... (default: auto)")


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Declare ``--quantize``."""
    parser.add_argument(
        "--quantize", type=_kind, metavar="KIND",
        help=f"hold the large linear layers in fewer bits: {', '.join(QUANTIZATIONS)} (docs/quantization.md)",
    )  # fmt: skip


def _kind(text: str) -> str:
    if text not in QUANTIZATIONS:
        raise argparse.ArgumentTypeError(unknown(text))
    return text


def loading_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was said as options of ``ullava.load``."""
    return {"device": args.device, "quantize": args.quantize}
