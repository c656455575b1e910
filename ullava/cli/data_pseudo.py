"""``ullava data pseudo-masks``: a COCO instances file with masks made from boxes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ullava.errors import UserError

SETTINGS = {
    "side": "GrabCut sees what it cuts on so many pixels a side at most",
    "iterations": "how often GrabCut goes over an image",
    "seed": "of GrabCut's random numbers",
    "min_area": "boxes below this share of the image are not cut",
    "min_fill": "a mask covers at least this share of its box",
    "max_fill": "and at most this one",
    "min_box_iou": "the box of a mask has at least this IoU with the box it was made from",
    "fill": "with --model: its mask of a box covers at least this share of it",
    "min_iou": "with --agree-with: the least IoU of the two masks",
}
"""The settings that a person may change, and what they are."""


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pseudo-masks`` to the subcommands of ``ullava data``."""
    parser = commands.add_parser("pseudo-masks", help="make masks from the boxes of a COCO file")
    parser.add_argument("--boxes", type=Path, required=True, metavar="JSON", help="COCO file whose objects have boxes")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the folder of its images")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="file to write; must not be there")
    parser.add_argument("--model", metavar="NAME", help="let this model find the masks (default: GrabCut)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="of the model (default: auto)")
    parser.add_argument("--leave-out", type=Path, action="append", default=[], metavar="JSON",
                        help="images of this COCO file, which has masks of them, are left out; repeatable")  # fmt: skip
    parser.add_argument(
        "--truth", type=Path, metavar="JSON", help="cut this COCO file's objects too; tell how far they agree"
    )
    parser.add_argument("--agree-with", type=Path, metavar="JSON", help="keep masks that agree with those of this file")
    parser.add_argument("--workers", type=int, default=1, help="processes of GrabCut (default 1)")
    add_settings(parser, SETTINGS)


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add a flag for each of the settings ``names``, with its default."""
    from ullava.data.pseudo.settings import PseudoSettings

    defaults = {entry.name: entry.default for entry in fields(PseudoSettings)}
    for name in names:
        kind = type(defaults[name])
        flag = "--" + name.replace("_", "-")
        parser.add_argument(
            flag, type=kind, default=defaults[name], metavar="N", help=f"{SETTINGS[name]} (default {defaults[name]})"
        )


def run(args: argparse.Namespace) -> int:
    """Write the file, say what became of the boxes; 0 where it went well."""
    from ullava.data.pseudo.images import PseudoJob
    from ullava.data.pseudo.settings import GRAB_CUT, PseudoSettings
    from ullava.data.readers.boxes import check_new
    from ullava.run_lock import hold

    settings = PseudoSettings(source=args.model or GRAB_CUT, **{name: getattr(args, name) for name in SETTINGS})
    if args.model is not None and args.workers != 1:
        raise UserError("--workers: are of GrabCut; a model answers in one process")
    if not args.images.is_dir():
        raise UserError(f"--images {args.images}: no such folder")
    check_new(args.out)
    job = PseudoJob(
        boxes=args.boxes,
        images=args.images,
        out=args.out,
        settings=settings,
        truth=args.truth,
        agree_with=args.agree_with,
        leave_out=tuple(args.leave_out),
    )
    with hold(args.out, beside=True):
        print("\n".join(_told(args, _make(job, args))))
    return 0


def _make(job: Any, args: argparse.Namespace) -> dict[str, Any]:
    from ullava.data.pseudo.make import make_pseudo_masks

    if args.model is None:
        return make_pseudo_masks(job, workers=args.workers)
    from ullava.inference.class_masks import ClassMasks
    from ullava.inference.load import load

    return make_pseudo_masks(job, cut=ClassMasks(load(args.model, device=args.device), job.settings.fill))


def _told(args: argparse.Namespace, info: dict[str, Any]) -> list[str]:
    """Return the lines that are printed."""
    sources = "".join(f", {count} by {source}" for source, count in info["sources"].items())
    lines = [f"{args.out}: {info['masks']} masks in {info['images']} images{sources}"]
    lines += [f"rejected, {reason}: {count}" for reason, count in info["rejected"].items()]
    if "agreement" in info:
        found = info["agreement"]
        for what, mean in (("objects", "object_mIoU"), ("classes", "class_mIoU")):
            figure = f", mIoU {found[mean]}" if mean in found else ""
            lines.append(f"against {args.truth}: {found[what]} {what}{figure}")
    return lines
