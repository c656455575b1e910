"""``ullava predict``: ask a model about images, videos, or a file of questions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from ullava.cli.generation_flags import add_generation, generation_of, positive
from ullava.cli.loading_flags import add_loading, loading_of
from ullava.cli.numbers import frame_number
from ullava.cli.ray_flags import add_ray, check_ray, cluster_of
from ullava.errors import UserError
from ullava.given_files import check_plain
from ullava.inference.load import RUNTIMES
from ullava.structures import MaskCarrying

HELP = "ask a model about images and videos: words, masks and boxes"
DEFAULT_OUT = Path("runs/predict")
SHARD_BATCHES = 16
RAY_FLAGS = ("workers", "shard_size")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", default="tiny", metavar="NAME", help="a name, a folder or a Hub id (default: tiny)")
    parser.add_argument(
        "--image", action="extend", nargs="+", default=[], type=Path, metavar="FILE",
        help="an image; several of them are asked the same prompt, each on its own",
    )  # fmt: skip
    parser.add_argument(
        "--video", action="extend", nargs="+", default=[], type=Path, metavar="FILE",
        help="a video (mp4, avi, gif); several of them are asked the same prompt, each on its own",
    )  # fmt: skip
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="the question")
    parser.add_argument(
        "--region", action="append", default=[], metavar="X1,Y1,X2,Y2",
        help="a box in pixels of the image that a <region> of the prompt points at; once for each, in order",
    )  # fmt: skip
    parser.add_argument(
        "--input", type=Path, metavar="FILE.jsonl",
        help='instead of --image and --prompt: one {"image": FILE, "prompt": TEXT, "id": NAME} on each line '
        '("video" in the place of "image", or beside it)',
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help=f"where the files go (default: {DEFAULT_OUT}; with --json: nowhere)",
    )  # fmt: skip
    parser.add_argument(
        "--boxes", type=Path, metavar="FILE.json",
        help="boxes found in the images (named from the file's folder), for a vision encoder that looks at objects",
    )  # fmt: skip
    parser.add_argument(
        "--detector", type=Path, metavar="DIR",
        help="a zero-shot detector (OWLv2; a folder or a Hub id) to find them with --classes, instead of --boxes",
    )  # fmt: skip
    parser.add_argument("--classes", metavar="CLASS,CLASS", help="what the detector looks for")
    parser.add_argument(
        "--override", action="append", default=[], metavar="key=value",
        help="an override of the vision encoder, such as granularity=36 or top_p=1.0; may be given several times",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the answer as JSON, one line for each question")
    add_loading(parser)
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="torch",
        help="what runs the networks; onnx, openvino: those of a folder of `ullava convert onnx`, on a CPU "
        "(default: torch)",
    )  # fmt: skip
    parser.add_argument(
        "--clip-masks", choices=get_args(MaskCarrying),
        help="how things in a video are masked: carried on by the mask head's memory, asked anew in all frames, or not "
        "(default: memory of models that have one)",
    )  # fmt: skip
    parser.add_argument(
        "--prompt-frame", type=frame_number, metavar="N",
        help="the frame of a video, from 0, that prompts the masks (default: chosen by how likely things are there)",
    )  # fmt: skip
    parser.add_argument(
        "--candidates", metavar="N|SOURCES",
        help="choose each mask among several: of the N likeliest answers, or by sources, such as beams,multimask "
        "(docs/candidates.md)",
    )  # fmt: skip
    parser.add_argument(
        "--choose", choices=("judge", "score"),
        help="with --candidates: who chooses, the judge beside the model (default) or their score",
    )  # fmt: skip
    parser.add_argument("--stream", action="store_true", help="print the words of one answer as they come")
    parser.add_argument(
        "--no-overlays", action="store_true", help="of several questions, write the answers and no images"
    )
    add_generation(parser)
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="default: 16")
    ray = add_ray(parser, "worker")
    ray.add_argument("--workers", type=positive, metavar="N", help="default: as many as the cluster has room for")
    ray.add_argument(
        "--shard-size", type=positive, metavar="N",
        help="questions that are answered, written and, after a loss, done again together (default: "
        f"{SHARD_BATCHES} batches)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Answer and write; every input is checked before the model is loaded."""
    _check_choice(args)
    folder: Path | None = args.out if args.out is not None or args.json else DEFAULT_OUT
    if folder is None:
        return _answer(args, None)
    from ullava.run_lock import hold

    with hold(folder):
        return _answer_on_ray(args, folder) if args.engine == "ray" else _answer(args, folder)


def _answer(args: argparse.Namespace, folder: Path | None) -> int:
    from ullava.config.candidates import CandidatesConfig
    from ullava.inference.answering import answer_all, answer_one
    from ullava.inference.batch import check_images, check_rows, read_questions
    from ullava.inference.clip_masks import ClipChoice
    from ullava.inference.load import load, weights_folder

    weights_folder(args.model)
    overrides, generation = _overrides(args.override), generation_of(args)
    candidates = None if args.candidates is None else CandidatesConfig.read(args.candidates, args.choose or "judge")
    questions = read_questions(args.input) if args.input else _asked(args)
    sizes = check_images(questions)
    choice = ClipChoice(args.clip_masks, args.prompt_frame)
    if args.prompt_frame is not None:
        for video in dict.fromkeys(path for question in questions for path in question.videos):
            choice.check_clip(video)
    loaded = load(args.model, **loading_of(args), runtime=args.runtime)
    loaded.check_length(args.max_new_tokens)
    choice.settled(loaded.model)
    loaded.overrides = overrides
    check_rows(loaded.processor, questions, sizes, overrides)
    predictor: Any = loaded
    if candidates is not None:
        from ullava.inference.candidates import choosing

        predictor = choosing(loaded, candidates, weights_folder(args.model))
    if args.boxes is not None or args.detector is not None:
        from ullava.inference.box_sources import with_boxes

        predictor = with_boxes(predictor, args.boxes, args.detector, args.classes)
    settings = _settings(args, generation, overrides)
    show = _print_json if args.json else _print_words
    if args.stream:
        predictor, show = _Speaking(loaded), _print_objects
    if args.input is None and len(questions) == 1:
        show(answer_one(predictor, questions[0], folder, settings))
        written = "answer.json" + (" and overlay.png" if questions[0].images else "")
    else:
        answer_all(predictor, questions, folder, settings, args.batch_size, show, not args.no_overlays)
        written = _several(args)
    if folder is not None and not args.json:
        print(f"\nwritten: {written} in {folder}")
    return 0


def _answer_on_ray(args: argparse.Namespace, folder: Path) -> int:
    """Answer on a cluster; images are checked by the workers, before any of them answers."""
    from ullava.inference.batch import read_questions
    from ullava.inference.crew import answer_on_cluster
    from ullava.inference.load import weights_folder
    from ullava.inference.shard_worker import Order
    from ullava.ray_cluster import import_ray

    cluster = cluster_of(args)
    import_ray(cluster)
    weights_folder(args.model)
    overrides, generation = _overrides(args.override), generation_of(args)
    questions = read_questions(args.input) if args.input else _asked(args)
    order = Order(
        model=args.model,
        here=Path.cwd(),
        out=folder.absolute(),
        settings=_settings(args, generation, overrides),
        overrides=overrides,
        batch_size=args.batch_size,
        loading={**loading_of(args), "runtime": args.runtime},
        boxes=args.boxes,
        detector=args.detector,
        classes=args.classes,
        draw=not args.no_overlays,
    )
    shard_size = args.shard_size or SHARD_BATCHES * args.batch_size
    answer_on_cluster(order, questions, shard_size, cluster, args.workers)
    print(f"written: {_several(args)} in {folder}")
    return 0


def _asked(args: argparse.Namespace) -> list[Any]:
    """The questions of --prompt, with what --region points at."""
    from ullava.geometry.region_prompts import as_region
    from ullava.inference.batch import one_prompt

    regions = []
    for text in args.region:
        try:
            regions.append(as_region([float(number) for number in text.split(",")]))
        except (ValueError, UserError) as error:
            reason = error if isinstance(error, UserError) else "is not four numbers X1,Y1,X2,Y2"
            raise UserError(f"--region '{text}' {reason}") from error
    return one_prompt(args.image, args.prompt[0], args.video, tuple(regions))


def _several(args: argparse.Namespace) -> str:
    return "answers.jsonl" if args.no_overlays else "answers.jsonl and overlays"


def _settings(args: argparse.Namespace, generation: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return what every record says about how it came to be."""
    settings = {"model": args.model, **generation}
    clips = {"clip_masks": args.clip_masks, "prompt_frame": args.prompt_frame}
    settings |= {key: value for key, value in clips.items() if value is not None}
    chosen = {"candidates": args.candidates, "choose": args.choose}
    settings |= {key: value for key, value in chosen.items() if value is not None}
    if args.boxes is not None:
        settings["boxes"] = str(args.boxes)
    elif args.detector is not None:
        settings["boxes"] = f"{args.detector}: {args.classes}"
    settings |= {"overrides": overrides} if overrides else {}
    return settings | ({"quantize": args.quantize} if args.quantize else {})


def _overrides(given: Sequence[str]) -> dict[str, Any]:
    """``key=value`` with YAML values -> overrides of the vision encoder, which checks their names itself."""
    from ullava.config.nodes import parse_value

    made: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--override '{text}': expected key=value")
        made[key.strip()] = parse_value(value, "--override").value
        if isinstance(made[key.strip()], dict | list):
            raise UserError(f"--override '{text}': expected one number or word")
    return made


def _check_choice(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other or lead nowhere."""
    check_ray(args, RAY_FLAGS)
    if args.engine == "ray" and (args.json or args.stream):
        raise UserError("--engine ray writes its answers into --out; leave --json and --stream out")
    if args.choose is not None and args.candidates is None:
        raise UserError("--choose goes with --candidates: what is chosen from")
    if args.candidates is not None and (args.stream or args.engine == "ray" or args.runtime != "torch"):
        raise UserError("--candidates goes without --stream, --engine ray and --runtime onnx or openvino")
    if args.boxes is not None and args.detector is not None:
        raise UserError("--boxes and --detector both say where boxes come from; give one of them")
    if (args.detector is None) != (args.classes is None):
        raise UserError("--detector and --classes go together: what looks, and what for")
    if args.stream and (args.json or args.input is not None or len(args.image) + len(args.video) > 1):
        raise UserError("--stream prints the words of one answer: leave --json, --input and further files out")
    if args.stream and (args.boxes is not None or args.detector is not None):
        raise UserError("--stream goes without --boxes and --detector")
    if args.boxes is not None:
        check_plain(args.boxes)
    if (args.clip_masks or args.prompt_frame is not None) and not args.video and args.input is None:
        raise UserError("--clip-masks and --prompt-frame are of videos: give --video FILE, or --input FILE.jsonl")
    if args.input is not None and (args.image or args.video or args.prompt is not None or args.region):
        raise UserError("--input brings its own images and prompts; leave --image, --video, --prompt and --region out")
    if args.region and (len(args.image) != 1 or args.video):
        raise UserError("--region points into one --image; regions of several images go into --input FILE.jsonl")
    if args.input is None and args.prompt is None:
        raise UserError("nothing to ask: give --prompt TEXT (with --image or --video FILE), or --input FILE.jsonl")
    if args.prompt is not None and len(args.prompt) > 1:
        raise UserError(f"--prompt is given {len(args.prompt)} times; several questions go into --input FILE.jsonl")


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, ensure_ascii=False), flush=True)


def _print_words(record: dict[str, Any]) -> None:
    """Print an answer for a person: the words, then one line for each object."""
    from tqdm import tqdm

    lines = [f"{record['id']}: {record['plain_text']}" + ("" if record["finished"] else " ... (cut off)")]
    tqdm.write("\n".join([*lines, *object_lines(record, len(record["images"]) > 1)]))


def _print_objects(record: dict[str, Any]) -> None:
    """Print what comes behind words that were printed already."""
    print("\n".join(["" if record["finished"] else " ... (cut off)", *object_lines(record, several=False)]))


def object_lines(record: Mapping[str, Any], several: bool) -> list[str]:
    """One line for each object of a record, and for what it did not find; ``several``: there is more than one image."""
    lines = []
    for number, item in enumerate(record["objects"], start=1):
        box = item["box_xyxy_px"]
        place = "no box" if box is None else "box " + " ".join(f"{value:.0f}" for value in box)
        image = f", image {item['image'] + 1}" if several else ""
        mask = "" if item["mask"] is None else ", mask"
        if "masks" in item:
            counts = item["masks"]["counts"]
            place, image = f"in {sum(code is not None for code in counts)} of {len(counts)} frames", ""
        lines.append(f"  {number}. {item['phrase'] or 'object'}  score {item['score']:.2f}, {place}{mask}{image}")
    return lines + [f"  not in the image: {phrase or 'object'}" for phrase in record.get("not_found", ())]


class _Speaking:
    """A predictor of one question, whose words are printed as they come."""

    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor

    def answer_samples(self, samples: Sequence[Any], **options: Any) -> list[Any]:
        """See Predictor."""
        (sample,) = samples
        *_, answer = (self._said(piece) for piece in self.predictor.stream_sample(sample, **options))
        return [answer]

    def _said(self, piece: Any) -> Any:
        if isinstance(piece, str):
            print(piece, end="", flush=True)
        return piece
