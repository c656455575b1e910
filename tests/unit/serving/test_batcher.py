"""Who shares a batch, who waits, who is dropped: without HTTP and without a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest

from ullava.serving.batcher import Batcher, ClosedError, Job, QueueFullError


class Worker:
    """Doubles numbers; stands still while ``gate`` is not set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list[int]] = []

    def run(self, jobs: Sequence[Job[int, int]]) -> list[int]:
        self.batches.append([job.payload for job in jobs])
        self.begun.set()
        assert self.gate.wait(10)
        if any(job.payload < 0 for job in jobs):
            raise ValueError("negative")
        return [2 * job.payload for job in jobs]


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def batcher(worker: Worker) -> Iterator[Batcher[int, int]]:
    made = Batcher(worker.run, max_batch=4, max_wait_s=0.0, max_queue=8)
    yield made
    worker.gate.set()
    made.close()


def add(batcher: Batcher[int, int], payload: int, key: Any = "a", size: int = 1, alone: bool = False) -> Job[int, int]:
    job: Job[int, int] = Job(payload, key, size, alone)
    with batcher.place(size) as submit:
        submit(job)
    return job


def held(batcher: Batcher[int, int], worker: Worker) -> Job[int, int]:
    """A job that the worker stands still on."""
    job = add(batcher, 1)
    assert worker.begun.wait(10)
    return job


def test_what_waits_becomes_batches_of_one_key_in_order(batcher: Batcher[int, int], worker: Worker) -> None:
    first = held(batcher, worker)
    jobs = [add(batcher, number, key) for number, key in ((2, "a"), (3, "b"), (4, "a"), (5, "b"), (6, "a"))]
    worker.gate.set()
    assert first.future.result(10) == 2
    assert [job.future.result(10) for job in jobs] == [4, 6, 8, 10, 12]
    assert worker.batches == [[1], [2, 4, 6], [3, 5]]


def test_a_batch_is_no_larger_than_allowed_and_counts_sizes(batcher: Batcher[int, int], worker: Worker) -> None:
    held(batcher, worker)
    jobs = [add(batcher, number, size=size) for number, size in ((2, 3), (3, 2), (4, 1), (5, 1))]
    worker.gate.set()
    for job in jobs:
        job.future.result(10)
    assert worker.batches == [[1], [2], [3, 4, 5]]


def test_a_job_larger_than_a_batch_is_done_on_its_own(batcher: Batcher[int, int], worker: Worker) -> None:
    worker.gate.set()
    assert add(batcher, 7, size=6).future.result(10) == 14


def test_what_is_to_be_done_alone_is(batcher: Batcher[int, int], worker: Worker) -> None:
    held(batcher, worker)
    jobs = [add(batcher, 2), add(batcher, 3, alone=True), add(batcher, 4)]
    worker.gate.set()
    for job in jobs:
        job.future.result(10)
    assert worker.batches == [[1], [2, 4], [3]]


def test_the_first_of_a_batch_waits_for_others_no_longer_than_said(worker: Worker) -> None:
    worker.gate.set()
    batcher: Batcher[int, int] = Batcher(worker.run, max_batch=2, max_wait_s=0.5, max_queue=8)
    begun = time.monotonic()
    jobs = [add(batcher, 1), add(batcher, 2)]
    assert [job.future.result(10) for job in jobs] == [2, 4]
    assert time.monotonic() - begun < 0.4, "a full batch begins at once"
    lone = add(batcher, 3)
    assert lone.future.result(10) == 6
    assert 0.45 <= lone.started - lone.submitted < 5
    assert worker.batches == [[1, 2], [3]]
    batcher.close()


def test_one_that_fails_spoils_no_other(batcher: Batcher[int, int], worker: Worker) -> None:
    held(batcher, worker)
    jobs = [add(batcher, number) for number in (2, -3, 4)]
    worker.gate.set()
    assert [jobs[0].future.result(10), jobs[2].future.result(10)] == [4, 8]
    with pytest.raises(ValueError, match="negative"):
        jobs[1].future.result(10)
    assert add(batcher, 5).future.result(10) == 10, "and the worker goes on"


def test_what_was_given_up_before_it_began_is_never_done(batcher: Batcher[int, int], worker: Worker) -> None:
    held(batcher, worker)
    dropped, kept = add(batcher, 2), add(batcher, 3)
    dropped.leave()
    assert batcher.waiting == 1
    worker.gate.set()
    assert kept.future.result(10) == 6
    with pytest.raises(CancelledError):
        dropped.future.result(0)
    assert worker.batches == [[1], [3]]


def test_a_full_queue_refuses_and_says_when_to_come_again(batcher: Batcher[int, int], worker: Worker) -> None:
    held(batcher, worker)
    jobs = [add(batcher, number) for number in range(8)]
    with pytest.raises(QueueFullError) as caught:
        add(batcher, 9)
    assert 1 <= caught.value.retry_after_s <= 60
    jobs[3].leave()
    add(batcher, 9)
    with pytest.raises(QueueFullError):
        add(batcher, 10)


def test_a_place_that_was_taken_counts_until_it_is_given_back(batcher: Batcher[int, int], worker: Worker) -> None:
    held(batcher, worker)
    with batcher.place(8):
        with pytest.raises(QueueFullError):
            add(batcher, 2)
    add(batcher, 2)


def test_closing_finishes_what_was_accepted_and_takes_nothing_more(worker: Worker) -> None:
    batcher: Batcher[int, int] = Batcher(worker.run, max_batch=1, max_wait_s=5.0, max_queue=8)
    held(batcher, worker)
    jobs = [add(batcher, number) for number in (2, 3)]
    with batcher.place() as submit:
        closing = threading.Thread(target=batcher.close)
        closing.start()
        while not batcher._closed:
            time.sleep(0.005)
        with pytest.raises(ClosedError):
            add(batcher, 4)
        worker.gate.set()
        late: Job[int, int] = Job(5, "a")
        submit(late)
    closing.join(10)
    assert not closing.is_alive()
    assert [job.future.result(0) for job in (*jobs, late)] == [4, 6, 10]


def test_closing_without_draining_drops_what_waits(worker: Worker) -> None:
    batcher: Batcher[int, int] = Batcher(worker.run, max_batch=4, max_wait_s=0.0, max_queue=8)
    first = held(batcher, worker)
    second = add(batcher, 2)
    threading.Timer(0.05, worker.gate.set).start()
    batcher.close(drain=False)
    assert first.future.result(0) == 2 and second.future.cancelled()
    assert worker.batches == [[1]]
