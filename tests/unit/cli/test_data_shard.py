from __future__ import annotations

import pytest
from tests.unit.data.shard_files import write_dataset, write_tar


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_a_dataset_becomes_shards_that_are_checked(command, tmp_path, form):
    folder, out = write_dataset(tmp_path / "files", "res"), tmp_path / "made" / "out"
    code, printed, _ = command(
        "data", "shard", "--from", str(folder), "--out", str(out), "--rows-per-shard", "2", "--format", form
    )
    assert code == 0 and "5 samples in 3 shards, split train" in printed
    code, printed, _ = command("check", str(out / "dataset.yaml"))
    assert code == 0
    assert "train: 5 records in" in printed and "{000000..000002}" in printed
    code, _, told = command("data", "shard", "--from", str(folder), "--out", str(out))
    assert code == 2 and "exists already" in told


def test_check_names_shard_and_key(command, tmp_path):
    folder, out = write_dataset(tmp_path / "files", "res"), tmp_path / "out"
    command("data", "shard", "--from", str(folder), "--out", str(out), "--rows-per-shard", "3")
    write_tar(out / "train-000001.tar", {"000000003.jpg": b"", "000000003.jsn": b"{}"})
    code, _, told = command("check", str(out / "dataset.yaml"))
    assert code == 2
    assert "train-000001.tar: sample 000000003: 000000003.jsn: no member of a sample ends so" in told
    assert "did you mean 'json'?" in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--rows-per-shard", "0"], "--rows-per-shard: has to be 1 or more, not 0"),
        (["--split", "tarin"], "no split 'tarin'; did you mean 'train'?"),
    ],
)
def test_wrong_words_are_refused(command, tmp_path, more, told):
    folder = write_dataset(tmp_path / "files", "vqa")
    code, _, error = command("data", "shard", "--from", str(folder), "--out", str(tmp_path / "out"), *more)
    assert code == 2 and told in error and not (tmp_path / "out").exists()
