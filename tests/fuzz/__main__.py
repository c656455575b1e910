"""``python -m tests.fuzz --inputs 1500 --seed 0``: seeded damage to sound input, at every door of the program.

Prints a table by door and every finding with the command that makes it again; exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.cases import Verdict
from tests.fuzz.worker import door_module, prepare, run_input

from ullava.errors import UserError

DOORS = (
    "command_line", "recipes", "overrides", "model_yaml", "dataset_yaml", "coco", "labelme", "masks", "refs", "records",
    "llava", "boxes", "jsonl", "prompts", "images", "videos", "clips", "folders", "saved", "convert", "train",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 where nothing was found."""
    args = _arguments(argv)
    # Threads do not outlive a fork, and what they hold stays held; and no input may reach for the network.
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"ARROW_DEFAULT_MEMORY_POOL": "system", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    doors = _doors(args)
    with tempfile.TemporaryDirectory(prefix="ullava-fuzz-") as temporary:
        work = (args.keep or Path(temporary)).absolute()
        _prepare(work, list(doors))
        begun = time.perf_counter()
        verdicts = [
            _reported(run_input(door, number, args.seed, work, keep=args.keep is not None), args)
            for door, numbers in doors.items()
            for number in numbers
        ]
        seconds = time.perf_counter() - begun
    print(table(verdicts, seconds))
    if args.json:
        args.json.write_text(json.dumps(summary(verdicts, args.seed, seconds), indent=2) + "\n", encoding="utf-8")
    return 1 if any(verdict.findings for verdict in verdicts) else 0


def counts(inputs: int, doors: Sequence[str]) -> dict[str, int]:
    """Deal a number of inputs out to doors by their shares; every door gets at least one."""
    shares = {door: door_module(door).SHARE for door in doors}
    whole = sum(shares.values())
    return {door: max(1, -(-inputs * share // whole)) for door, share in shares.items()}


def table(verdicts: Sequence[Verdict], seconds: float) -> str:
    """A line for each door and one for all."""
    rows = [("door", "inputs", "accepted", "refused", "findings", "seconds")]
    doors = list(dict.fromkeys(verdict.door for verdict in verdicts))
    for door in [*doors, "all"]:
        own = [verdict for verdict in verdicts if door in (verdict.door, "all")]
        found = Counter(verdict.status for verdict in own)
        figures = (len(own), found["accepted"], found["refused"], found["finding"])
        took = seconds if door == "all" else sum(verdict.seconds for verdict in own)
        rows.append((door, *map(str, figures), f"{took:.0f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def summary(verdicts: Sequence[Verdict], seed: int, seconds: float) -> dict[str, object]:
    """What ``--json`` writes."""
    listed = [
        {"only": f"{v.door}:{v.number}", "findings": v.findings, "what": v.what, "argv": v.argv}
        for v in verdicts
        if v.findings
    ]
    status = {door: Counter(v.status for v in verdicts if v.door == door) for door in {v.door for v in verdicts}}
    return {"seed": seed, "inputs": len(verdicts), "seconds": round(seconds), "doors": status, "findings": listed}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1500, help="how many, dealt out to the doors (default 1500)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs (default 0)")
    parser.add_argument("--door", action="append", choices=DOORS, help="this door alone; may be given several times")
    parser.add_argument("--only", metavar="DOOR:NUMBER", help="one input again, with all that it prints")
    parser.add_argument("--every", action="store_true", help="a line for every input: what was done, what was said")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep material and inputs in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and findings there")
    return parser.parse_args(argv)


def _doors(args: argparse.Namespace) -> dict[str, range]:
    if args.only:
        door, _, number = args.only.partition(":")
        if door not in DOORS or not number.isdecimal():
            sys.exit(f"--only {args.only}: expected DOOR:NUMBER; doors: {', '.join(DOORS)}")
        return {door: range(int(number), int(number) + 1)}
    return {door: range(count) for door, count in counts(args.inputs, args.door or DOORS).items()}


def _prepare(work: Path, doors: Sequence[str]) -> None:
    """Write what is missing of the sound material, and load what every input would load."""
    from tests.fuzz.material import prepare_shared, share_loaded_model
    from tqdm import tqdm

    import ullava

    tqdm.monitor_interval = 0
    for module in pkgutil.walk_packages(ullava.__path__, "ullava."):
        with contextlib.suppress(UserError, ModuleNotFoundError):  # whose package is an extra
            importlib.import_module(module.name)
    for name in ["shared", *doors]:
        folder = work / "base" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            prepare(door_module(name).prepare if name != "shared" else prepare_shared, folder)
    share_loaded_model(work / "base" / "shared" / "weights")
    assert len(os.listdir("/proc/self/task")) == 1, "a thread is running: forked processes would hang now and then"


def _reported(verdict: Verdict, args: argparse.Namespace) -> Verdict:
    """Print the findings of one input (of ``--only`` everything) as they come."""
    name = f"{verdict.door}:{verdict.number}"
    if args.every:
        print(f"{name}: {verdict.status} in {verdict.seconds:.2f} s [{verdict.what}] {verdict.said}", flush=True)
    for kind, detail in verdict.findings:
        print(f"{name}: {kind}: {detail}  [{verdict.what}]", flush=True)
    if args.only:
        print(f"{name}: {verdict.status}; {verdict.what}\n  ullava {' '.join(verdict.argv)}")
        folder = (args.keep / "inputs" / f"{verdict.door}-{verdict.number}") if args.keep else None
        for text in ("out", "err") if folder else ():
            print(f"--- {text}\n{(folder / text).read_text(errors='replace')[-6000:]}")
    elif verdict.findings:
        print(f"    again: python -m tests.fuzz --seed {args.seed} --only {name} --keep DIR", flush=True)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
