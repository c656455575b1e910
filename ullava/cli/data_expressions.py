"""``ullava data expressions``: referring expressions by rule from the objects of photographs."""

from __future__ import annotations

import argparse
from pathlib import Path

KIND_NAMES = ("class", "color", "size", "position", "order", "relation", "count", "absent")


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``expressions`` to the subcommands of ``ullava data``."""
    parser = commands.add_parser("expressions", help="make referring expressions by rule from masks or boxes")
    parser.add_argument("--instances", type=Path, required=True, metavar="JSON", help="a COCO instances file")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of its images")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="file to write; must not be there")
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="say that the file lists every object of its classes in each image: 'the dog' is wrong where a second one "
        "is not listed, and so is that there is none (COCO's instances and boxes do; needed)",
    )
    parser.add_argument(
        "--boxes", action="store_true", help="boxes alone, also where there are masks: for the task rec"
    )
    parser.add_argument(
        "--per-image", type=int, default=8, metavar="N", help="expressions an image at most (default 8)"
    )
    parser.add_argument("--kinds", metavar="A,B,...", help=f"these alone, of {','.join(KIND_NAMES)} (default: all)")
    parser.add_argument(
        "--min-area",
        type=float,
        default=0.005,
        metavar="X",
        help="least share of the image of a target (default 0.005)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other expressions (default 0)")


def run(args: argparse.Namespace) -> int:
    """Write the file and report how many expressions of each kind there are; 0 where it went well."""
    from ullava.errors import DataError, did_you_mean

    kinds = None if args.kinds is None else [kind.strip() for kind in args.kinds.split(",")]
    problems = [f"--images {args.images}: no such folder"] if not args.images.is_dir() else []
    problems += [
        f"--kinds: no kind '{kind}'{did_you_mean(kind, KIND_NAMES)}" for kind in kinds or () if kind not in KIND_NAMES
    ]
    if args.per_image < 1:
        problems.append(f"--per-image has to be 1 or more, not {args.per_image}")
    if not 0 <= args.min_area < 1:
        problems.append(f"--min-area is a share of the image, 0 to below 1, not {args.min_area}")
    if not args.exhaustive:
        problems.append(
            "--exhaustive: say that the file lists every object of its classes in each image; without that nothing can "
            "be called 'the dog', or absent, for certain"
        )
    if problems:
        raise DataError(problems)
    from ullava.data.expressions.make import weights_of
    from ullava.data.expressions.write import Job, write_expressions
    from ullava.run_lock import hold

    job = Job(
        instances=args.instances,
        images=args.images,
        out=args.out,
        kinds=weights_of(kinds),
        per_image=args.per_image,
        min_area=args.min_area,
        seed=args.seed,
        boxes_only=args.boxes,
    )
    with hold(args.out, beside=True):
        written = write_expressions(job)
    print(f"{args.out}: " + "\n".join(written.lines()))
    return 0
