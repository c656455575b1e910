"""``ullava data import``: COCO, LabelMe, mask images or referring expressions become a dataset folder."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ullava.data.converters.imported.items import Import

KINDS = {
    "coco": "a COCO instances file (polygons or RLE, or boxes alone)",
    "labelme": "a folder of LabelMe JSON files",
    "masks": "a folder of mask PNGs: class numbers, or one object",
    "refs": "refs(*).p or .json of referring expressions, with instances.json",
}


_JOINED_LABELS = re.compile(r"[,;]\s*(\d+\s*=|$)")


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``import`` with its kinds to the subcommands of ``ullava data``."""
    parser = commands.add_parser("import", help="make a dataset of your own images and annotations")
    kinds = parser.add_subparsers(dest="import_kind", metavar="{" + ",".join(KINDS) + "}", required=True)
    for kind, text in KINDS.items():
        one = kinds.add_parser(kind, help=text)
        one.add_argument("--images", type=Path, required=True, help="folder of the images")
        _add_own(one, kind)
        if kind != "masks":
            one.add_argument(
                "--encoding", default="utf-8", help="of the annotation files (default utf-8; gbk, cp1252, ...)"
            )
        one.add_argument("--out", type=Path, required=True, help="dataset folder; its name is the dataset's")
        one.add_argument("--split", default="train", help="name of the split (default train)")
        one.add_argument("--hold-out", type=int, default=0, metavar="N", help="N images become the split val")
        one.add_argument("--seed", type=int, default=0, help="which ones are held out (default 0)")
        one.add_argument("--link", action="store_true", help="link to the images instead of copying them")
        one.add_argument("--skip-bad", action="store_true", help="leave out what cannot be used, and name it")
        if kind != "refs":
            one.add_argument(
                "--classes",
                metavar="FILE|A,B,...",
                help="class names that may occur, besides those that the folder has (default: all that do)",
            )
        one.add_argument(
            "--stored-pixels",
            action="store_true",
            help="annotations are of the pixels as stored, before the EXIF orientation turns them: turn them too",
        )
        one.add_argument("--license", help="what the descriptor says about the license")


def run(args: argparse.Namespace) -> int:
    """Import, print what was written and what was left out; 0 where it went well."""
    from ullava.data.converters.imported.folder import Target, write_dataset
    from ullava.data.converters.imported.items import FORM
    from ullava.data.converters.imported.turning import turned_upright
    from ullava.data.converters.published.source import EVERY_PART
    from ullava.errors import DataError, one_line
    from ullava.run_lock import hold

    problems = [f"--images {args.images}: no such folder"] if not args.images.is_dir() else []
    if args.hold_out < 0 or args.seed < 0:
        problems.append("--hold-out and --seed have to be 0 or more")
    if problems:
        raise DataError(problems)
    target = Target(
        out=args.out,
        split=args.split,
        hold_out=args.hold_out,
        seed=args.seed,
        link=args.link,
        skip_bad=args.skip_bad,
        license=args.license,
        given=str(
            next(
                getattr(args, name) for name in ("annotations", "refs", "masks", "images") if getattr(args, name, None)
            )
        ),
        command=f"ullava data import {args.import_kind} of {shlex.quote(args.images.name)}",
    )
    with hold(args.out, beside=True):
        found = turned_upright(_read(args)) if args.stored_pixels else _read(args)
        if args.import_kind == "refs" and args.part not in (None, EVERY_PART, args.split):
            known = (
                f"becomes the split '{args.split}' of the dataset; --split {shlex.quote(args.part)} calls it as before"
            )
            found.faults.note(FORM, f"--part {args.part}", known)
        lines = write_dataset(found, target)
    for line in lines:
        print(one_line(line))
    print(f"name it in a recipe as: my_data: {{dataset: {args.out}}}")
    return 0


def _add_own(parser: argparse.ArgumentParser, kind: str) -> None:
    if kind in ("coco", "refs"):
        parser.add_argument("--boxes", action="store_true", help="boxes alone, for the task rec, also where masks are")
        parser.add_argument(
            "--box-format",
            choices=("xywh", "xyxy"),
            help="bbox is x, y, width, height, or the corners x0, y0, x1, y1 (default: xywh, unless it misfits)",
        )
    if kind == "coco":
        parser.add_argument("--annotations", type=Path, required=True, help="the instances file")
        parser.add_argument("--crowd-as-instances", action="store_true", help="take iscrowd: 1 as 0 (brush masks)")
    elif kind == "labelme":
        parser.add_argument("--annotations", type=Path, help="folder of the JSON files (default: the images' folder)")
    elif kind == "refs":
        parser.add_argument("--refs", type=Path, required=True, help="the expressions")
        parser.add_argument("--instances", type=Path, required=True, help="instances.json: masks, sizes, image names")
        parser.add_argument("--part", help="which split of the file: train, val, testA, ..., or all")
    else:
        parser.add_argument("--masks", type=Path, required=True, help="folder of the PNGs, named as the images")
        parser.add_argument(
            "--labels", nargs="+", default=[], metavar="VALUE=NAME", help="what stored values mean: 1=pet 2=leash"
        )
        parser.add_argument("--ignore", nargs="*", type=int, default=[], metavar="VALUE", help="values for nobody")
        parser.add_argument(
            "--background", nargs="*", type=int, default=[0], metavar="VALUE", help="values nobody asks for (default 0)"
        )
        parser.add_argument(
            "--salient",
            action="store_true",
            help="salient-object data: the labels are one object; without --labels (or with 255=NAME) what is white",
        )


def _read(args: argparse.Namespace) -> Import:
    from ullava.data.annotations.encodings import UTF_8, check_encoding
    from ullava.data.converters.imported.classes import known_classes
    from ullava.data.converters.imported.folder import classes_of

    encoding = UTF_8 if args.import_kind == "masks" else check_encoding(args.encoding)
    if args.import_kind == "refs":
        from ullava.data.converters.imported.refs import read_refs

        return read_refs(
            args.images,
            args.refs,
            args.instances,
            args.part,
            boxes=args.boxes,
            box_format=args.box_format,
            encoding=encoding,
            stored_pixels=args.stored_pixels,
        )
    classes = known_classes(classes_of(args.out), args.classes)
    if args.import_kind == "coco":
        from ullava.data.converters.imported.coco import read_coco

        return read_coco(
            args.images,
            args.annotations,
            classes=classes,
            crowd_as_instances=args.crowd_as_instances,
            boxes=args.boxes,
            box_format=args.box_format,
            encoding=encoding,
            stored_pixels=args.stored_pixels,
        )
    if args.import_kind == "labelme":
        from ullava.data.converters.imported.labelme import read_labelme_folder

        return read_labelme_folder(
            args.images,
            args.annotations or args.images,
            classes,
            encoding=encoding,
            stored_pixels=args.stored_pixels,
        )
    from ullava.data.converters.imported.masks import read_masks

    labels = _labels(args.labels)
    if args.salient and set(labels) <= {255} and not args.ignore and args.background == [0]:
        from ullava.data.converters.imported.foregrounds import read_foregrounds

        return read_foregrounds(args.images, args.masks, stored_pixels=args.stored_pixels)
    return read_masks(
        args.images,
        args.masks,
        labels,
        ignore=frozenset(args.ignore),
        background=frozenset(args.background),
        salient=args.salient,
        classes=classes,
        stored_pixels=args.stored_pixels,
    )


def _labels(pairs: list[str]) -> dict[int, str]:
    """Read ``1=pet`` pairs; DataError for anything else."""
    from ullava.errors import DataError

    labels: dict[int, str] = {}
    for pair in pairs:
        value, equals, name = pair.partition("=")
        if not equals or not value.isdecimal() or not name.strip():
            raise DataError(f"--labels: '{pair}': expected a stored value and a name, for example 1=pet")
        if _JOINED_LABELS.search(name):
            raise DataError(f"--labels: '{pair}': labels stand apart, without commas: --labels 1=pet 2=leash")
        if int(value) in labels:
            raise DataError(f"--labels: value {value} is named twice")
        labels[int(value)] = name.strip()
    return labels
