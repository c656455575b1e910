from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.unit.data.shard_files import TURNS, opened, png, write_dataset, write_tar

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.data.loading.shard_writer import write_shards
from ullava.errors import DataError
from ullava.media.images import read_image_rgb_u8

RECORD = {"id": "1", "conversations": TURNS}
GOOD = {"a.png": png(), "a.json": RECORD}


def problems_of(pattern, tmp_path, layout="llava_instruct"):
    with pytest.raises(DataError) as caught:
        build_dataset(layout, DatasetEntry(annotations=str(pattern)), tmp_path)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"a.png": png()}, "sample a: no a.json: a sample has a record"),
        ({"a.png": png(), "a.json": b"{"}, "sample a: a.json: not valid JSON"),
        ({"a.png": png(), "a.json": b'{"x": NaN}'}, "sample a: a.json: not valid JSON: NaN"),
        ({"a.png": png(), "a.json": b"\xff\xfe"}, "sample a: a.json: not UTF-8 text near byte 0"),
        ({"a.png": png(), "a.json": b"[1]"}, "sample a: a.json: a record is an object"),
        ({**GOOD, "b.png": png(), "b.json": RECORD, "a.jpg": png()}, "sample a: the key is there twice"),
        ({**GOOD, "a.jpg": png()}, "sample a: a.jpg: there are two files for 'image'"),
        ({**GOOD, "a.txt": b"words"}, "sample a: a.txt: no member of a sample ends so"),
        ({**GOOD, "a.lable_path.png": png()}, "did you mean 'label_path.png'?"),
        ({"a.json": RECORD | {"image": "x.jpg"}}, "sample a: 'image' names 'x.jpg', but the sample holds no such file"),
        (
            {**GOOD, "a.json": RECORD | {"image": ["x.jpg"]}},
            "'image' is a list of names, but the sample holds a single",
        ),
        ({"a.image.0.png": png(), "a.image.2.png": png(), "a.json": RECORD}, "image.0, image.1, ... without a gap"),
        ({"a.json": RECORD | {"video": "x.mp4"}}, "sample a: 'video' names a video; shards hold images"),
    ],
)
def test_a_sample_that_is_not_whole_is_named_by_shard_and_key(tmp_path, members, told):
    shard = write_tar(tmp_path / "bad.tar", members)
    found = problems_of(shard, tmp_path)
    assert found.startswith(f"{shard}: sample a: ") and told in found
    assert not list((tmp_path / "shards.ullava-cache").glob("*.arrow")), "no index of bad shards stays"


def test_two_images_of_one_name_are_refused(tmp_path):
    named = RECORD | {"image": "x.png"}
    shard = write_tar(tmp_path / "x.tar", {"a.png": png(), "a.json": named, "b.png": png(9), "b.json": named})
    assert "sample b: names the image 'x.png' as sample a does, but holds another one" in problems_of(shard, tmp_path)


def test_all_shards_are_gone_through_before_it_is_told(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", {"a.png": png()} if number else GOOD)
    found = problems_of(tmp_path / "{0..2}.tar", tmp_path).splitlines()
    assert [line.split(":")[0] for line in found] == [str(tmp_path / "1.tar"), str(tmp_path / "2.tar")]


@pytest.mark.parametrize("kept", [700, 1024, 2048, 3000, None])
def test_a_tar_file_that_is_cut_off_is_named(tmp_path, kept):
    """Within a header, after a member's content, between members, and before the mark of the end."""
    shard = write_tar(tmp_path / "cut.tar", {**GOOD, "b.png": png(), "b.json": RECORD})
    whole = shard.read_bytes()
    end = len(whole.rstrip(b"\0"))
    shard.write_bytes(whole[: -(-end // 512) * 512 if kept is None else kept])
    assert re.search(r"cut.tar: .*cut off", problems_of(shard, tmp_path))


@pytest.mark.parametrize("name", ["x.tar", "x.parquet"])
def test_what_is_no_shard_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else " * 100)
    assert problems_of(tmp_path / name, tmp_path).startswith(f"{tmp_path / name}: not a ")


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("{0..3}.tar", "2.tar: no such shard (and 1 more of 4)"),
        ("z*.tar", "no shard is called so in"),
        ("{a,b}.tar", "a range is written {000000..000099}"),
        ("{3..0}.tar", "ends before it begins"),
        ("{0..1}{0..0}.tar", "00.tar: no such shard"),
    ],
)
def test_a_pattern_names_shards_that_are_there(tmp_path, pattern, told):
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", GOOD)
    assert told in problems_of(tmp_path / pattern, tmp_path)


def test_damaged_image_bytes_are_found_when_they_are_read(tmp_path):
    shard = write_tar(tmp_path / "x.tar", {"a.png": png()[:40], "a.json": RECORD})
    dataset = build_dataset("llava_instruct", DatasetEntry(annotations=str(shard)), tmp_path)
    with pytest.raises(DataError, match=r"x.tar/@512\+40/a.png: cannot be decoded"):
        read_image_rgb_u8(dataset.queries(0)[0].images[0])


def _parquet(path, columns):
    parquet.write_table(pa.table(columns), path)
    return path


def test_columns_that_mean_nothing_are_named(tmp_path):
    text = [json.dumps(RECORD)]
    shard = _parquet(tmp_path / "a.parquet", {"record": text, "sound": [b"x"]})
    assert "column 'sound' holds bytes" in problems_of(shard, tmp_path)
    shard = _parquet(tmp_path / "b.parquet", {"record": text, "id": ["1"]})
    assert "column 'record' has to be text, the whole record" in problems_of(shard, tmp_path)
    shard = _parquet(tmp_path / "c.parquet", {"record": [*text, "{"], "image": [png(), png()]})
    assert f"{shard}: sample 1: not valid JSON" in problems_of(shard, tmp_path)


def test_so_many_problems_are_told_at_most(tmp_path):
    shard = _parquet(tmp_path / "a.parquet", {"record": ["{"] * 50})
    found = problems_of(shard, tmp_path).splitlines()
    assert [line.split(":")[1] for line in found] == [f" sample {row}" for row in range(20)]


def test_one_set_holds_images_or_names_them(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(), "path": "x"}, {"bytes": None, "path": "y.png"}], kind)
    shard = _parquet(tmp_path / "a.parquet", {"record": [json.dumps(RECORD)] * 2, "image": images})
    assert "1 samples hold their images and 1 name files" in problems_of(shard, tmp_path)


def test_records_that_number_their_categories_need_the_names(tmp_path):
    folder = write_dataset(tmp_path / "files", "instance")
    write_shards(str(folder), [], tmp_path, tmp_path / "out", rows_per_shard=9, form="webdataset")
    (tmp_path / "out" / "categories.json").write_text('{"three": 1}')
    with pytest.raises(DataError, match="has to be an object of numbers and names"):
        opened(tmp_path / "out")
    (tmp_path / "out" / "categories.json").unlink()
    with pytest.raises(DataError, match="categories.json: no such file; records of coco_instances"):
        opened(tmp_path / "out")


def test_nothing_is_written_where_files_are_missing(tmp_path):
    folder = write_dataset(tmp_path / "files", "vqa")
    (folder / "a.jpg").unlink()
    (folder / "b.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        write_shards(str(folder), [], tmp_path, tmp_path / "out", rows_per_shard=9, form="webdataset")
    assert len(caught.value.problems) == 2 and not (tmp_path / "out").exists()
    assert "no such image" in caught.value.problems[0] and "record 0" in caught.value.problems[0]
