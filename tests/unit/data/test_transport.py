"""A batch that crosses from a worker is the batch that was made, and crosses in one block."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ullava.data.transport import ALIGNMENT, Batch, pack, unpack


def _batch() -> Batch:
    mask = (torch.arange(35).view(5, 7) % 3 == 0).to(torch.uint8)
    return Batch(
        input_ids=torch.arange(12).view(3, 4),
        pixel_values=torch.arange(30, dtype=torch.uint8).view(2, 3, 5).transpose(1, 2),
        scale=torch.tensor(0.5),
        boxes_xyxy_head=torch.zeros(0, 4),
        flags=torch.tensor([True, False, True]),
        mask_targets=[mask, mask, torch.ones(2, 2, dtype=torch.uint8)],
        names=["a", "b"],
        bad_samples=[],
    )


def _same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        values, others = (value, other[key]) if isinstance(value, list) else ([value], [other[key]])
        assert len(values) == len(others)
        for left, right in zip(values, others, strict=True):
            if isinstance(left, torch.Tensor):
                assert left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right), key
            else:
                assert left == right


class Numbers(Dataset[int]):
    """Positions."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, position: int) -> int:
        return position


def make(_: Sequence[int]) -> Batch:
    """The collator of the workers."""
    return _batch()


def test_a_batch_from_a_worker_is_the_one_that_was_made() -> None:
    for received in DataLoader(Numbers(), batch_size=1, num_workers=1, collate_fn=make):
        assert type(received) is dict
        _same(received, _batch())
        first, again, other = received["mask_targets"]
        assert first is again and first is not other


def test_only_one_block_of_memory_crosses() -> None:
    seen: list[torch.Tensor] = []

    class Counting(ForkingPickler):  # type: ignore[misc]
        """Notes the tensors that torch would move by themselves."""

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                seen.append(value)
            return NotImplemented

    Counting(io.BytesIO()).dump(_batch())
    assert len(seen) == 1 and seen[0].is_shared()


def test_tensors_lie_aligned_and_share_the_block() -> None:
    tensors = [torch.arange(3, dtype=torch.uint8), torch.arange(5.0), torch.zeros(0, 2), torch.tensor(True)]
    block, layout = pack(tensors)
    assert [start for _, _, start in layout] == [0, ALIGNMENT, 2 * ALIGNMENT, 2 * ALIGNMENT]
    back = unpack(block, layout)
    assert all(torch.equal(left, right) for left, right in zip(tensors, back, strict=True))
    back[0][0] = 9
    assert block[0] == 9


def test_copying_a_batch_in_this_process_moves_nothing() -> None:
    batch = _batch()
    assert copy.copy(batch)["input_ids"] is batch["input_ids"]
