"""The trainer's side of a batch: unusable rows set aside, targets told apart from what the network reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ullava.data.encode import BadSample
from ullava.errors import UserError
from ullava.text.tokens import IGNORE_LABEL
from ullava.training.objective import Counts, Targets

TARGET_KEYS = frozenset({"mask_targets", "boxes_xyxy_head", "original_sizes", "names", "bad_samples"})


class TrainingCollator:
    """Collate the usable rows; a batch without any holds ``bad_samples`` alone (an exception would lose names)."""

    def __init__(self, collate: Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return the batch of ``rows`` (Example or BadSample each)."""
        bad = [row for row in rows if isinstance(row, BadSample)]
        usable = [row for row in rows if not isinstance(row, BadSample)]
        batch = self.collate(usable) if usable else {}
        batch["bad_samples"] = bad
        return batch


@contextmanager
def loading() -> Iterator[None]:
    """Say in one line that a loader's worker was killed; torch raises RuntimeError. UserError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"reading the data ended early ({reason}); is the memory used up? lower training.dataloader_num_workers"
        ) from error


def is_empty(batch: Mapping[str, Any]) -> bool:
    """Return whether no row of the batch was usable."""
    return "input_ids" not in batch


def network_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``forward`` reads."""
    return {key: value for key, value in batch.items() if key not in TARGET_KEYS}


def targets_of(batch: Mapping[str, Any]) -> Targets:
    """Return what the criterion reads, beside the labels that the network hands on."""
    return Targets(batch["mask_targets"], batch["boxes_xyxy_head"], len(batch.get("image_index", ())))


def counts_of(batch: Mapping[str, Any]) -> Counts:
    """Count what a batch supervises; of the labels, the first of a row predicts nothing."""
    tokens = int((batch["labels"][:, 1:] != IGNORE_LABEL).sum())
    patches = int((batch["patch_words"] != IGNORE_LABEL).any(dim=-1).sum()) if "patch_words" in batch else 0
    pictures = len(batch.get("image_index", ()))
    return Counts(tokens, len(batch["mask_targets"]), len(batch["boxes_xyxy_head"]), patches, pictures)
