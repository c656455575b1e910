from __future__ import annotations

import json
import os

import pytest
import torch

from ullava.benchmarks import data, evaluation, networks, run, shards, timing, training, workload


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Hardly any work, and every setting that the command changes put back afterwards."""
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path / "cache"))
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    monkeypatch.setattr(run, "IMAGES", 8)
    monkeypatch.setattr(run, "DATA_SAMPLES", 4)
    monkeypatch.setattr(run, "EVAL_IMAGES", 2)
    monkeypatch.setattr(data, "WORKERS", (1,))
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "STEPS", 1)
    monkeypatch.setattr(evaluation, "NEW_TOKENS", 3)
    monkeypatch.setattr(evaluation, "PROMPTS", (2,))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("what", "units"),
    [
        ("data", ["ms/sample", "ms/batch", "ms/sample", "ms/sample"]),
        ("train", ["ms/step"]),
        ("eval", ["ms/expression"]),
        ("generate", ["ms/token"]),
    ],
)
def test_every_benchmark_states_its_work(quick, command, what, units):
    code, printed, _ = command("bench", what, "--preset", "tiny", "--repeats", "1", "--json")
    assert code == 0
    report = json.loads(printed)
    assert (report["benchmark"], report["preset"], report["threads"]) == (what, "tiny", 1)
    assert report["work"]["images"] == 8
    assert report["networks"][0]["sam"].endswith("side 64")
    assert [result["unit"] for result in report["results"]] == units
    assert all(result["cpu"] > 0 and result["wall"] > 0 for result in report["results"])
    assert all(len(result["cpu_each"]) == 1 for result in report["results"])
    assert "torch" in report["versions"]


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's memory accounts")
def test_annotations_are_measured(quick, command):
    code, printed, _ = command("bench", "data", "--annotations", "50")
    assert code == 0
    report = json.loads(printed)
    assert report["results"]["records"] == 50
    assert report["results"]["held_mib"] < 100


def test_peer_network_has_the_stated_sizes(quick):
    network = networks.build_network("peer", 256, workload.prepare(8).annotations)
    assert network.stated["language"] == "llama 128 x 2, vocabulary 32011"
    assert network.stated["tower"] == "CLIP 64 x 3, 224/14"
    assert network.stated["sam"] == "ViT 96 x 2, side 256"
    plan = training.apply_stage(network.model, "ground", quality_trains=False)
    trained = sum(row.trained for row in plan.rows)
    assert trained == pytest.approx(12.72e6, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "did you mean 'train'"),
        (("data", "--threads", "0"), "--threads"),
        (("data", "--sam-sides", "100"), "multiple of 16"),
        (("data", "--preset", "tiny", "--sam-sides", "256"), "its own SAM side"),
        (("train", "--annotations", "5"), "belongs to 'ullava bench data'"),
        (("eval", "--device", "tpu9"), "tpu9"),
    ],
)
def test_misuse_exits_with_two(quick, command, arguments, message):
    code, _, errors = command("bench", *arguments)
    assert code == 2
    assert message in errors


def test_cpu_time_of_a_child_counts_while_it_runs_and_after():
    before = timing.cpu_seconds()
    child = os.fork()
    if child == 0:
        while timing.cpu_seconds() < 0.1:
            pass
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert timing.cpu_seconds_of(child) >= 0.05
    os.waitpid(child, 0)
    assert timing.cpu_seconds() - before >= 0.05


def test_figures_are_medians_per_unit():
    readings = tuple(timing.Reading(cpu, 2 * cpu, 10) for cpu in (1.0, 9.0, 2.0))
    figure = timing.Figure("what", "step", readings, {"batch": 4})
    assert (figure.cpu_ms, figure.wall_ms) == (200.0, 400.0)
    assert figure.to_json()["units_per_second_wall"] == 2.5
    assert figure.to_json()["batch"] == 4
    assert "200.00" in timing.table([figure])


def test_samples_are_read_from_shards_in_the_same_way(quick, command):
    code, printed, _ = command(
        "bench", "data", "--preset", "tiny", "--repeats", "1", "--json", "--in-shards", "webdataset"
    )
    assert code == 0
    report = json.loads(printed)
    assert report["work"]["in_shards"] == "webdataset" and len(report["results"]) == 4


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's memory accounts")
def test_shards_are_measured(quick, command, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 40)
    code, printed, _ = command("bench", "data", "--shards", "100")
    assert code == 0
    report = json.loads(printed)
    assert report["benchmark"] == "shards" and report["results"]["rows"] == 100
    assert 0 < report["results"]["open_seconds"] and report["results"]["open_held_mib"] < 100
