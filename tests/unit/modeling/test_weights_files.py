from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ullava.errors import WeightsError
from ullava.modeling.loading.weight_files import prefix_hint, read_pickled_or_safe, read_state_dict

STATE = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


class RunsCode:
    """A pickle of this makes a folder when it is opened without restriction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


def shards(folder: Path, **placement: str) -> Path:
    for name in set(placement.values()):
        save_file({key: STATE[key] for key, file in placement.items() if file == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placement}))
    return folder


def test_single_file_and_folder(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert same(read_state_dict(tmp_path / "model.safetensors"))
    assert same(read_state_dict(tmp_path))


def test_shards(tmp_path):
    assert same(read_state_dict(shards(tmp_path, a="one.safetensors", b="two.safetensors")))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights.pt"])
def test_plain_pickles_are_read_by_convert_only(tmp_path, wrapper, name):
    torch.save(STATE if wrapper is None else {wrapper: STATE, "epoch": 3}, tmp_path / name)
    assert same(read_pickled_or_safe(tmp_path / name))
    with pytest.raises(WeightsError, match="ullava convert checkpoint"):
        read_state_dict(tmp_path / name)


def test_a_folder_with_a_pickle_is_refused_too(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="can run code"):
        read_state_dict(tmp_path)
    assert same(read_pickled_or_safe(tmp_path))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path, legacy):
    content = {**STATE, "payload": RunsCode(tmp_path / "made_by_the_pickle")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="refused, opening it would need to run code"):
        read_pickled_or_safe(tmp_path / "evil.pth")
    assert not (tmp_path / "made_by_the_pickle").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [([STATE["a"]], "holds list"), ({}, "holds dict"), ({"a": STATE["a"], "step": 7}, "'step' is not a tensor")],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=message):
        read_pickled_or_safe(tmp_path / "weights.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["weights.pth", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x04garbage", b"\x08" * 99])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_pickled_or_safe(tmp_path / name)


def test_missing_things_are_named(tmp_path):
    with pytest.raises(WeightsError, match="no such file or folder"):
        read_state_dict(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        read_state_dict(tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(WeightsError, match="not a weight file"):
        read_state_dict(tmp_path / "weights.npz")


def test_broken_indexes_are_refused(tmp_path):
    shards(tmp_path, a="one.safetensors", b="two.safetensors")
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"shard two\.safetensors is not there"):
        read_state_dict(tmp_path)
    save_file(STATE, tmp_path / "two.safetensors")
    with pytest.raises(WeightsError, match="a is in another shard too"):
        read_state_dict(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(WeightsError, match="not a file of the same folder"):
        read_state_dict(tmp_path)
    for text in ("{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        with pytest.raises(WeightsError, match=r"index\.json"):
            read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["weights.pth", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "is a web page or XML, not weights"),
        (b"\n<!DOCTYPE html>", "is a web page or XML, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b'{"error": 404}', "is JSON, not weights"),
    ],
)
def test_what_lies_in_the_place_of_weights_is_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        read_pickled_or_safe(tmp_path / name)


def test_files_that_are_cut_off_are_called_so(tmp_path):
    torch.save(STATE, tmp_path / "weights.pth")
    save_file(STATE, tmp_path / "model.safetensors")
    for name in ("weights.pth", "model.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-4])
        with pytest.raises(WeightsError, match=rf"{name}: is cut off"):
            read_pickled_or_safe(tmp_path / name)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, word, dtype):
    broken = {"a": torch.ones(2, dtype=dtype), "b.weight": torch.tensor([1.0, value], dtype=dtype)}
    torch.save({"model_state_dict": broken}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=rf"weights\.pth: b\.weight holds {word}"):
        read_pickled_or_safe(tmp_path / "weights.pth")


def test_masks_may_be_infinite(tmp_path):
    torch.save({"attn_mask": torch.tensor([0.0, float("-inf")])}, tmp_path / "weights.pth")
    assert "attn_mask" in read_pickled_or_safe(tmp_path / "weights.pth")


def test_a_prefix_of_a_wrapper_is_named():
    assert prefix_hint(["module.a.b", "module.a.c", "module.d"]).startswith("all 3 names begin with 'module.'; ")
    assert "'model.sam.'" in prefix_hint(["model.sam.b", "model.sam.c"])
    assert prefix_hint(["a.b", "c.d"]) == ""
