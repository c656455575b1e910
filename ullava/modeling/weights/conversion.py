"""What ``ullava convert`` does: foreign or pickled weights in, a folder of safetensors and a report out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from ullava.atomic_write import whole_folder
from ullava.config.schema import ModelConfig
from ullava.errors import UserError, WeightsError
from ullava.modeling.construction.build import build_model
from ullava.modeling.loading.strict_loading import load_strict
from ullava.modeling.loading.weight_files import prefix_hint, read_pickled_or_safe, weight_files
from ullava.run_lock import hold

REPORT = "conversion.json"
WRITTEN = ("*.safetensors", "graphs/*")
"""Files of a written folder that hold weights."""
OLD_BUFFERS = ("*.rotary_emb.inv_freq", "*.embeddings.position_ids")
"""Tables that older libraries saved and newer ones compute; a checkpoint may hold them, a model does not need them."""


def convert_checkpoint(source: Path, config: ModelConfig, model_folder: Path, out: Path) -> Path:
    """Put a state dict in our own layout into the model of ``model.yaml`` and save that for ``ullava.load``.

    Args:
        source: ``.pth``, ``.bin`` or ``.safetensors`` file, or a folder with an index.
        config: the model; relative paths in it start at ``model_folder``.
        out: folder to make; must not hold anything yet.

    Raises:
        WeightsError: the file is unsafe or unreadable, or any key is missing, unexpected or mis-shaped.
    """

    def write(folder: Path) -> dict[str, Any]:
        model, processor = build_model(config, model_folder)
        load_strict(model, read_pickled_or_safe(source), OLD_BUFFERS)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return {"kind": "checkpoint", "model": config.name, "parameters": model.num_parameters()}

    return write_folder(out, source, write)


def write_folder(
    out: Path, source: Path, write: Callable[[Path], dict[str, Any]], files: Sequence[Path] | None = None
) -> Path:
    """Let ``write`` fill a new folder ``out`` and put its report there, with hashes of all files of weights.

    ``files``: what ``source`` consists of, where that is no usual file of weights.

    Raises:
        UserError: ``out`` holds something already; whatever ``write`` raises, with no folder left behind. Each problem
            of the weights names ``source``.
    """
    given = files or weight_files(source)
    with new_folder(out) as folder:
        inputs = [_fingerprint(file) for file in given]
        try:
            report = write(folder)
        except WeightsError as error:
            named = [problem if str(source) in problem else f"{source}: {problem}" for problem in error.problems]
            # The names are read again only here, where a prefix of a wrapper may be what is wrong with all of them.
            hint = "" if files or not _names_fail(error) else prefix_hint(read_pickled_or_safe(source).keys())
            raise WeightsError([*([f"{source}: {hint}"] if hint else []), *named]) from error
        report["inputs"] = inputs
        report["outputs"] = [_fingerprint(file) for kind in WRITTEN for file in sorted(folder.glob(kind))]
        report["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return out


def _names_fail(error: WeightsError) -> bool:
    return any(problem.startswith(("missing: ", "unexpected: ")) for problem in error.problems)


def print_report(out: Path) -> None:
    """Print what a conversion's report says, one line for each entry, with the hash of every written weight file."""
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    print(f"{out}: weights and {out / REPORT}")
    for key, value in report.items():
        if key in ("inputs", "outputs"):
            for entry in value:
                print(f"  {key[:-1]} {entry['file']}: {entry['bytes']:,} bytes, sha256 {entry['sha256']}")
        elif isinstance(value, list):
            print(f"  {key}: {', '.join(map(str, value)) or 'nothing'}")
        elif not isinstance(value, dict):
            print(f"  {key}: {value:,}" if isinstance(value, int) else f"  {key}: {value}")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``out`` that becomes ``out`` at the end, or vanishes if something goes wrong.

    Raises:
        UserError: ``out`` holds something already, another process is making it, or its place cannot be written.
    """
    with hold(out, beside=True):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is there already; name a new folder")
        with whole_folder(out) as temporary:
            yield temporary


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)}


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
