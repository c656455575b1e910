"""``ullava vlmeval``: a model in VLMEvalKit, on its benchmarks or on a TSV file in its form."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.cli.generation_flags import positive
from ullava.cli.loading_flags import add_device

HELP = "evaluate a model with VLMEvalKit, on its benchmarks or a TSV file in its form"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "options", nargs="*", metavar="OPTION[=VALUE]", help="options of VLMEvalKit: mode=infer limit=8"
    )
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="a name, a folder or a Hub id (default: tiny)")
    parser.add_argument(
        "--data", required=True, metavar="NAMES",
        help="benchmarks of VLMEvalKit (MME,MMBench_DEV_EN,RefCOCO), or names of TSV files in the folder that the "
        "variable LMUData names; between commas",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/vlmeval"), metavar="DIR", help="default: %(default)s")
    add_device(parser)
    parser.add_argument(
        "--max-new-tokens", type=positive, default=128, metavar="N", help="end of an answer (default: 128)"
    )
    parser.add_argument(
        "--judge", default="exact_matching", metavar="NAME",
        help="a model that reads answers, for benchmarks that want one (default: exact_matching, none)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run VLMEvalKit, say where the results are. Raises UserError."""
    from ullava.errors import UserError
    from ullava.inference.load import weights_folder

    data = [name for name in args.data.split(",") if name]
    if not data:
        raise UserError("--data: names no benchmark")
    weights_folder(args.model)
    from ullava.plugins import vlmeval

    words = ["--judge", args.judge]
    for option in args.options:
        name, equals, value = option.lstrip("-").partition("=")
        words += [f"--{name}", value] if equals else [f"--{name}"]
    settings = {"device": args.device, "max_new_tokens": args.max_new_tokens}
    vlmeval.run(args.model, data, args.out, words, **settings)
    print(f"\nwritten: {args.out / vlmeval.label_of(args.model)}")
    return 0
