"""``ullava data boxes``: a file of boxes by image, for vision encoders that look at objects."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ullava.errors import UserError


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``boxes`` to the subcommands of ``ullava data``."""
    parser = commands.add_parser("boxes", help="make a file of boxes by image, for vision encoders with object tokens")
    parser.add_argument("--published", type=Path, metavar="JSON", help="boxes by annotation: MG-LLaVA's own files")
    parser.add_argument("--annotations", type=Path, metavar="JSON", help="with --published: the file the ids are from")
    parser.add_argument("--instances", type=Path, metavar="JSON", help="the true boxes of a COCO instances file")
    parser.add_argument(
        "--detector", type=Path, metavar="DIR", help="a zero-shot detector (OWLv2): a folder or a Hub id"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="with --detector: the folder of the images")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="with --detector: what to look for, a line each")
    parser.add_argument("--device", default="auto", metavar="NAME", help="of the detector (default: auto)")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="file to write; must not be there")


def run(args: argparse.Namespace) -> int:
    """Write the file and say how many images have boxes; 0 where it went well."""
    if sum(source is not None for source in (args.published, args.instances, args.detector)) != 1:
        raise UserError(
            "say where the boxes come from: --published with --annotations, --instances, or --detector with --images "
            "and --classes"
        )
    if (args.published is None) != (args.annotations is None):
        raise UserError("--published and --annotations go together: boxes by annotation, and the annotations")
    from ullava.data.readers.boxes import check_new
    from ullava.run_lock import hold

    check_new(args.out)
    with hold(args.out, beside=True):
        return _write(args)


def _write(args: argparse.Namespace) -> int:
    from ullava.data.readers.boxes import boxes_of_instances, keyed_by_image

    if args.detector is not None:
        return _detect(args)
    if args.instances is not None:
        print(f"{args.out}: boxes of {boxes_of_instances(args.instances, args.out)} images")
        return 0
    found, missing = keyed_by_image(args.published, args.annotations, args.out)
    print(f"{args.out}: boxes of {found} images; {missing} images have none")
    return 0


def _detect(args: argparse.Namespace) -> int:
    """Let a detector look at every image of a folder."""
    from ullava.errors import DataError

    if args.images is None or args.classes is None:
        raise UserError("--detector needs --images and --classes: where it looks, and what for")
    problems = [f"--images {args.images}: no such folder"] if not args.images.is_dir() else []
    problems += [f"--classes {args.classes}: no such file"] if not args.classes.is_file() else []
    if problems:
        raise DataError(problems)
    from tqdm import tqdm

    from ullava.data.annotations.encodings import read_text
    from ullava.data.converters.published.source import IMAGE_SUFFIXES
    from ullava.data.readers.boxes import write_boxes
    from ullava.inference.box_sources import WordDetector
    from ullava.inference.devices import pick_device
    from ullava.media.images import read_image_rgb_u8
    from ullava.resources import is_stray

    # Not splitlines: it also breaks lines at signs that may stand inside of words (U+2028, U+0085).
    words = read_text(args.classes).split("\n")
    detector = WordDetector(args.detector, words, device=str(pick_device(args.device)))
    images = sorted(
        path for path in args.images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not is_stray(path)
    )
    if not images:
        raise DataError(f"{args.images}: no images ({', '.join(IMAGE_SUFFIXES)})")

    def entries() -> Iterator[dict[str, Any]]:
        for path in tqdm(images, desc="looking for things", unit="image", disable=None):
            found = detector.boxes_in(path, read_image_rgb_u8(path))
            corners = found.boxes_xyxy_px.round(2).tolist()
            scores = found.scores.round(4).tolist()
            name = path.relative_to(args.images).as_posix()
            yield {"image": name, "boxes": corners, "scores": scores, "labels": list(found.labels)}

    write_boxes(entries(), args.out)
    print(f"{args.out}: boxes of {len(images)} images")
    return 0
