"""``ullava lmms-eval``: lmms-eval on one of our models, and our own datasets as tasks of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ullava.atomic_write import make_folder, whole_folder, write_whole
from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.errors import ConfigError, UserError, did_you_mean
from ullava.plugins.lmms_eval import MODEL, check_installed, tasks_folder


def local_task(dataset: str, entry: DatasetEntry, data_root: Path, folder: Path) -> str:
    """Write one of our datasets as documents, and a task file for it, into ``folder``; return the task's name.

    Raises UserError: no such dataset or split, a split left open, a task family without a task file, a sample that
    does not show one image.
    """
    from ullava.data.loading.build import build_dataset
    from ullava.evaluation.run import check_entries
    from ullava.evaluation.scoring import family_of
    from ullava.plugins.lmms_eval_documents import write_documents
    from ullava.plugins.lmms_eval_scoring import FIGURES

    check_entries(EvalRecipe(dataset={dataset: entry}))
    opened = build_dataset(dataset, entry, data_root)
    family = family_of(opened)
    if family not in FIGURES:
        raise ConfigError(f"{dataset}: lmms-eval is given tasks of {', '.join(FIGURES)}, not {family}; see ullava eval")
    name = f"ullava_{dataset}_{family}_{opened.split}"
    documents = make_folder(folder) / f"{name}.documents"
    with whole_folder(documents) as draft:
        write_documents(opened, draft)
    task = {
        "include": str(tasks_folder() / f"{family}_template"),
        "task": name,
        "dataset_path": str(documents.absolute()),
        "dataset_kwargs": {"load_from_disk": True},
        "test_split": opened.split,
    }
    write_whole(folder / f"{name}.yaml", yaml.safe_dump(task, sort_keys=False))
    return name


def command_line(
    tasks: Sequence[str],
    model_args: Mapping[str, str],
    out: Path,
    further: Sequence[str],
    *,
    include: Path,
    batch_size: int = 1,
) -> list[str]:
    """Return lmms-eval's command. ``include``: the folder of task files. ``further``: its own options, ``name=value``
    or the name of a switch.

    Raises UserError: no task, an option that is given by a flag of ours.
    """
    if not tasks:
        raise UserError("nothing to evaluate on: give --tasks NAME (one of lmms-eval's or ours) or --data DATASET")
    ours = {"model", "tasks", "model_args", "include_path", "output_path", "batch_size", "device"}
    command = [sys.executable, "-m", "lmms_eval", "--model", MODEL]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in model_args.items())]
    command += ["--tasks", ",".join(tasks), "--batch_size", str(batch_size), "--output_path", str(out)]
    command += ["--include_path", str(include)]
    for option in further:
        name, equals, value = option.lstrip("-").partition("=")
        if name in ours:
            raise UserError(f"'{option}': '{name}' is set by the flags of this command (see 'ullava lmms-eval --help')")
        command += [f"--{name}", value] if equals else [f"--{name}"]
    return command


def run(command: Sequence[str], out: Path) -> Path:
    """Run lmms-eval and return the results that it wrote.

    Raises UserError: lmms-eval is missing, or it ended without results (it tells its errors, and ends with 0).
    """
    check_installed()
    before = set(out.rglob("*_results.json"))
    status = subprocess.run(command, check=False).returncode
    written = sorted(set(out.rglob("*_results.json")) - before)
    if status or not written:
        raise UserError(f"lmms-eval ended without results (exit code {status}); what it said stands above")
    return written[-1]


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise UserError for a name that begins as ours do and is none, before anything is loaded."""
    known = sorted(path.stem for path in tasks_folder().glob("*.yaml"))
    wrong = [name for name in tasks if name.startswith("ullava_") and "*" not in name and name not in known]
    if wrong:
        raise UserError([f"'{name}' is not a task of ours{did_you_mean(name, known)}" for name in wrong])
