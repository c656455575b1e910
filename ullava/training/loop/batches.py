"""The trainer's side of a batch: how it travels through Hugging Face's Trainer, and what it supervises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ullava.batching.transport import Parcel
from ullava.errors import UserError
from ullava.examples import BadSample, Batch, Example
from ullava.text.tokens import IGNORE_LABEL
from ullava.training.optim.base_words import plain_rows
from ullava.training.optim.objective import Counts

KEY = "batch"
"""Where the batch is in the mapping that the Trainer sees."""


class TrainingCollator:
    """Collate rows (Example or BadSample each) into the mapping that the Trainer's loader expects of a collator."""

    def __init__(self, collate: Callable[[Sequence[Example | BadSample]], Batch]) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[Example | BadSample]) -> dict[str, Any]:
        """Return the batch of ``rows`` under ``KEY``, and beside it what the Trainer counts tokens by."""
        batch = self.collate(rows)
        if batch.inputs is None:
            return Parcel({KEY: batch})
        counted = {"input_ids": batch.inputs.input_ids, "attention_mask": batch.inputs.attention_mask}
        return Parcel({KEY: batch, **counted})


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


def batch_of(inputs: Mapping[str, Any]) -> Batch:
    """Return the batch in what the Trainer hands over."""
    batch: Batch = inputs[KEY]
    return batch


def counts_of(batch: Batch, placeholder_ids: Sequence[int] | None = None) -> Counts:
    """Count what a batch supervises; of the labels, the first of a row predicts nothing. No usable row counts as 0.

    ``placeholder_ids``: what stands for images and videos in the text, where rows without them are judged apart.
    """
    if batch.inputs is None or batch.targets is None or batch.inputs.labels is None:
        return Counts(0, 0, 0)
    supervised = batch.inputs.labels[:, 1:] != IGNORE_LABEL
    plain = 0 if placeholder_ids is None else int(supervised[plain_rows(batch.inputs, placeholder_ids)].sum())
    named = batch.inputs.patches
    patches = 0 if named is None else int((named.words != IGNORE_LABEL).any(dim=-1).sum())
    targets = batch.targets
    boxes = len(targets.boxes_xyxy_head)
    return Counts(int(supervised.sum()), len(targets.masks), boxes, patches, targets.images, plain)


def forced(batch: Batch, overrides: Mapping[str, Any]) -> Batch:
    """The batch with overrides of the vision strategy."""
    return (
        batch
        if batch.inputs is None or not overrides
        else replace(batch, inputs=replace(batch.inputs, overrides=overrides))
    )
