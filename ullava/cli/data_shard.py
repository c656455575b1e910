"""``ullava data shard``: a dataset of many files as a few large ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.errors import UserError

FORMATS = ("webdataset", "parquet")
ROWS_PER_SHARD = 10_000


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``shard`` to the subcommands of ``ullava data``."""
    parser = commands.add_parser("shard", help="write a dataset as shards: tar (WebDataset) or Parquet")
    parser.add_argument("--from", dest="dataset", required=True, metavar="DATASET", help="name or folder of a dataset")
    parser.add_argument("--split", nargs="+", default=[], metavar="NAME", help="splits to write (default: train)")
    parser.add_argument(
        "--data-root", type=Path, default=Path(), metavar="DIR", help="what its paths are below (default: here)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; must not be there")
    parser.add_argument(
        "--rows-per-shard", type=int, default=ROWS_PER_SHARD, metavar="N", help=f"default {ROWS_PER_SHARD}"
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=f"default {FORMATS[0]}")


def run(args: argparse.Namespace) -> int:
    """Write the shards and say what they hold; 0 where it went well."""
    if args.rows_per_shard < 1:
        raise UserError(f"--rows-per-shard: has to be 1 or more, not {args.rows_per_shard}")
    from ullava.data.loading.shard_writer import write_shards
    from ullava.run_lock import hold

    with hold(args.out, beside=True):
        written = write_shards(
            args.dataset, args.split, args.data_root, args.out, rows_per_shard=args.rows_per_shard, form=args.format
        )
    for split in written:
        print(f"{args.out / split.pattern}: {split.rows} samples in {split.shards} shards, split {split.split}")
    print(f"{args.out / 'dataset.yaml'}: the descriptor; a recipe names the folder as its dataset")
    return 0
