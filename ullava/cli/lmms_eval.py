"""``ullava lmms-eval``: a model in lmms-eval, on its tasks or on one of our datasets."""

from __future__ import annotations

import argparse
from pathlib import Path

from ullava.cli.generation_flags import positive
from ullava.cli.loading_flags import add_device

HELP = "evaluate a model with lmms-eval, on its tasks, ours (masks, boxes), or one of our datasets"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "options", nargs="*", metavar="OPTION[=VALUE]", help="options of lmms-eval: limit=8 log_samples"
    )
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="a name, a folder or a Hub id (default: tiny)")
    parser.add_argument("--tasks", default="", metavar="NAMES", help="tasks of lmms-eval or ours, between commas")
    parser.add_argument("--data", metavar="DATASET", help="one of our datasets, instead of --tasks")
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    parser.add_argument("--split", metavar="NAME", help="of --data (default: the only one)")
    parser.add_argument("--task", choices=["res", "rec", "salient"], help="of --data (default: that of the dataset)")
    parser.add_argument("--limit-data", type=positive, metavar="N", help="the first N annotations of --data")
    parser.add_argument("--out", type=Path, default=Path("runs/lmms_eval"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="questions answered together (1)")
    add_device(parser)
    parser.add_argument(
        "--max-new-tokens", type=positive, default=128, metavar="N", help="end of an answer (default: 128)"
    )
    parser.add_argument(
        "--tasks-folder", action="store_true", help="print the folder of our task files, and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """Write the documents of ``--data``, run lmms-eval, say where the results are. Raises UserError."""
    from ullava.plugins.lmms_eval import tasks_folder

    if args.tasks_folder:
        print(tasks_folder())
        return 0
    from ullava.errors import UserError
    from ullava.inference.load import weights_folder
    from ullava.plugins import lmms_eval_run
    from ullava.plugins.lmms_eval import check_installed

    if args.data and args.tasks:
        raise UserError("give --tasks or --data, not both")
    check_installed()
    weights_folder(args.model)
    tasks = [name for name in args.tasks.split(",") if name]
    lmms_eval_run.check_tasks(tasks)
    include = tasks_folder()
    if args.data:
        from ullava.config.schema import DatasetEntry

        entry = DatasetEntry(split=args.split, task=args.task, limit=args.limit_data)
        include = args.out / "tasks"
        tasks = [lmms_eval_run.local_task(args.data, entry, args.data_root, include)]
    model_args = {"pretrained": args.model, "device": args.device, "max_new_tokens": str(args.max_new_tokens)}
    command = lmms_eval_run.command_line(
        tasks, model_args, args.out, args.options, include=include, batch_size=args.batch_size
    )
    print(f"\nwritten: {lmms_eval_run.run(command, args.out)}")
    return 0
