"""Pickles of plain values and numpy's numbers are read; nothing in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.data.converters.published.pickles import is_pickle, read_plain_pickle
from ullava.errors import DataError

NUMBERS = [
    np.int64(-5), np.int32(7), np.uint8(200), np.uint64(2**63), np.float32(1.5), np.float64(-2.25), np.float16(0.5),
    np.bool_(True), np.str_("naïve 猫"), np.int16(-3),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_of_numpy_come_out_as_plain_values(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.p").write_bytes(pickle.dumps({"numbers": NUMBERS, "raw": b"\xff"}, protocol))
    found = read_plain_pickle(tmp_path / "a.p")
    assert found == {"numbers": [value.item() for value in NUMBERS], "raw": b"\xff"}
    assert {type(value) for value in found["numbers"]} == {int, float, bool, str}


def test_numbers_of_another_machine_and_of_older_numpy(tmp_path: Path) -> None:
    value = np.array([258], ">i4")[0]
    other = pickle.dumps(np.int64(258), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    big = pickle.dumps(np.dtype(">i4").type(258), 2).replace(b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>")
    for content, wanted in ((other, 258), (pickle.dumps(value, 2), 258), (big, 0x02010000)):
        (tmp_path / "a.p").write_bytes(content)
        assert read_plain_pickle(tmp_path / "a.p") == wanted


class _Harm:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.arange(3), "it holds numpy arrays; write it again as JSON"),
        (np.datetime64("2020-01-01"), "numpy values of the kind 'M8'"),
        (np.complex64(1), "numpy values of the kind 'c8'"),
        ({1}, None),
        (Path("a"), "it names pathlib"),
        (_Harm(print, ("x",)), "it names builtins.print"),
        (_Harm(np.load, ("x",)), "it names numpy.load"),
        (_Harm(pickle.loads, (b"x",)), "it names _pickle.loads"),
    ],
)
def test_everything_else_is_refused_with_a_way_out(tmp_path: Path, value: Any, reason: str | None) -> None:
    (tmp_path / "a.p").write_bytes(pickle.dumps(value, 4))
    if reason is None:
        assert read_plain_pickle(tmp_path / "a.p") == value
        return
    with pytest.raises(DataError, match="a.p: refused: ") as caught:
        read_plain_pickle(tmp_path / "a.p")
    assert reason in str(caught.value) and "json.dump" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\ndtype\n}(U__class__\nX\x01\x00\x00\x00aub.",
        b"cnumpy._core.multiarray\nscalar\n}U\x04codeU\x01xsb.",
        b"cnumpy._core.multiarray\nscalar\n(NN}U\x08__call__U\x01xst\x86b.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        b"c_codecs\nencode\n(K\x01tR.",
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.",
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00i8tRU\x02abtR.",
        b"cnumpy._core.multiarray\nscalar\n(K\x01tR.",
        b"\x80\x02cullava.data.originals.pickles\nos\n.",
        b"\x80\x04]\x94(",
        b"",
        b"[1, 2]",
    ],
)
def test_crafted_and_broken_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.p").write_bytes(content)
    with pytest.raises(DataError, match="a.p: "):
        read_plain_pickle(tmp_path / "a.p")


def test_pickles_are_known_by_name_and_by_content(tmp_path: Path) -> None:
    for name in ("a.p", "a.pkl", "a.pickle", "a.PKL"):
        assert is_pickle(tmp_path / name)
    (tmp_path / "a.data").write_bytes(pickle.dumps([1], 2))
    (tmp_path / "a.json").write_text("[1]")
    assert is_pickle(tmp_path / "a.data") and not is_pickle(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such file"):
        is_pickle(tmp_path / "none.json")
