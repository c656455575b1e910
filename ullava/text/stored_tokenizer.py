"""Opening the folder of a tokenizer with transformers, whatever kind of file it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ullava.errors import UserError

LLAMA_FILE = "tokenizer.model"
WHAT_IT_HOLDS = "tokenizer.json, tokenizer.model, vocab.json or vocab.txt"


def open_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in ``folder``.

    Raises:
        UserError: there is none, it is damaged, or a library is missing that its kind of file needs.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise UserError(f"{folder}: {_reason(folder, error)}") from error


def _reason(folder: Path, error: BaseException) -> str:
    told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if "tiktoken" in told and (folder / LLAMA_FILE).is_file():
        return (
            f"{LLAMA_FILE} is no sentencepiece model; if it is tiktoken's (Llama 3), name a folder with the "
            "tokenizer.json of that model, or `pip install tiktoken`"
        )
    if "backend tokenizer" in told:
        return f"no tokenizer can be read here; such a folder holds {WHAT_IT_HOLDS}"
    return f"no tokenizer can be read here ({told})"
