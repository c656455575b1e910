"""Where a model, a part or a tokenizer is that somebody names: in a folder of this machine, or on the Hugging Face Hub.

A path that is there is a folder. Else ``org/name`` is an id of the Hub, and ``org/name@revision`` one at a branch, tag
or commit. A name that fits neither is an error with the nearest folder. Where the first word of ``org/name`` is a
folder itself, a path was meant: a misspelt path must not become a stranger's model.

The Hub's own library keeps what it fetched in its cache (``HF_HOME``), and reads from there without a network or with
``HF_HUB_OFFLINE=1``. No Python of a repository is fetched. Nothing heavy is imported here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from ullava.errors import ConfigError, HubUnreachableError, UserError, did_you_mean

MAIN = "main"
DESCRIPTION = ("*.json", "*.jinja", "*.model", "*.txt")
"""Config, tokenizer, templates, and the index of the weights."""
WEIGHTS = ("model.safetensors", "model-*.safetensors")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*.bin")
"""Fetched only where there are no others; they are opened with PyTorch's restricted reader."""
OTHER_FORMS = ("onnx/*", "openvino/*", "original/*", "coreml/*")

_ID = re.compile(r"(?P<org>[A-Za-z0-9][\w.-]*)/(?P<name>[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_CACHED = re.compile(r"models--(?P<org>[^/]+?)--(?P<name>[^/]+)")


def is_hub_id(name: str, base: Path = Path()) -> bool:
    """Return whether ``name`` is an id of the Hub, and not a path that starts at ``base``."""
    found = _ID.fullmatch(name)
    return found is not None and not name.endswith((".yaml", ".yml")) and not (base / found["org"]).is_dir()


def find_folder(name: str, base: Path, where: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """Return the folder that ``name`` means: below ``base``, or what the Hub has under that id at ``revision``.

    ``weights``: fetch them too, not only what describes them. ``where`` begins every message.

    Raises:
        ConfigError: there is no such folder, or a revision of one.
        HubUnreachableError: the Hub cannot be asked, and the cache lacks it.
        UserError: the Hub does not have it, or does not show it.
    """
    path = base / Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f"{where}: {path} is a folder, and has no revision '{revision}'")
        return path
    if path.is_file():
        raise ConfigError(f"{where}: {path} is a file; name the folder that it is in")
    if not is_hub_id(name, base):
        raise ConfigError(f"{where}: no such file or folder: {path}{_nearest(path)}")
    found = _ID.fullmatch(name)
    assert found is not None
    if revision is not None and found["revision"] is not None:
        raise ConfigError(f"{where}: a revision in '{name}' and another beside it ('{revision}')")
    chosen = revision or found["revision"] or MAIN
    try:
        return fetch(f"{found['org']}/{found['name']}", chosen, weights)
    except UserError as error:
        raise type(error)([f"{where}: no folder {path}, and {problem}" for problem in error.problems]) from error


def fetch(repository: str, revision: str, weights: bool) -> Path:
    """Return the folder of the Hub's cache that holds ``repository`` at ``revision``, fetched first where need be.

    Raises UserError, one line that does not say where the name was written.
    """
    from huggingface_hub import constants

    return _fetch(repository, revision, weights, str(constants.HF_HUB_CACHE))


def source_of(folder: Path) -> dict[str, str] | None:
    """Return ``{"path": "org/name", "revision": commit}`` for a folder of the Hub's cache, None for any other."""
    found = _CACHED.fullmatch(folder.parent.parent.name)
    if found is None or folder.parent.name != "snapshots":
        return None
    return {"path": f"{found['org']}/{found['name']}", "revision": folder.name}


def name_of(folder: Path) -> str:
    """Return what ``find_folder`` finds ``folder`` by on another machine too: ``org/name@commit``, or the path."""
    source = source_of(folder)
    return str(folder) if source is None else f"{source['path']}@{source['revision']}"


@lru_cache(maxsize=64)
def _fetch(repository: str, revision: str, weights: bool, cache: str) -> Path:
    """One look-up for each name and process, so that a model is of one revision throughout."""
    folder = _snapshot(repository, revision, cache, (*DESCRIPTION, *(WEIGHTS if weights else ())))
    if weights and not _has(folder, WEIGHTS):
        folder = _snapshot(repository, revision, cache, (*DESCRIPTION, *PICKLED_WEIGHTS))
        if not _has(folder, PICKLED_WEIGHTS):
            raise UserError(
                f"'{repository}' has no weights in transformers' form (model.safetensors), on the Hub or in {folder}"
            )
    return folder


def _has(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _snapshot(repository: str, revision: str, cache: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import errors, snapshot_download

    id_ = f"'{repository}'"
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache,
                allow_patterns=list(patterns),
                ignore_patterns=list(OTHER_FORMS),
            )
        )
    except errors.GatedRepoError as error:
        raise UserError(f"{id_} is gated on the Hub: accept its terms on its page, then `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"the Hub has no {id_}; if it is private, `hf auth login` first") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{id_} has no revision '{revision}' on the Hub") from error
    except errors.LocalEntryNotFoundError as error:
        missing = f"{id_} at '{revision}' is not (whole) in the cache {cache}"
        raise HubUnreachableError(f"{missing}, and {_why(error)}") from error
    except errors.HfHubHTTPError as error:
        raise UserError(f"the Hub does not give {id_}: it {_answered(error.response.status_code)}") from error
    except (errors.HFValidationError, errors.HTTPError, OSError) as error:  # HTTPError: of the library's HTTP client
        raise UserError(f"{id_} cannot be fetched from the Hub: {' '.join(str(error).split())[:200]}") from error


def _why(error: BaseException) -> str:
    """Say why the Hub was not asked, or not reached."""
    from huggingface_hub import constants, errors

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE forbids to ask the Hub"
    if isinstance(error.__cause__, errors.GatedRepoError):
        return "it is gated on the Hub: accept its terms on its page, then `hf auth login`"
    if isinstance(error.__cause__, errors.HfHubHTTPError):
        return f"the Hub {_answered(error.__cause__.response.status_code)}"
    return "the Hub cannot be reached"


def _answered(status: int) -> str:
    return f"answers {status}" + ("; if it is private or gated, `hf auth login` first" if status in (401, 403) else "")


def _nearest(path: Path) -> str:
    """Name the most similar folder beside a missing one."""
    parent = path.parent
    if not parent.is_dir():
        return ""
    hint = did_you_mean(path.name, [entry.name for entry in parent.iterdir() if entry.is_dir()])
    return hint if "did you mean" in hint else ""
