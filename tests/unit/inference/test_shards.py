"""Shards of questions: cut, kept over a kill, joined; and how workers that are lost are made up for. Without Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.errors import DataError, UserError
from ullava.inference import crew as crew_module
from ullava.inference.answering import answer_all
from ullava.inference.batch import Question
from ullava.inference.crew import TRIES, Crew
from ullava.inference.shard_worker import Order, ShardWorker, Told
from ullava.inference.shards import Shard, ShardFolder, cut
from ullava.ray_cluster import Cluster, places
from ullava.structures import Answer, Sample

SETTINGS = {"model": "fake", "max_new_tokens": 8}
QUESTIONS = [Question(f"q{number}", (), f"what is {number}?") for number in range(10)]


class Fake:
    """Says how many share the batch, which cutting into shards must not change."""

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[Answer]:
        return [Answer(f"{sample.turns[0].question} in {len(samples)}", new_tokens=1) for sample in samples]


def worker(out: Path) -> ShardWorker:
    made = ShardWorker(Order("fake", out, out, SETTINGS, {}, batch_size=2))
    made._loaded = Fake(), Fake()
    return made


def answer_shards(out: Path, shards: Sequence[Shard]) -> None:
    for shard in shards:
        assert worker(out).answer(shard).problems == ()


def test_shards_hold_every_question_once_in_order() -> None:
    shards = cut(QUESTIONS, 4, 2)
    assert [[question.id for question in shard.questions] for shard in shards] == [
        ["q0", "q1", "q2", "q3"],
        ["q4", "q5", "q6", "q7"],
        ["q8", "q9"],
    ]
    assert str(shards[2]) == "shard 2 (questions 'q8' to 'q9')"
    with pytest.raises(UserError, match="--shard-size 5: expected a multiple of --batch-size 2"):
        cut(QUESTIONS, 5, 2)


def test_joined_shards_are_what_one_process_writes(tmp_path: Path) -> None:
    answer_all(Fake(), QUESTIONS, tmp_path / "one", SETTINGS, 2, lambda record: None)
    folder, shards = ShardFolder(tmp_path / "many", SETTINGS), cut(QUESTIONS, 4, 2)
    assert folder.begin(shards) == shards
    answer_shards(folder.out, [shards[2], shards[0], shards[1], shards[0]])  # one of them twice
    folder.join(shards)
    assert folder.answers.read_bytes() == (tmp_path / "one" / "answers.jsonl").read_bytes()
    assert not folder.folder.exists()
    assert folder.begin(shards) == []
    with pytest.raises(UserError, match=r"answers.jsonl: answers 10 of 11 questions"):
        folder.begin(cut([*QUESTIONS, Question("more", (), "3 + 4?")], 4, 2))


def test_what_is_answered_is_kept_and_what_was_half_written_is_not(tmp_path: Path) -> None:
    folder, shards = ShardFolder(tmp_path, SETTINGS), cut(QUESTIONS, 4, 2)
    folder.begin(shards)
    answer_shards(tmp_path, shards[1:2])
    (folder.folder / ".000000.jsonl.0a1b").write_text('{"id": "q0", ')
    assert folder.begin(shards) == [shards[0], shards[2]]
    with pytest.raises(DataError, match=r"000000.jsonl: holds 0 of 4 answers"):
        folder.join(shards)
    assert not folder.answers.exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-9]), r"000001.jsonl: holds 3 of 4 answers"),
        (lambda f: f.write_text(f.read_text().replace("what is 5", "who is 5")), r"000001.jsonl:2: answers another"),
        (lambda f: f.write_text("[1]\n"), r"000001.jsonl:1: is not an answer of ours"),
        (lambda f: f.rename(f.with_name("000007.jsonl")), r"000007.jsonl: is not a shard of these questions"),
        (lambda f: (f.parent.parent / "answers.jsonl.part").touch(), r"was begun without --engine ray"),
    ],
)
def test_a_folder_of_other_answers_is_refused(tmp_path: Path, change: Callable[[Path], object], complaint: str) -> None:
    folder, shards = ShardFolder(tmp_path, SETTINGS), cut(QUESTIONS, 4, 2)
    folder.begin(shards)
    answer_shards(tmp_path, shards[1:2])
    change(folder.folder / "000001.jsonl")
    with pytest.raises(UserError, match=complaint):
        folder.begin(shards)


def test_overlays_are_left_out_on_demand(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(image)
    shard = Shard(0, (Question("a", (image,), "?"),))
    for draw in (True, False):
        out = tmp_path / f"out-{draw}"
        ShardFolder(out, SETTINGS).begin([shard], draw)
        made = ShardWorker(Order("fake", out, out, SETTINGS, {}, draw=draw))
        made._loaded = Fake(), Fake()
        assert made.answer(shard).problems == ()
        assert (out / "overlays" / "a.png").exists() == draw
        answer_all(Fake(), shard.questions, tmp_path / f"one-{draw}", SETTINGS, 1, lambda record: None, draw)
        assert (tmp_path / f"one-{draw}" / "overlays").exists() == draw


def test_other_settings_and_sizes_are_refused(tmp_path: Path) -> None:
    folder, shards = ShardFolder(tmp_path, SETTINGS), cut(QUESTIONS, 4, 2)
    folder.begin(shards)
    answer_shards(tmp_path, shards)
    with pytest.raises(UserError, match="another model or setting"):
        ShardFolder(tmp_path, {**SETTINGS, "model": "other"}).begin(shards)
    with pytest.raises(UserError, match=r"000002.jsonl: is not a shard of these questions at this --shard-size"):
        folder.begin(cut(QUESTIONS, 8, 2))


def test_a_worker_tells_what_a_person_can_mend(tmp_path: Path, full_disk: Callable[[int], Any]) -> None:
    broken, right = tmp_path / "broken.png", tmp_path / "right.png"
    broken.write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(right)
    shard = Shard(0, (Question("a", (broken,), "?", where="q.jsonl:1"), Question("b", (right,), "?")))
    (problem,) = worker(tmp_path).check(shard).problems
    assert problem.startswith("q.jsonl:1: ") and "broken.png" in problem
    ShardFolder(tmp_path, SETTINGS).begin([shard])
    with full_disk(10):
        (problem,) = worker(tmp_path).answer(Shard(0, tuple(QUESTIONS))).problems
    assert "000000.jsonl: cannot be read or written" in problem
    gone = ShardWorker(Order("tiny", tmp_path / "gone", tmp_path, SETTINGS, {}))
    (problem,) = gone.load().problems
    assert problem.startswith(f"{tmp_path / 'gone'}: the folder that the command runs in is not on ")


class LossError(Exception):
    """What Ray raises for a worker that it has lost."""


class FakeRay:
    """Ray as far as a crew knows it, in this process. ``loses``: (method, shard's number) of each loss to come."""

    class exceptions:  # noqa: N801 - Ray's own name
        RayTaskError = type("RayTaskError", (LossError,), {})
        RayError = LossError

    def __init__(self, loses: Sequence[tuple[str, int | None]] = ()) -> None:
        self.loses = list(loses)
        self.asked: list[tuple[str, int | None]] = []

    def remote(self, **options: Any) -> Callable[[type], Any]:
        assert (options["max_restarts"], options["max_task_retries"]) == (0, 0)
        return lambda kind: type("Made", (), {"remote": lambda order: FakeActor(self)})

    def kill(self, actor: FakeActor) -> None:
        actor.killed = True

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: tuple[str, int | None, int]) -> Told:
        asked = reference[:2]
        self.asked.append(asked)
        if asked in self.loses:
            self.loses.remove(asked)
            raise LossError("the process has gone")
        return Told(seconds=1.0)


class FakeActor:
    def __init__(self, ray: FakeRay) -> None:
        self.ray = ray
        self.calls = 0
        self.killed = False

    def __getattr__(self, method: str) -> Any:
        def remote(shard: Shard | None = None) -> tuple[str, int | None, int, int]:
            assert not self.killed
            self.calls += 1
            return method, None if shard is None else shard.number, id(self), self.calls

        return type("Method", (), {"remote": staticmethod(remote)})


ORDER = Order("fake", Path(), Path(), SETTINGS, {})
SHARDS = cut(QUESTIONS, 2, 2)


def outcomes(ray: FakeRay, size: int = 2) -> dict[int, Told]:
    found: dict[int, Told] = {}
    for shard, told in Crew(ray, Cluster(), ORDER, size).each("answer", SHARDS):
        assert shard.number not in found
        found[shard.number] = told
    return found


def test_a_lost_shard_is_given_to_a_worker_again() -> None:
    ray = FakeRay([("answer", 1), ("answer", 4), ("load", None)])
    assert {number: told.problems for number, told in outcomes(ray).items()} == dict.fromkeys(range(5), ())
    assert ray.asked.count(("answer", 1)) == ray.asked.count(("answer", 4)) == 2
    assert ray.asked.count(("answer", 0)) == 1


def test_a_shard_that_ends_every_worker_is_named_and_the_others_are_answered() -> None:
    found = outcomes(FakeRay([("answer", 3)] * 9))
    assert sorted(found) == [0, 1, 2, 3, 4]
    (problem,) = found[3].problems
    assert problem.startswith(f"shard 3 (questions 'q6' to 'q7'): {TRIES} workers were lost over it")
    assert not any(found[number].problems for number in (0, 1, 2, 4))


def test_workers_that_never_begin_end_the_run() -> None:
    ray = FakeRay([("load", None)] * 99)
    with pytest.raises(UserError, match="workers are lost again and again, the last one: the process has gone"):
        outcomes(ray)
    assert len(ray.asked) == TRIES * 3 + 1


def test_a_model_that_cannot_be_loaded_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay()
    monkeypatch.setattr(ray, "get", lambda reference: Told(("no such model",)))
    with pytest.raises(UserError, match="^no such model$"):
        outcomes(ray)


def test_a_cluster_without_room_is_refused() -> None:
    class Small:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 6.0, "GPU": 1.0}

    assert places(Small, Cluster(cpus=2)) == 3
    assert places(Small, Cluster(cpus=0, gpus=0.25)) == 4
    with pytest.raises(UserError, match="no room for one worker: it takes 8 CPU, the cluster has 6 CPU, 1 GPU"):
        places(Small, Cluster(cpus=8))


Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--workers", "2", "--gpus-each", "1"], "--gpus-each, --workers: go with --engine ray"),
        (["--engine", "ray", "--json"], "leave --json and --stream out"),
        (["--engine", "rai"], "did you mean 'ray'"),
        (["--engine", "ray", "--cpus-each", "1.5"], "expected a whole number, or a part of one"),
    ],
)
def test_flags_that_lead_nowhere_are_refused(command: Command, flags: list[str], complaint: str) -> None:
    code, _, errors = command("predict", "--prompt", "3 + 4?", *flags)
    assert code == 2 and complaint in errors


def test_without_ray_the_extra_is_named(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    code, _, errors = command("predict", "--prompt", "3 + 4?", "--engine", "ray", "--out", "out")
    assert (code, errors) == (2, "error: --engine ray needs ray: pip install 'ullava[ray]'\n")
    assert os.listdir(tmp_path) == []


def test_a_run_on_a_cluster_writes_what_the_crew_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Done(Crew):
        def each(self, method: str, shards: Sequence[Shard]) -> Any:
            for shard in reversed(shards):
                yield shard, getattr(worker(tmp_path), method)(shard) if method == "answer" else Told()

    from contextlib import nullcontext

    ray = FakeRay()
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0}, raising=False)
    monkeypatch.setattr(crew_module, "Crew", Done)
    monkeypatch.setattr(crew_module, "joined", lambda cluster, workers: nullcontext(ray))
    order = Order("fake", tmp_path, tmp_path, SETTINGS, {}, batch_size=2)
    crew_module.answer_on_cluster(order, QUESTIONS, 4, Cluster())
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [question.id for question in QUESTIONS]
    assert "10 questions by 2 workers" in capsys.readouterr().err
    before = (tmp_path / "answers.jsonl").stat().st_mtime_ns
    crew_module.answer_on_cluster(order, QUESTIONS, 4, Cluster())
    assert (tmp_path / "answers.jsonl").stat().st_mtime_ns == before
