"""``ullava data``: import your own data, write shards, draw the shapes world, train a tokenizer, describe a mixture."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.cli import (
    data_boxes,
    data_caption_masks,
    data_expressions,
    data_import,
    data_pseudo,
    data_self_text,
    data_shard,
)
from ullava.errors import UserError

HELP = "import your own data, make masks from boxes, draw the shapes world, train a tokenizer, or tell what data yields"

SMALLEST_VOCABULARY = 258
"""256 bytes, padding and the end of an answer."""

SYNTHETIC_TEMPLATES = ("CAP", "CLS", "INST", "SEG", "SS")
"""The templates that word questions about the synthetic world: a tokenizer learned from it reads no others."""

WORDY_ANNOTATIONS = ("res", "gres", "semantic", "salient", "caption", "listing", "vqa", "text")
"""The annotation files of a synthetic world of images whose words a tokenizer learns; those for training reasoning say
nothing new."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands, those that make annotations first."""
    names = "{import,synth,boxes,pseudo-masks,caption-masks,expressions,self-text,shard,stats,tokenizer}"
    commands = parser.add_subparsers(dest="data_command", metavar=names, required=True)
    data_import.configure(commands)
    data_boxes.configure(commands)
    data_pseudo.configure(commands)
    data_caption_masks.configure(commands)
    data_expressions.configure(commands)
    data_self_text.configure(commands)
    data_shard.configure(commands)
    draw = commands.add_parser(
        "synth", aliases=["draw"], help="write a synthetic world in the formats of the real datasets"
    )
    draw.add_argument("--out", type=Path, required=True, help="folder to make; must not hold anything yet")
    draw.add_argument("--images", type=int, help="how many images")
    draw.add_argument("--videos", type=int, help="instead of images: how many clips of moving shapes (GIF)")
    draw.add_argument(
        "--masks",
        action="store_true",
        help="with --videos: clips with masks and expressions through time, in the form of MeViS (JPEG frames)",
    )
    draw.add_argument("--seed", type=int, default=0, help="another seed, another world (default 0)")
    draw.add_argument(
        "--split",
        default="train",
        metavar="{train,seen,unseen}",
        help="seen: like train, other images; unseen: color-shape pairs that train never shows (default train)",
    )
    draw.add_argument(
        "--world",
        default="plain",
        metavar="{plain,detail}",
        help="detail: larger and longer images of more and smaller objects, fine textures (default plain)",
    )
    draw.add_argument(
        "--regions",
        action="store_true",
        help="also questions that point at regions (shapes_regions, shapes_region_masks)",
    )
    draw.add_argument(
        "--grounded", action="store_true", help="also captions with a mask for each phrase (annotations/grounded.json)"
    )
    draw.add_argument("--workers", type=int, default=1, help="processes that draw (default 1)")
    stats = commands.add_parser("stats", help="counts, ratios, lengths and bad samples of a recipe's mixture")
    stats.add_argument("recipe", help="recipe name or path of its YAML")
    stats.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    tokenizer = commands.add_parser("tokenizer", help="train a small tokenizer on the words of a synthetic world")
    tokenizer.add_argument(
        "--world",
        type=Path,
        nargs="+",
        required=True,
        help="folders that `ullava data synth` made (images, clips)",
    )
    tokenizer.add_argument("--vocabulary", type=int, default=1024, help="entries, 258 or more (default 1024)")
    tokenizer.add_argument("--out", type=Path, required=True, help="folder to make; must not hold anything yet")


def run(args: argparse.Namespace) -> int:
    """Carry out the subcommand; 0 where it went well."""
    if args.data_command == "import":
        return data_import.run(args)
    if args.data_command == "boxes":
        return data_boxes.run(args)
    if args.data_command == "pseudo-masks":
        return data_pseudo.run(args)
    if args.data_command == "caption-masks":
        return data_caption_masks.run(args)
    if args.data_command == "expressions":
        return data_expressions.run(args)
    if args.data_command == "self-text":
        return data_self_text.run(args)
    if args.data_command == "shard":
        return data_shard.run(args)
    if args.data_command in ("synth", "draw"):
        return _draw(args)
    if args.data_command == "tokenizer":
        return _tokenizer(args)
    from ullava.data.loading.stats import run_stats

    run_stats(args.recipe, args.overrides)
    return 0


def _draw(args: argparse.Namespace) -> int:
    if (args.images is None) == (args.videos is None):
        raise UserError("say how much to draw: --images N or --videos N, each into a folder of its own")
    if args.videos is not None and args.world != "plain":
        raise UserError(f"--world {args.world}: clips are drawn of the plain world only")
    if args.videos is not None and args.regions:
        raise UserError("--regions: questions point at regions of images, not of clips")
    if args.videos is not None and args.grounded:
        raise UserError("--grounded: captions with masks are of images only")
    if args.masks and args.videos is None:
        raise UserError("--masks: is for clips; say how many with --videos N (images have masks as they are)")
    if args.masks:
        from ullava.synthetic.write_tracks import draw_track_world

        out = draw_track_world(args.out, args.videos, args.seed, args.split, workers=args.workers)
        print(f"{out}: {args.videos} clips with masks and expressions, split {args.split}, seed {args.seed}")
        return 0
    if args.videos is not None:
        from ullava.synthetic.write_clips import draw_video_world

        out = draw_video_world(args.out, args.videos, args.seed, args.split, workers=args.workers)
        print(f"{out}: {args.videos} clips of the moving shapes world, split {args.split}, seed {args.seed}")
        return 0
    from ullava.synthetic.write import draw_world

    out = draw_world(
        args.out,
        args.images,
        args.seed,
        args.split,
        workers=args.workers,
        world=args.world,
        regions=args.regions,
        grounded=args.grounded,
    )
    kind = "shapes" if args.world == "plain" else f"{args.world} shapes"
    print(f"{out}: {args.images} images of the {kind} world, split {args.split}, seed {args.seed}")
    return 0


def _annotations_of(world: Path) -> list[Path]:
    """The files of a synthetic world that hold words: of images, or where it has clips, of those."""
    from ullava.synthetic.write_clips import VIDEO_ANNOTATIONS
    from ullava.synthetic.write_tracks import META

    if (world / META).is_file():
        return [world / META]
    names = VIDEO_ANNOTATIONS if (world / "clips.jsonl").is_file() else WORDY_ANNOTATIONS
    return [world / "annotations" / f"{name}.json" for name in names]


def _tokenizer(args: argparse.Namespace) -> int:
    from ullava.errors import DataError
    from ullava.resources import folder

    words = [path for world in args.world for path in _annotations_of(world)]
    problems = [f"{path}: no such file; make a world with 'ullava data synth'" for path in words if not path.is_file()]
    if args.vocabulary < SMALLEST_VOCABULARY:
        problems.append(f"--vocabulary must be {SMALLEST_VOCABULARY} or more (every byte), not {args.vocabulary}")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        problems.append(f"{args.out}: exists and is not an empty folder; name another folder or remove it")
    if problems:
        raise DataError(problems)
    from ullava.atomic_write import whole_folder
    from ullava.run_lock import hold
    from ullava.synthetic.tokenizer import train_tokenizer

    templates = [folder("datasets") / "templates" / f"{name}.json" for name in SYNTHETIC_TEMPLATES]
    with hold(args.out, beside=True), whole_folder(args.out) as unfinished:
        size = train_tokenizer([*words, *templates], args.vocabulary, unfinished)
    print(f"{args.out}: a tokenizer of {size} entries, from {len(words) + len(templates)} files")
    return 0
