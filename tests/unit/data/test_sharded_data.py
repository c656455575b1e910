from __future__ import annotations

import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from accelerate.data_loader import prepare_data_loader
from tests.unit.data.shard_files import CASES, TURNS, opened, png, same, write_dataset, write_tar
from torch.utils.data import DataLoader

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset, build_mixture
from ullava.data.loading.shard_writer import write_shards
from ullava.data.sampling.mixture import MixtureSampler
from ullava.errors import ConfigError, DataError
from ullava.media.images import read_image_rgb_u8

RECORD = {"id": "1", "conversations": TURNS}
FORMS = ("webdataset", "parquet")


class FirstPixels:
    """The red of the first pixel of each position of a mixture."""

    def __init__(self, mixture):
        self.mixture = mixture

    def __len__(self):
        return len(self.mixture)

    def __getitem__(self, position):
        return int(read_image_rgb_u8(self.mixture.sample(position).images[0])[0, 0, 0])


def assert_same(files, shards):
    assert len(files) == len(shards) > 0
    for index in range(len(files)):
        assert same(files.queries(index), shards.queries(index))
        assert same(*(dataset.sample(index, np.random.default_rng(index)) for dataset in (files, shards)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_shards_give_the_samples_of_the_files(tmp_path, case, form):
    folder = write_dataset(tmp_path / "files", case)
    out = tmp_path / "shards"
    written = write_shards(str(folder), [], tmp_path, out, rows_per_shard=2, form=form)
    assert [split.shards for split in written] == [-(-written[0].rows // 2)]
    assert_same(opened(folder.rename(tmp_path / "elsewhere")), opened(out))


def test_shards_can_be_written_from_shards(tmp_path):
    folder = write_dataset(tmp_path / "files", "res")
    write_shards(str(folder), [], tmp_path, tmp_path / "one", rows_per_shard=4, form="parquet")
    write_shards(str(tmp_path / "one"), [], tmp_path, tmp_path / "two", rows_per_shard=3, form="webdataset")
    assert_same(opened(folder), opened(tmp_path / "two"))
    assert_same(opened(folder, group="image"), opened(tmp_path / "two", group="image"))


def test_records_of_one_image_share_it(tmp_path):
    folder = write_dataset(tmp_path / "files", "res")
    for form in FORMS:
        write_shards(str(folder), [], tmp_path, tmp_path / form, rows_per_shard=9, form=form)
        dataset = opened(tmp_path / form)
        assert len({dataset.queries(index)[0].images for index in range(5)}) == 3


def test_absent_classes_are_those_of_the_files(tmp_path):
    folder = write_dataset(tmp_path / "x" / "set", "semantic", classes=["sky", "sea", "sand", "sun"])
    write_shards(str(folder), [], tmp_path, tmp_path / "y" / "set", rows_per_shard=2, form="webdataset")
    asked = {"task": "res", "absent": 0.5}
    assert_same(opened(folder, **asked), opened(tmp_path / "y" / "set", **asked))


def test_what_hugging_face_writes_is_read(tmp_path):
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(), "id": Value("string"), "conversations": [
        {"from": Value("string"), "value": Value("string")}]})  # fmt: skip
    rows = [
        {"image": {"bytes": png(7 * n), "path": f"{n}.png"}, "id": str(n), "conversations": TURNS} for n in range(3)
    ]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "hf.parquet")
    dataset = build_dataset("llava_instruct", DatasetEntry(annotations=str(tmp_path / "hf.parquet")), tmp_path)
    shown = [read_image_rgb_u8(dataset.queries(n)[0].images[0]) for n in range(3)]
    assert [int(pixels[0, 0, 0]) for pixels in shown] == [0, 7, 14]
    assert dataset.sources(2) == f"{tmp_path / 'hf.parquet'}: sample 2: record 2"


def test_parquet_may_name_images_in_a_folder(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "x.png").write_bytes(png(5))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {"image": pa.array([{"bytes": None, "path": "x.png"}], kind), "record": [json.dumps(RECORD)]}
    parquet.write_table(pa.table(table), tmp_path / "named.parquet")
    entry = DatasetEntry(annotations=str(tmp_path / "named.parquet"), images=str(tmp_path))
    assert build_dataset("llava_instruct", entry, tmp_path).queries(0)[0].images == (tmp_path / "x.png",)


@pytest.fixture
def dialogues(tmp_path):
    """Four tar shards of five dialogues, as an entry of a recipe."""
    for number in range(4):
        members = {f"{number}{k}.{kind}": content for k in range(5) for kind, content in
                   (("png", png(number * 5 + k)), ("json", RECORD))}  # fmt: skip
        write_tar(tmp_path / f"set-{number}.tar", members)
    return DatasetEntry(annotations=str(tmp_path / "set-{0..3}.tar"))


def test_a_run_that_is_resumed_sees_what_it_would_have_seen(dialogues, tmp_path):
    entries = {"llava_instruct": dialogues, "more": DatasetEntry(dataset="llava_instruct", portion=0.5,
               annotations=dialogues.annotations)}  # fmt: skip
    whole = build_mixture(entries, tmp_path, seed=3)
    sampler = MixtureSampler(whole, epoch=1)
    seen = [whole.sample(position) for position in sampler]
    assert len(seen) == 30 and len({sample.images for sample in seen}) == 20
    again = pickle.loads(pickle.dumps(build_mixture(entries, tmp_path, seed=3)))
    assert [again.sample(position) for position in list(sampler)[17:]] == seen[17:]
    other = build_mixture(entries, tmp_path, seed=4)
    assert [other.sample(position).name for position in sampler] != [sample.name for sample in seen]


def test_ranks_and_workers_share_the_epoch_out(dialogues, tmp_path):
    mixture = build_mixture({"llava_instruct": dialogues}, tmp_path, seed=3)
    parts = []
    for rank in range(2):
        loader = DataLoader(FirstPixels(mixture), batch_size=2, sampler=MixtureSampler(mixture), num_workers=rank)
        shared = prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False)
        parts.append([value for batch in shared for value in batch.tolist()])
    assert not set(parts[0]) & set(parts[1])
    assert sorted(parts[0] + parts[1]) == list(range(20))


def test_workers_read_parquet_that_was_open_before_them(tmp_path):
    folder = write_dataset(tmp_path / "files", "caption")
    write_shards(str(folder), [], tmp_path, tmp_path / "out", rows_per_shard=2, form="parquet")
    rows = FirstPixels(build_mixture({str(tmp_path / "out"): DatasetEntry()}, tmp_path, seed=0, shuffle_block=2))
    here = [rows[position] for position in range(3)]
    assert [batch.item() for batch in DataLoader(rows, num_workers=2)] == here


def test_the_index_is_made_once_for_each_state_of_the_shards(dialogues, tmp_path):
    def index():
        return build_dataset("llava_instruct", dialogues, tmp_path).origin.store.arrow

    first = index()
    made = first.stat().st_mtime_ns
    assert index() == first and first.stat().st_mtime_ns == made
    first.write_bytes(first.read_bytes()[:-50])
    assert index() == first, "a damaged index is made again"
    write_tar(tmp_path / "set-1.tar", {"k.png": png(), "k.json": RECORD})
    dataset = build_dataset("llava_instruct", dialogues, tmp_path)
    assert len(dataset) == 16 and not first.exists()
    assert dataset.sources(5) == f"{tmp_path / 'set-1.tar'}: sample k: record 5"


def test_a_shard_that_is_exchanged_under_an_open_index_is_named(dialogues, tmp_path):
    dataset = build_dataset("llava_instruct", dialogues, tmp_path)
    shown = dataset.queries(7)[0].images[0]
    write_tar(tmp_path / "set-1.tar", {f"longer{k}.json": RECORD for k in range(9)})
    with pytest.raises(DataError, match=r"set-1.tar: does not hold 12.png where its index says: the shard was changed"):
        read_image_rgb_u8(shown)
    (tmp_path / "set-1.tar").unlink()
    with pytest.raises(DataError, match="set-1.tar"):
        read_image_rgb_u8(shown)


@pytest.mark.parametrize("images", [None, "."])
def test_boxes_by_file_are_refused(dialogues, tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boxes.json").write_text("[]")
    entry = DatasetEntry(annotations="set-{0..3}.tar", images=images, boxes="boxes.json")
    with pytest.raises(ConfigError, match="boxes: are found by the files of images, and these lie in shards"):
        build_dataset("llava_instruct", entry, tmp_path)


def test_equal_datasets_give_equal_shards(tmp_path):
    folder = write_dataset(tmp_path / "files", "vqa")
    for name in ("one", "two"):
        write_shards(str(folder), ["train"], tmp_path, tmp_path / name, rows_per_shard=9, form="webdataset")
        os.utime(folder / "a.jpg", (1, 1))
    shard = "train-000000.tar"
    assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()
    with tarfile.open(tmp_path / "one" / shard) as tar:
        assert tar.getnames() == ["000000000.jpg", "000000000.json", "000000001.image.0.jpg", "000000001.image.1.png",
                                  "000000001.json", "000000002.json"]  # fmt: skip
