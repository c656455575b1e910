"""The folder of a run: claiming it, growing it, cutting broken tails, merging."""

from __future__ import annotations

from pathlib import Path

import pytest

from ullava.errors import ConfigError, DataError
from ullava.evaluation.result_store import RunFolder, Shard, read_lines, wait_until


def by_item(record: object) -> tuple[int, ...]:
    assert isinstance(record, dict)
    return (record["item"],)


def test_a_folder_belongs_to_one_evaluation(tmp_path: Path) -> None:
    RunFolder(tmp_path, Shard()).begin({"protocol": "generate", "data": {"a": {"limit": None}}})
    RunFolder(tmp_path, Shard()).begin({"protocol": "generate", "data": {"a": {"limit": None}}})
    with pytest.raises(ConfigError) as caught:
        RunFolder(tmp_path, Shard()).begin({"protocol": "teacher_forced", "data": {"a": {"limit": 3}}})
    text = "\n".join(caught.value.problems)
    assert 'protocol was "generate", is now "teacher_forced"' in text
    assert "data.a.limit was null, is now 3" in text
    assert "--out" in text


def test_a_broken_run_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="run.json: not JSON"):
        RunFolder(tmp_path, Shard()).begin({})


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[" * 100_000])
def test_a_run_file_of_other_bytes_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(DataError, match="run.json: not JSON"):
        RunFolder(tmp_path, Shard()).begin({})


def test_a_folder_in_the_place_of_the_run_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(DataError, match="run.json: is not a file"):
        RunFolder(tmp_path, Shard()).begin({})


def test_a_line_that_was_cut_is_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, Shard())
    folder.begin({})
    folder.append([{"item": 0}, {"item": 1}])
    with folder.predictions.open("a", encoding="utf-8") as file:
        file.write('{"item": 2, "ans')
    assert [record["item"] for record in folder.records()] == [0, 1]
    again = RunFolder(tmp_path, Shard())
    again.begin({})
    again.append([{"item": 2}])
    assert [record["item"] for record in again.records()] == [0, 1, 2]


def test_a_line_that_is_not_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\nnonsense\n', encoding="utf-8")
    with pytest.raises(DataError, match="a.jsonl:2: not JSON"):
        list(read_lines(tmp_path / "a.jsonl"))


def test_merge_sorts_and_keeps_the_last_of_equals(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path, Shard(rank, 2)) for rank in range(2)]
    for folder in folders:
        folder.begin({})
    folders[0].append([{"item": 2}, {"item": 0, "try": 1}, {"item": 0, "try": 2}])
    folders[1].append([{"item": 3}, {"item": 1}])
    folders[1].append_bad({"sample": "x"})
    for folder in folders:
        folder.finish()
    folders[0].wait_for_others(pause_seconds=0.01, stall_seconds=1)
    folders[0].merge(by_item)
    merged = list(read_lines(tmp_path / "predictions.jsonl"))
    assert merged == [{"item": 0, "try": 2}, {"item": 1}, {"item": 2}, {"item": 3}]
    assert list(read_lines(tmp_path / "bad_samples.jsonl")) == [{"sample": "x"}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad_samples.jsonl", "predictions.jsonl", "run.json"]


def test_the_trouble_of_another_process_is_reported(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path, Shard(rank, 2)) for rank in range(2)]
    for folder in folders:
        folder.begin({})
    folders[0].finish()
    folders[1].finish(["b.json:3: no such image"])
    with pytest.raises(DataError, match="b.json:3"):
        folders[0].wait_for_others(pause_seconds=0.01, stall_seconds=1)


def test_a_silent_process_is_not_waited_for_endlessly(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, Shard(0, 2))
    folder.begin({})
    folder.finish()
    with pytest.raises(DataError, match="process 1 of 2 has written nothing"):
        folder.wait_for_others(pause_seconds=0.01, stall_seconds=0.05)


def test_progress_renews_patience() -> None:
    steps = iter(range(100))
    asked = iter([False] * 20 + [True])
    wait_until(lambda: next(asked), lambda: next(steps), 0.01, 0.05, "stalled")


def test_shard_from_environment() -> None:
    assert Shard.from_environment({}) == Shard(0, 1)
    assert Shard.from_environment({"RANK": "1", "WORLD_SIZE": "4"}) == Shard(1, 4)
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        Shard.from_environment({"RANK": "4", "WORLD_SIZE": "4"})
    with pytest.raises(ConfigError, match="whole numbers"):
        Shard.from_environment({"RANK": "first"})


def test_a_folder_in_the_place_of_the_predictions_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, Shard())
    folder.predictions.mkdir()
    with pytest.raises(DataError, match="predictions.jsonl: is not a file"):
        folder.begin({})


@pytest.mark.parametrize("line", ["[]", "[" * 100_000])
def test_a_line_that_is_no_object_is_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="a.jsonl:2: not"):
        list(read_lines(tmp_path / "a.jsonl"))
