"""``ullava bench``: how fast data, training, evaluation, answers, mask heads and serving are; fewer bits beside all."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from ullava.cli.data_shard import FORMATS
from ullava.cli.loading_flags import add_quantize
from ullava.inference.load import RUNTIMES

HELP = "measure the speed of data, training, evaluation, generation, an answer, mask heads or the server"
CLIENTS, REQUESTS = 64, 2000
WHAT = ("data", "train", "eval", "generate", "predict", "quantize", "masks", "cache", "packing", "serve")
OWNERS = {
    "annotations": ("data",),
    "shards": ("data",),
    "in_shards": ("data",),
    "clients": ("serve",),
    "requests": ("serve",),
    "model": ("serve", "predict", "quantize"),
    "quantize": ("predict", "quantize"),
    "world": ("quantize",),
    "image": ("predict",),
    "prompt": ("predict",),
    "runtime": ("predict",),
    "dtype": ("predict",),
    "random_weights": ("predict",),
}
"""Options and the benchmarks that read them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava bench``."""
    parser.add_argument("what", choices=WHAT, help="what to measure")
    parser.add_argument("--preset", choices=("peer", "tiny"), default="peer", help="network sizes (default peer)")
    parser.add_argument("--threads", type=_positive, default=1, help="CPU threads (default 1)")
    parser.add_argument("--repeats", type=_positive, default=5, help="passes, of which the median counts (default 5)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default cpu)")
    parser.add_argument("--sam-sides", type=_positive, nargs="+", metavar="S", help="SAM sizes (default: the preset's)")
    parser.add_argument("--annotations", type=_positive, metavar="N", help="data only: memory held for N annotations")
    parser.add_argument("--shards", type=_positive, metavar="N", help="data only: N rows in shards, opened and read")
    parser.add_argument("--in-shards", choices=FORMATS, help="data only: samples from shards (default: from files)")
    parser.add_argument("--heads", nargs="+", metavar="NAME", help="masks only: which heads (default: all that can be)")
    parser.add_argument("--sizes", action="store_true", help="masks only: count parameters, and measure nothing")
    parser.add_argument("--clients", type=_positive, metavar="N", help=f"serve only: at once (default {CLIENTS})")
    parser.add_argument("--requests", type=_positive, metavar="N", help=f"serve only: together (default {REQUESTS})")
    parser.add_argument("--model", metavar="NAME", help="serve, predict, quantize: which model (default tiny)")
    add_quantize(parser)
    parser.add_argument("--world", type=Path, metavar="DIR", help="quantize only: a drawn world (default: photographs)")
    parser.add_argument("--image", metavar="FILE", help="predict only: which image (default: a photograph of ours)")
    parser.add_argument("--prompt", metavar="TEXT", help="predict only: the question (default: one about a person)")
    parser.add_argument("--runtime", choices=RUNTIMES, help="predict only: what runs the networks (default torch)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="predict only: of the weights")
    parser.add_argument(
        "--random-weights", action="store_const", const=True,
        help="predict only: the model at its true sizes, without its weights; the words of the answer are prescribed",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, every pass and the work included")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from ullava.errors import UserError

    if args.what != "masks" and (args.heads or args.sizes):
        raise UserError("--heads and --sizes belong to 'ullava bench masks'")
    for name, owners in OWNERS.items():
        if getattr(args, name) is not None and args.what not in owners:
            raise UserError(f"--{name.replace('_', '-')} belongs to 'ullava bench {' or '.join(owners)}'")
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    if args.what == "serve":
        from ullava.benchmarks import serving as load

        clients, requests = args.clients or CLIENTS, args.requests or REQUESTS
        told = load.bench_serve(args.model or "tiny", clients, requests, args.threads, args.device)
        print(json.dumps(told, indent=1) if args.json else load.table(told))
        return 0
    if args.what == "predict":
        return _predict(args)
    if args.what == "quantize":
        from ullava.benchmarks import agreement

        told = agreement.bench_quantize(
            args.model or "tiny", args.quantize or "int8", args.world, threads=args.threads, device=args.device
        )
        print(json.dumps(told, indent=1) if args.json else agreement.table(told))
        return 0
    if args.annotations is not None:
        from ullava.benchmarks.data import bench_annotations

        print(json.dumps(bench_annotations(args.annotations, args.threads), indent=1))
        return 0
    if args.shards is not None:
        from ullava.benchmarks.data import bench_shards

        print(json.dumps(bench_shards(args.shards, args.threads), indent=1))
        return 0
    if args.what == "masks":
        return _masks(args)
    if args.what in ("cache", "packing"):
        return _two_ways(args)
    from ullava.benchmarks.run import run_benchmark
    from ullava.benchmarks.timing import table

    report, figures = run_benchmark(
        args.what,
        preset=args.preset,
        threads=args.threads,
        repeats=args.repeats,
        device=args.device,
        sam_sides=args.sam_sides,
        form=args.in_shards,
    )
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print(table(figures))
        print(f"{report['preset']}, {report['threads']} thread(s), {report['device']}: {report['processor']}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    """Load a model, ask it one question several times, and print where the time goes."""
    started = time.perf_counter()
    from ullava.benchmarks import predict

    told = predict.bench_predict(
        args.model or "tiny",
        args.image,
        args.prompt or predict.PROMPT,
        repeats=args.repeats,
        threads=args.threads,
        device=args.device,
        quantize=args.quantize,
        runtime=args.runtime or "torch",
        dtype=args.dtype or "auto",
        random_weights=bool(args.random_weights),
        started=started,
    )
    print(json.dumps(told, indent=1) if args.json else predict.table(told))
    return 0


def _masks(args: argparse.Namespace) -> int:
    """Count the parameters of mask heads, and measure them unless sizes alone are asked for."""
    import torch

    from ullava.benchmarks.mask_heads import HEADS, bench_mask_heads, head_sizes, sizes_table
    from ullava.benchmarks.timing import surroundings, table
    from ullava.inference.devices import pick_device

    torch.set_num_threads(args.threads)
    names = args.heads or [name for name, head in HEADS.items() if head.lacks() is None]
    sizes = head_sizes(names)
    device = pick_device(args.device)
    figures = [] if args.sizes else bench_mask_heads(names, repeats=args.repeats, device=device)
    if args.json:
        report = {"benchmark": "masks", "device": device.type, **surroundings(args.threads, args.repeats)}
        print(json.dumps({**report, "heads": sizes, "results": [figure.to_json() for figure in figures]}, indent=1))
        return 0
    print(sizes_table(sizes))
    if figures:
        print(table(figures))
    return 0


def _two_ways(args: argparse.Namespace) -> int:
    """Measure training with and without what a recipe's ``mask_cache`` or ``packing`` does."""
    from ullava.benchmarks.mask_cache import bench_mask_cache
    from ullava.benchmarks.packing import bench_packing
    from ullava.benchmarks.timing import surroundings, table

    bench = bench_mask_cache if args.what == "cache" else bench_packing
    figures = bench(repeats=args.repeats, threads=args.threads, device=args.device)
    if args.json:
        report = {"benchmark": args.what, **surroundings(args.threads, args.repeats)}
        print(json.dumps({**report, "results": [figure.to_json() for figure in figures]}, indent=1))
    else:
        print(table(figures))
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value
