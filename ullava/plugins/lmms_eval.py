"""Our models in lmms-eval: ``python -m lmms_eval --model ullava --model_args pretrained=tiny --tasks ...``.

The entry point ``lmms_eval.models`` of the installed project names ``manifest``, which lmms-eval calls when it begins.
The tasks that measure masks are in ``tasks_folder()``, which is its ``--include_path``. The model itself is in
ullava.plugins.lmms_eval_model.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ullava.errors import UserError

MODEL = "ullava"
"""The name after ``--model``."""


def manifest() -> Any:
    """Return the ``ModelManifest`` that tells lmms-eval where the model is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL, chat_class_path="ullava.plugins.lmms_eval_model.Ullava")


def tasks_folder() -> Path:
    """Return the folder of our task files: what ``--include_path`` of lmms-eval takes."""
    return Path(str(files("ullava.plugins") / "lmms_eval_tasks"))


def check_installed() -> None:
    """Raise UserError where lmms-eval is missing."""
    if find_spec("lmms_eval") is None:
        raise UserError("this needs lmms-eval: pip install 'ullava[lmms-eval]'")
