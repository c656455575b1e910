"""``ullava data self-text``: conversations that a language model has with itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.errors import UserError


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``self-text`` to the subcommands of ``ullava data``."""
    parser = commands.add_parser("self-text", help="let a language model talk with itself: text that keeps its words")
    parser.add_argument("--language", type=Path, required=True, metavar="DIR", help="folder of the language model")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="file to write; must not be there")
    parser.add_argument("--count", type=int, default=1000, help="how many conversations (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other conversations (default 0)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the words (default 1.0)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 is faster where cores have AMX"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="conversations at a time (default 32)")


def run(args: argparse.Namespace) -> int:
    """Write the file, say how many conversations it holds; 0 where it went well."""
    from ullava.data.readers.boxes import check_new

    check_new(args.out)
    if not (args.language / "config.json").is_file():
        raise UserError(f"--language {args.language}: no such folder with a config.json")
    from ullava.inference.self_text import SelfText, write_self_text

    settings = SelfText(
        count=args.count, seed=args.seed, temperature=args.temperature, batch_size=args.batch_size, dtype=args.dtype
    )
    told = write_self_text(args.language, args.out, settings)
    print(f"{args.out}: {told['kept']} conversations of {told['drawn']} drawn")
    return 0
