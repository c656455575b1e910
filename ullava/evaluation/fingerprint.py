"""Short names for what an evaluation ran on, so that it is never continued with something else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ullava.data.annotations.store import AnnotationStore
from ullava.data.readers.base import Reader, TaskDataset
from ullava.data.readers.boxes import BoxedDataset, reader_of

_SAMPLED = 64
"""Values looked at in each parameter; training changes nearly all of them."""


def model_identity(predictor: Any) -> str:
    """Hash the names, shapes and evenly spread values of a predictor's parameters and buffers.

    What has no ``model`` (a stand-in) is known by its ``name``.
    """
    model = getattr(predictor, "model", None)
    if model is None:
        name = str(getattr(predictor, "name", type(predictor).__name__))
        return hashlib.sha256(name.encode()).hexdigest()[:20]
    return network_identity(model)


def network_identity(model: Any) -> str:
    """Hash the names, shapes and evenly spread values of a network's parameters and buffers."""
    import torch

    digest = hashlib.sha256()
    # Not state_dict(): under FSDP2 that gives the weights out in shares, even where a process has them all.
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda pair: pair[0]):
        flat = tensor.detach().reshape(-1)
        places = torch.linspace(0, max(flat.numel() - 1, 0), min(_SAMPLED, flat.numel()), dtype=torch.float64)
        values = flat[places.long().to(flat.device)].to(torch.float32).cpu().numpy()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:20]


def judge_identity(predictor: Any) -> str | None:
    """Hash the judge of a predictor that chooses among candidates; None where a rule does."""
    judge = getattr(predictor, "judge", None)
    return None if judge is None else network_identity(judge)


def dataset_identity(dataset: TaskDataset) -> str:
    """Hash the annotation file of a data set (and that of its boxes); others are known by id, split and length.

    Of annotations in a folder, what was read in it.
    """
    reader = reader_of(dataset)
    if isinstance(reader, Reader):
        store = reader.origin.store
        own = _records_hash(store) if store.source.is_dir() else _file_hash(store.source)
        return own if not isinstance(dataset, BoxedDataset) else f"{own}+{_file_hash(dataset.boxes.path)}"
    return hashlib.sha256(f"{dataset.id}/{dataset.split}/{len(dataset)}".encode()).hexdigest()[:20]


def _records_hash(store: AnnotationStore) -> str:
    digest = hashlib.sha256()
    for number in range(len(store)):
        digest.update(json.dumps(store.record(number), sort_keys=True).encode())
    return digest.hexdigest()[:20]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:20]
