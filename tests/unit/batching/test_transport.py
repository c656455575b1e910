"""A batch that crosses from a worker is the batch that was made, and crosses in one block."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ullava.batching import transport
from ullava.batching.transport import ALIGNMENT, Parcel, Pool, borrow, fill, lay_out, side_by_side, unpack
from ullava.errors import UserError


def _batch() -> Parcel:
    mask = (torch.arange(35).view(5, 7) % 3 == 0).to(torch.uint8)
    return Parcel(
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


class Many(Numbers):
    """More positions."""

    def __len__(self) -> int:
        return 20


def make_numbered(positions: Sequence[int]) -> Parcel:
    """A batch that says which one it is."""
    return Parcel(number=torch.full((5000,), positions[0]))


def make(_: Sequence[int]) -> Parcel:
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
    layout, size = lay_out(tensors)
    assert [start for _, _, start in layout] == [ALIGNMENT, 2 * ALIGNMENT, 3 * ALIGNMENT, 3 * ALIGNMENT]
    block = torch.zeros(size, dtype=torch.uint8)
    fill(block, tensors, layout)
    back = unpack(block, layout)
    assert all(torch.equal(left, right) for left, right in zip(tensors, back, strict=True))
    back[0][0] = 9
    assert block[ALIGNMENT] == 9


def test_a_block_is_used_again_when_nothing_of_it_is_held() -> None:
    pool = Pool()
    first, known, _ = pool.take(1000)
    assert not known and first.memory.is_shared() and len(first.memory) >= 1000 and not first.free
    batch = borrow(first.memory)
    view = batch[200:300].view(10, 10)[2]
    del batch
    second, known, dropped = pool.take(1000)
    assert second is not first and not known and not dropped, "a view still holds the first"
    assert view.sum() == 0
    del view
    assert first.free
    assert pool.take(900) == (first, True, []) and not first.free


def test_small_blocks_make_room_for_a_larger_one() -> None:
    pool = Pool()
    held, free = pool.take(100)[0], pool.take(120)[0]
    del held
    lent = borrow(free.memory)
    del lent
    larger, known, dropped = pool.take(5000)
    assert not known and dropped == [free.key] and len(larger.memory) >= 5000
    assert [block.key for block in pool.blocks] == [(pool.process, 1), larger.key]


def test_another_processs_copy_of_the_pool_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    block = pool.take(100)[0]
    lent = borrow(block.memory)
    monkeypatch.setattr(transport.os, "getpid", lambda: -5)
    del lent
    assert not block.free, "a forked copy of the receiver must not let go for it"
    other, known, dropped = pool.take(100)
    assert other.key == (-5, 1) and not known and not dropped and pool.blocks == [other]


def test_many_batches_cross_in_few_blocks_and_ended_workers_are_forgotten() -> None:
    kept = []
    for number, received in enumerate(DataLoader(Many(), batch_size=1, num_workers=1, collate_fn=make_numbered)):
        assert received["number"].tolist() == [number] * 5000
        if number in (3, 9):
            kept.append((number, received["number"]))
    assert all(tensor.tolist() == [number] * 5000 for number, tensor in kept), "what is held is not written over"
    (worker,) = {process for process, _ in transport._KNOWN if process != os.getpid()}
    assert 2 <= len([key for key in transport._KNOWN if key[0] == worker]) <= 6 < len(Many())
    list(DataLoader(Many(), batch_size=1, num_workers=1, collate_fn=make_numbered))
    assert worker not in {process for process, _ in transport._KNOWN}
    assert all(tensor.tolist() == [number] * 5000 for number, tensor in kept)


def test_copying_a_batch_in_this_process_moves_nothing() -> None:
    batch = _batch()
    assert copy.copy(batch)["input_ids"] is batch["input_ids"]


def _views_of_two_sizes() -> list[Any]:
    generator = np.random.default_rng(0)
    return [generator.integers(1, 256, (3, *size), dtype=np.uint8) for size in ((4, 6), (5, 3))]


def test_views_side_by_side_in_this_process() -> None:
    one, other = _views_of_two_sizes()
    plane = side_by_side([one, other])
    assert isinstance(plane, torch.Tensor) and plane.shape == (2, 3, 5, 6)
    assert torch.equal(plane[0, :, :4], torch.from_numpy(one)) and (plane[0, :, 4:] == 0).all()
    assert torch.equal(plane[1, :, :, :3], torch.from_numpy(other)) and (plane[1, :, :, 3:] == 0).all()


def make_views(positions: Sequence[int]) -> Parcel:
    """Views, of two sizes in every other batch; what lay in the block before would show."""
    views = _views_of_two_sizes()
    if positions[0] % 2:
        views = [np.full((3, 5, 6), 255, dtype=np.uint8)] * 2
    return Parcel(sam_pixel_values=side_by_side(views), number=torch.tensor(positions[0]))


def test_views_drawn_into_a_block_are_those_drawn_here() -> None:
    for received in DataLoader(Many(), batch_size=1, num_workers=1, collate_fn=make_views):
        expected = make_views([int(received["number"])])
        assert torch.equal(received["sam_pixel_values"], expected["sam_pixel_values"])


def test_shared_memory_that_is_full_is_told_to_the_process_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's thread that pickles in a worker would print the error, lose the batch and let the other side wait."""

    def full(self: Pool, size: int) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Pool, "take", full)
    loader = DataLoader([0, 1], batch_size=1, num_workers=1, collate_fn=lambda rows: _batch(), timeout=60)
    with pytest.raises(UserError, match="No space left on device .* more .docker: --shm-size. or read without workers"):
        next(iter(loader))
