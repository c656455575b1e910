from __future__ import annotations

import json
import os
import pickle
import time

import numpy as np
import pytest

from ullava.benchmarks.store import measure_store, write_annotations
from ullava.data.annotations import store
from ullava.data.annotations.store import AnnotationStore, cache_path
from ullava.errors import DataError

RECORDS = [{"image_path": f"{name}.jpg", "n": number, "text": "é\n"} for number, name in enumerate("abacb")]


@pytest.fixture
def source(write):
    return write("notes.json", json.dumps(RECORDS, indent=1))


def test_records_come_back_as_written(source):
    opened = AnnotationStore.open(source)
    assert [opened.record(index) for index in range(len(opened))] == RECORDS
    assert opened.where(2) == f"{source}:12: record 2"


def test_many_batches_are_one_sequence(source, monkeypatch):
    monkeypatch.setattr(store, "BATCH_ROWS", 2)
    opened = AnnotationStore.open(source)
    assert [opened.record(index)["n"] for index in range(5)] == [0, 1, 2, 3, 4]
    assert opened.groups()[0].tolist() == [0, 2, 1, 4, 3]


def test_grouping_keeps_the_order_of_first_appearance(source):
    order, starts = AnnotationStore.open(source).groups()
    assert [order[a:b].tolist() for a, b in zip(starts, starts[1:], strict=False)] == [[0, 2], [1, 4], [3]]
    order, starts = AnnotationStore.open(source).groups(limit=2)
    assert [order[a:b].tolist() for a, b in zip(starts, starts[1:], strict=False)] == [[0], [1]]


def test_conversion_happens_once_for_each_version_of_the_file(source):
    first = AnnotationStore.open(source).arrow
    written = first.stat().st_mtime_ns
    assert AnnotationStore.open(source).arrow.stat().st_mtime_ns == written
    source.write_text(json.dumps(RECORDS[:2]), encoding="utf-8")
    os.utime(source, ns=(time.time_ns(), time.time_ns() + 10**9))
    opened = AnnotationStore.open(source)
    assert len(opened) == 2
    assert list(opened.arrow.parent.iterdir()) == [opened.arrow], "the older conversion is gone"
    assert opened.arrow != first


def test_a_folder_that_takes_no_files_sends_the_conversion_to_the_cache(source, tmp_path, monkeypatch):
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path / "elsewhere"))
    assert cache_path(source, "records").parent == source.with_name("notes.json.ullava-cache")
    source.parent.chmod(0o555)
    try:
        assert (tmp_path / "elsewhere") in cache_path(source, "records").parents
    finally:
        source.parent.chmod(0o755)


def test_a_cache_that_cannot_be_written_is_an_error_with_advice(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(store, "_takes_files", lambda folder: False)
    with pytest.raises(DataError, match="cannot be written to .* set ULLAVA_CACHE"):
        AnnotationStore.open(source)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_conversion_is_made_again(source, damage):
    arrow = AnnotationStore.open(source).arrow
    arrow.write_bytes(arrow.read_bytes()[:-40] if damage is None else damage)
    assert AnnotationStore.open(source).record(4) == RECORDS[4]


def test_a_failed_conversion_leaves_nothing(write):
    path = write("bad.json", '[{"a": 1}, {"a": ')
    with pytest.raises(DataError, match="record 1"):
        AnnotationStore.open(path)
    assert [item.name for item in path.parent.iterdir()] == ["bad.json"]


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.json: no such annotation file"):
        AnnotationStore.open(tmp_path / "nowhere.json")


def test_half_a_surrogate_pair_is_refused(write):
    path = write("a.json", '[{"a": "fine"},\n{"a": "\\ud800",\n"b": 1}]')
    with pytest.raises(DataError, match="a.json:2: record 1: half of a surrogate pair"):
        AnnotationStore.open(path)


def test_workers_get_paths_not_records(source):
    opened = AnnotationStore.open(source)
    message = pickle.dumps(opened)
    assert len(message) < 1000
    assert pickle.loads(message).record(3) == RECORDS[3]


def test_the_benchmark_stays_far_below_its_limits():
    figures = measure_store(records=3000, touches=1000)
    assert figures["held_mib"] < 20
    assert figures["worker_private_growth_mib"] < 10
    assert figures["worker_anonymous_growth_mib"] < 10
    assert figures["arrow_mib"] > 0.9 * figures["json_mib"]


def test_the_benchmark_writes_records_that_can_be_read(tmp_path, build):
    write_annotations(tmp_path / "refer.json", 5)
    dataset = build("refer", json.loads((tmp_path / "refer.json").read_text()))
    region = dataset.sample(4, np.random.default_rng(0)).turns[0].regions[0]
    assert region.mask is not None and region.mask.shape == (480, 640)
