"""``ullava export``: the answers of ``ullava predict`` as files of annotation tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.cli.numbers import fraction
from ullava.errors import UserError

HELP = "write answers as COCO, LabelMe, YOLO, mask PNGs, CVAT, Label Studio, FiftyOne or JSON Lines"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="what 'ullava predict --out' wrote")
    parser.add_argument(
        "--to", required=True, metavar="FORMAT",
        help="coco, coco-results, labelme, yolo-seg, masks, cvat, label-studio, fiftyone or jsonl",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new folder (default: a folder RESULTS-FORMAT beside RESULTS)"
    )
    parser.add_argument(
        "--min-score", type=fraction, default=0.0, metavar="S", help="leave out objects below it (default: none)"
    )
    parser.add_argument(
        "--classes", metavar="NAMES",
        help="export these classes alone, in this order: names between commas, or a file with one a line "
        "(default: what the answers call things, sorted)",
    )  # fmt: skip
    parser.add_argument("--single-class", metavar="NAME", help="one class for everything")
    parser.add_argument(
        "--form", default="", metavar="FORM",
        help="coco: polygons or rle; labelme: polygons or masks; masks: objects or palette (default: the first)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where to look for images that are not where the answers say"
    )
    parser.add_argument("--link", action="store_true", help="links to the images instead of copies")
    parser.add_argument(
        "--ids",
        type=Path,
        metavar="FILE.json",
        help="coco, coco-results: keep image and category ids of this COCO file",
    )
    parser.add_argument(
        "--image-url", metavar="PREFIX",
        help="label-studio: what stands before an image's name (default: that of Label Studio's local files)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Read, check, write; then say what was written and what the format loses."""
    from ullava.data.converters.imported.classes import read_class_names
    from ullava.exports.collection import Choice
    from ullava.exports.formats import export_results
    from ullava.exports.settings import LOCAL_FILES, Settings

    if args.single_class is not None and not args.single_class.strip():
        raise UserError("--single-class: the name is empty")
    if args.images is not None and not args.images.is_dir():
        raise UserError(f"--images {args.images}: no such folder")
    classes = None if args.classes is None else read_class_names(args.classes)
    choice = Choice(args.min_score, classes, args.single_class, args.images)
    url = LOCAL_FILES if args.image_url is None else args.image_url
    settings = Settings(args.form, args.link, args.ids, url)
    out = args.out if args.out is not None else _beside(args.results, args.to)
    done = export_results(args.results, args.to, out, choice, settings)
    counted = ((done.images, "image"), (done.objects, "object"), (done.classes, "class"))
    print(f"{done.folder}: {', '.join(_counted(number, what) for number, what in counted)}")
    for note in done.notes:
        print(f"  {note}")
    return 0


def _beside(results: Path, to: str) -> Path:
    folder = results if results.is_dir() else results.parent
    named = folder if folder.name not in ("", "..") else folder.absolute().resolve()
    return named.parent / f"{named.name}-{to}"


def _counted(number: int, what: str) -> str:
    many = "es" if what.endswith("s") else "s"
    return f"{number} {what}{'' if number == 1 else many}"
