"""Our models in VLMEvalKit (package ``vlmeval``): ``ullava vlmeval --model tiny --data MME``, or in one's own program

    from ullava.plugins.vlmeval import register
    register("tiny")                  # is then in vlmeval.config.supported_VLM as "ullava-tiny"

A message of VLMEvalKit is a list of {"type": "image" or "text", "value": ...}; the answer is a text. Benchmarks of the
type GROUNDING (RefCOCO) are given a box in fractions of the image.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from ullava.errors import UserError
from ullava.plugins.harness import Options, answer_all, asked_of

try:
    from vlmeval.dataset import DATASET_TYPE
    from vlmeval.vlm.base import BaseModel
except ImportError as error:
    raise UserError(
        f"the model for VLMEvalKit needs the package vlmeval: pip install 'ullava[vlmeval]' ({error})"
    ) from error

GROUNDING = "GROUNDING"
STATUS = "status.json"
"""What VLMEvalKit writes beside the results: how each benchmark ended."""


class Ullava(BaseModel):
    """The model class. ``model_path``: a name, a folder or a Hub id; ``options``: those of ``harness.Options``.

    Several images are passed on in their places. Raises UserError: no such model, an unknown option.
    """

    INTERLEAVE = True
    allowed_types = ["text", "image", "video"]

    def __init__(
        self,
        model_path: str = "tiny",
        *,
        device: str = "auto",
        dtype: str = "auto",
        predictor: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = Options(**options)
        if predictor is None:
            from ullava.evaluation.run import own_device
            from ullava.inference.load import load

            predictor = load(model_path, device=own_device(device), dtype=dtype)
        self.predictor = predictor

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """Answer one message. Raises UserError: it asks nothing, an image that cannot be read."""
        return self.chat_inner(conversation(message), dataset)

    def chat_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """Answer the last of several turns: {"role", "content": a message of the other kind}."""
        form = "box" if self.options.answer == "auto" and is_grounding(dataset) else None
        asked = asked_of(message, self.options, form)
        generation = {"max_new_tokens": self.options.max_new_tokens}
        ((text, _),) = answer_all(self.predictor, [asked], self.options, generation)
        return text


def conversation(message: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a message as turns: parts may say whose they are (``role``), the user's otherwise."""
    turns: list[dict[str, Any]] = []
    for part in message:
        role = part.get("role") or "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"].append(part)
    return turns


@cache
def is_grounding(dataset: str | None) -> bool:
    """Whether VLMEvalKit reads boxes out of the answers on this benchmark."""
    return dataset is not None and DATASET_TYPE(dataset, default="") == GROUNDING


def label_of(model: str) -> str:
    """Return how a model is called in VLMEvalKit: it becomes part of the names of files."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(Path(model).parts[-2:])).strip("-.")
    return f"ullava-{kept or 'model'}"


def register(model: str, label: str | None = None, **settings: Any) -> str:
    """Put a model into ``vlmeval.config.supported_VLM``; return its name there. ``settings``: arguments of ``Ullava``.

    It is loaded when VLMEvalKit asks for it. Raises UserError: no such model, an unknown option.
    """
    from vlmeval.config import supported_VLM

    from ullava.inference.load import weights_folder

    weights_folder(model)
    Options(**{name: value for name, value in settings.items() if name not in ("device", "dtype")})
    name = label or label_of(model)
    supported_VLM[name] = partial(Ullava, model, **settings)
    return name


def run(model: str, data: Sequence[str], out: Path, further: Sequence[str] = (), **settings: Any) -> dict[str, Any]:
    """Run VLMEvalKit's own program on a model; return what its ``status.json`` says of each benchmark.

    ``further``: its own options as words of its command line. Raises UserError: a benchmark that ended with an error
    (VLMEvalKit goes on with the next, and ends well).
    """
    from vlmeval.run import main

    name = register(model, **settings)
    before = sys.argv
    sys.argv = ["run.py", "--data", *data, "--model", name, "--work-dir", str(out), *further]
    try:
        main()
    finally:
        sys.argv = before
    told = out / name / STATUS
    found: dict[str, Any] = json.loads(told.read_text("utf-8")) if told.is_file() else {}
    problems = problems_of(found, data)
    if problems:
        raise UserError(problems)
    return found


def problems_of(status: Mapping[str, Any], data: Sequence[str]) -> list[str]:
    """Return a line for each benchmark that did not end well by ``status.json``; a benchmark not in there is one."""
    entries = status.get("datasets", {})
    problems = []
    for name in data:
        entry = entries.get(name, {})
        if entry.get("error_message"):
            problems.append(f"{name}: {str(entry['error_message']).splitlines()[0]}")
        elif entry.get("skip_reason") == "invalid_dataset":
            problems.append(
                f"{name}: VLMEvalKit has no benchmark of that name, and no file {name}.tsv with a column 'question' is "
                "in the folder that LMUData names"
            )
        elif not entry:
            problems.append(f"{name}: VLMEvalKit ended before it; what it said stands above")
    return problems
