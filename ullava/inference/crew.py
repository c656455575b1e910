"""Many workers of a Ray cluster, each with a shard at a time; what a lost one had is given to another.

Actors of Ray, not Ray Data: the unit that is answered, written and done again has to be the shard with its file. Ray
Data cuts and joins blocks as memory wants and, after a loss, does again what led to a block, writing included.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from ullava.errors import DataError, UserError
from ullava.inference.batch import Question
from ullava.inference.shard_worker import Order, ShardWorker, Told
from ullava.inference.shards import Shard, ShardFolder, cut
from ullava.ray_cluster import Cluster, joined, places, tell

TRIES = 3
"""How many workers may be lost over one shard. As many for each worker, and no shard done in between, end the run."""


class Crew:
    """``size`` workers of a cluster. For one that is lost another is begun, on another machine if need be.

    Ray could begin it again itself, but then a call fails as often as it is made before the new process is there, and
    what was lost cannot be told from what is not there yet.
    """

    def __init__(self, ray: Any, cluster: Cluster, order: Order, size: int) -> None:
        self.ray = ray
        self.lost = 0
        made = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_restarts=0, max_task_retries=0)(ShardWorker)
        self._begin = lambda: made.remote(order)
        self.workers = [self._begin() for _ in range(size)]

    def each(self, method: str, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Told]]:
        """Let workers do ``method`` of every shard; yield how it went as they come, each shard once.

        Raises:
            UserError: the model cannot be loaded, or workers are lost one after the other.
        """
        left, tries, in_a_row = deque(shards), Counter[int](), 0
        idle: list[Any] = []
        under_way: dict[Any, tuple[Any, Shard | None]] = {
            worker.load.remote(): (worker, None) for worker in self.workers
        }
        while left or any(shard is not None for _, shard in under_way.values()):
            while left and idle:
                worker, shard = idle.pop(), left.popleft()
                under_way[getattr(worker, method).remote(shard)] = worker, shard
            (reference,), _ = self.ray.wait(list(under_way), num_returns=1)
            worker, given = under_way.pop(reference)
            try:
                told: Told = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError:
                raise  # a defect of ours within a worker
            except self.ray.exceptions.RayError as error:
                in_a_row += 1
                why = _why(error)
                if in_a_row > TRIES * (len(self.workers) + 1):
                    raise UserError(f"workers are lost again and again, the last one: {why}") from error
                new = self._replace(worker)
                under_way[new.load.remote()] = new, None
                if given is not None:
                    tries[given.number] += 1
                    if tries[given.number] < TRIES:
                        left.appendleft(given)
                    else:
                        yield given, Told((f"{given}: {TRIES} workers were lost over it, the last one: {why}",))
                continue
            if given is None and told.problems:
                raise UserError(told.problems)
            idle.append(worker)
            if given is not None:
                in_a_row = 0
                yield given, told

    def _replace(self, worker: Any) -> Any:
        """Begin another worker in the place of a lost one, which may live still where the network ended."""
        self.lost += 1
        self.ray.kill(worker)
        new = self._begin()
        self.workers[self.workers.index(worker)] = new
        return new


def answer_on_cluster(
    order: Order, questions: Sequence[Question], shard_size: int, cluster: Cluster, workers: int | None = None
) -> None:
    """Answer questions on a cluster: ``answers.jsonl`` and overlays as ``answer_all`` writes them in one process.

    Shards that a run before this one has answered are kept. ``workers`` None: as many as the cluster has room for.

    Raises:
        DataError: a question that cannot be asked (before the first is answered), or shards that could not be answered
            (when all others are).
        UserError: as ``ShardFolder.begin`` and ``joined``, or the model cannot be loaded.
    """
    folder = ShardFolder(order.out, order.settings)
    shards = cut(questions, shard_size, order.batch_size)
    left = folder.begin(shards, order.draw)
    if left:
        with joined(cluster, workers) as ray:
            size = min(workers or places(ray, cluster), len(left))
            if workers is not None:
                places(ray, cluster)
            _answer(Crew(ray, cluster, order, size), left, len(shards) - len(left))
    if not folder.answers.exists():
        folder.join(shards)


def _answer(crew: Crew, left: Sequence[Shard], done: int) -> None:
    problems: dict[int, tuple[str, ...]] = {}
    with tqdm(total=len(left), desc="checking", unit="shard", leave=False) as bar:
        for shard, told in crew.each("check", left):
            if told.problems:
                problems[shard.number] = told.problems
            bar.update()
    _refuse(problems)
    begun, seconds, answered = time.monotonic(), 0.0, 0
    with tqdm(total=done + len(left), initial=done, desc="answering", unit="shard") as bar:
        for shard, told in crew.each("answer", left):
            if told.problems:
                problems[shard.number] = told.problems
            else:
                answered += len(shard.questions)
                seconds += told.seconds
            bar.update()
    if seconds:
        whole = time.monotonic() - begun
        tell(
            f"{answered} questions by {len(crew.workers)} workers in {whole:.1f} s, {answered / seconds:.2f} a second "
            f"by each while it answers; lost on the way: {crew.lost}"
        )
    _refuse(problems)


def _refuse(problems: dict[int, tuple[str, ...]]) -> None:
    """Tell the problems in the order of the questions. Raises DataError where there are any."""
    if problems:
        lines = [problem for number in sorted(problems) for problem in problems[number]]
        raise DataError(list(dict.fromkeys(lines)))


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
