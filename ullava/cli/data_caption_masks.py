"""``ullava data caption-masks``: captions whose phrases have boxes, written again with masks."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.cli.data_pseudo import SETTINGS, add_settings

NAMES = tuple(name for name in SETTINGS if name != "min_iou")
"""The settings of ``pseudo-masks`` that mean something here."""


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``caption-masks`` to the subcommands of ``ullava data``."""
    parser = commands.add_parser("caption-masks", help="cut masks for captions whose phrases have boxes")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a dataset of the layout grounded_captions")
    parser.add_argument("--split", metavar="NAME", help="its split (default: train, or the only one)")
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="the folder its paths are below")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N captions alone")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="file to write; must not be there")
    add_settings(parser, NAMES)


def run(args: argparse.Namespace) -> int:
    """Write the file, say what became of the boxes; 0 where it went well."""
    from ullava.config.schema import DatasetEntry
    from ullava.data.pseudo.captions import CaptionJob, make_caption_masks
    from ullava.data.pseudo.settings import PseudoSettings
    from ullava.data.readers.boxes import check_new
    from ullava.run_lock import hold

    settings = PseudoSettings(**{name: getattr(args, name) for name in NAMES})
    check_new(args.out)
    entry = DatasetEntry(split=args.split, limit=args.limit)
    job = CaptionJob(dataset=args.dataset, entry=entry, data_root=args.data_root, out=args.out, settings=settings)
    with hold(args.out, beside=True):
        info = make_caption_masks(job)
    print(f"{args.out}: {info['captions']} captions with {info['masks']} masks, by {settings.source}")
    for reason, count in info["rejected"].items():
        print(f"rejected, {reason}: {count}")
    return 0
