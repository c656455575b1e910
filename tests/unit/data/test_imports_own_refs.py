"""Expressions in the forms that people's own scripts write; several splits in a file are never merged unasked."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import H, W, as_json, instances, make_image, opened, read_all, ref, report

Command = Callable[..., tuple[int, str, str]]


def given(root: Path, content: Any, name: str = "refs.json") -> list[str]:
    value = instances("a.jpg")
    value["images"][1] |= {"height": H, "width": W, "file_name": "b.jpg"}
    as_json(root / "instances.json", value)
    (root / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for each in ("a.jpg", "b.jpg"):
        make_image(root / "images" / each)
    files = ["--refs", str(root / name), "--instances", str(root / "instances.json")]
    return ["data", "import", "refs", *files, "--images", str(root / "images"), "--out", str(root / "mine")]


def said(root: Path, split: str = "train") -> list[str]:
    dataset = opened(root / "mine", split)
    return [query.truth["expression"] for index in range(len(dataset)) for query in dataset.queries(index)]


# ---------------------------------------------------------------- splits
SEVERAL = [ref(1, 70, "train", "the dog"), ref(2, 71, "train", "racket"), ref(3, 71, "testA", "left")]


def test_several_splits_are_not_merged_unasked(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, SEVERAL)
    for more in ((), ("--skip-bad",)):
        code, _, err = command(*line, *more)
        assert code == 2 and not (tmp_path / "mine").exists()
        assert "refs.json: holds several splits (train 2, testA 1); say which one (--part NAME), or --part all" in err
    assert command(*line, "--part", "testA", "--split", "testA")[0] == 0 and said(tmp_path, "testA") == ["left"]
    assert command(*line, "--part", "train")[0] == 0 and said(tmp_path) == ["the dog", "racket"]
    assert command(*line, "--part", "all", "--split", "every")[0] == 0 and len(said(tmp_path, "every")) == 3


def test_one_split_or_none_needs_no_choice(command: Command, tmp_path: Path) -> None:
    assert command(*given(tmp_path, SEVERAL[:2]))[0] == 0
    bare = [{key: value for key, value in entry.items() if key != "split"} for entry in SEVERAL]
    line = given(tmp_path, bare)
    assert command(*line, "--split", "bare")[0] == 0 and len(said(tmp_path, "bare")) == 3
    mixed = given(tmp_path, [SEVERAL[0], bare[1]])
    assert "holds several splits (train 1, without a split 1)" in command(*mixed)[2]
    message = "no expressions of the split 'testa'; did you mean 'testA'? (there are: train 2, testA 1)"
    assert message in command(*given(tmp_path, SEVERAL), "--part", "testa")[2]


# ---------------------------------------------------------------- forms
def test_pickles_of_any_name_and_numbers_of_numpy_are_read(command: Command, tmp_path: Path) -> None:
    entries = [ref(1, 70, "train", "the dog"), ref(2, 71, "train", "racket")]
    numpy = [entry | {key: np.int64(entry[key]) for key in ("ref_id", "ann_id", "image_id")} for entry in entries]
    forms = {"a.pkl": numpy, "b.p": numpy, "c.pickle": entries, "d.data": numpy}
    for number, (name, content) in enumerate(forms.items()):
        line = given(tmp_path, pickle.dumps(content, 2 + number), name)
        assert command(*line, "--split", f"s{number}")[0] == 0, name
        assert said(tmp_path, f"s{number}") == ["the dog", "racket"]
    arrays = pickle.dumps([entries[0] | {"ann_id": np.array([70])}])
    code, _, err = command(*given(tmp_path, arrays, "e.p"))
    assert code == 2 and "e.p: refused: it names numpy" in err and "write it again as JSON" in err
    several = pickle.dumps([ref(1, [np.int64(70), np.int64(71)], "train", "both", no_target=False)])
    assert command(*given(tmp_path, several, "f.p"), "--out", str(tmp_path / "both"))[0] == 0
    assert read_all(opened(tmp_path / "both")) == 2


def test_sentences_may_be_plain_texts(command: Command, tmp_path: Path) -> None:
    forms = [["the dog", {"sent": "it"}], "the racket"]
    entries = [ref(1, 70) | {"sentences": forms[0]}, ref(2, 71) | {"sentences": forms[1]}]
    assert command(*given(tmp_path, entries))[0] == 0
    assert said(tmp_path) == ["the dog", "it", "the racket"]


FAULTS = {
    "no list": ({"sentences": None}, "entry 1: 'sentences' has to be a list of expressions, not NoneType"),
    "object": ({"sentences": {"sent": "a"}}, "entry 1: 'sentences' has to be a list of expressions, not dict"),
    "number": ({"sentences": [7]}, "entry 1: an entry of 'sentences' has to be text, not int"),
    "number within": ({"sentences": [{"sent": 7}]}, "entry 1: 'sent' has to be text, not int"),
    "split as object": ({"split": {"a": 1}}, "entry 1: 'split' has to be text, not dict"),
    "split as list": ({"split": ["train"]}, "entry 1: 'split' has to be text, not list"),
    "special token": ({"sentences": ["dog [SEG]"]}, "ref_id 2: an expression holds the special token [SEG]"),
    "image marker": ({"sentences": ["<image>dog"]}, "ref_id 2: an expression holds the special token <image>"),
    "end of text": ({"sentences": ["dog</s>"]}, "ref_id 2: an expression holds the special token </s>"),
    "control": ({"sentences": ["a\x07b"]}, "ref_id 2: an expression holds the control character U+0007"),
    "line break": ({"sentences": ["a\nb"]}, "ref_id 2: an expression holds a line break"),
    "too long": ({"sentences": ["a" * 5000]}, "ref_id 2: an expression has 5000 letters, more than 2000"),
    "blank": ({"sentences": [" "]}, "ref_id 2: a blank expression"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_entries_are_named_and_left_out(command: Command, tmp_path: Path, fault: str) -> None:
    changes, message = FAULTS[fault]
    line = given(tmp_path, [ref(1, 70), ref(2, 71) | changes])
    code, _, err = command(*line)
    assert code == 2 and f"refs.json: {message}" in err and "Traceback" not in err
    code, _, _ = command(*line, "--skip-bad")
    assert code == 0 and said(tmp_path) == ["it"]
    assert any(message.split(": ", 1)[1] == entry["reason"] for entry in report(tmp_path / "mine")["left_out"])


def test_half_a_surrogate_pair_and_deep_nesting_are_refused(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path, [ref(1, 70, "train", "a \ud83d")])
    assert "half of a surrogate pair in the text of [0].sentences[0].sent" in command(*line)[2]
    line = given(tmp_path, json.dumps([ref(1, 70)])[:-1].encode() + b', "x": ' + b"[" * 5000)
    assert command(*line)[0] == 2
    line = given(tmp_path, ("[" * 5000 + "]" * 5000).encode())
    assert "nested too deeply" in command(*line)[2]


@pytest.mark.parametrize("kind", ["coco", "refs"])
def test_another_encoding_is_refused_until_it_is_said(command: Command, tmp_path: Path, kind: str) -> None:
    line = given(tmp_path, json.dumps([ref(1, 70, "train", "红色的猫")], ensure_ascii=False).encode("gbk"))
    wrong = tmp_path / "refs.json"
    if kind == "coco":
        wrong = tmp_path / "instances.json"
        value = json.loads(wrong.read_text())
        value["categories"][0]["name"] = "红色的猫"
        wrong.write_bytes(json.dumps(value, ensure_ascii=False).encode("gbk"))
        line = ["data", "import", "coco", "--annotations", str(wrong), *line[line.index("--images") :]]
    code, _, err = command(*line)
    assert code == 2 and f"{wrong}:1: not UTF-8 text near byte" in err and "--encoding" in err
    assert command(*line, "--encoding", "gbk")[0] == 0
    queries = opened(tmp_path / "mine").queries(0)
    assert "红色的猫" in {query.truth["category" if kind == "coco" else "expression"] for query in queries}
