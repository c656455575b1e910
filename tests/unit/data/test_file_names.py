"""Names of files as other machines write them find the file that is meant, or are refused with the true reason."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from ullava.data.annotations.file_names import find_below, find_from, last_part, utf8_name
from ullava.errors import DataError, SampleError
from ullava.inference.batch import read_questions

NFC = unicodedata.normalize("NFC", "café é.jpg")
NFD = unicodedata.normalize("NFD", NFC)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    "name", ["a/b 1/p.jpg", "a\\b 1\\p.jpg", "a\\b 1/p.jpg", ".\\a\\b 1\\p.jpg", "./a/b 1/p.jpg", "a//b 1/p.jpg"]
)
def test_either_slash_finds_a_file_below(tmp_path: Path, name: str) -> None:
    there = put(tmp_path / "a" / "b 1" / "p.jpg")
    assert find_below(tmp_path, name) == there == find_from(tmp_path, name)


def test_a_backslash_in_the_name_of_a_file_that_is_there_stays(tmp_path: Path) -> None:
    there = put(tmp_path / "a\\p.jpg")
    put(tmp_path / "a" / "p.jpg")
    assert find_below(tmp_path, "a\\p.jpg") == there


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("..\\..\\store\\p.jpg", "it leads out with '..'"),
        ("../p.jpg", "it leads out with '..'"),
        ("a\\..\\..\\p.jpg", "it leads out with '..'"),
        ("D:\\photos\\p.jpg", "it is absolute"),
        ("d:/photos/p.jpg", "it is absolute"),
        ("\\\\server\\share\\p.jpg", "it is absolute"),
        ("\\photos\\p.jpg", "it is absolute"),
        ("/data/photos/p.jpg", "it is absolute"),
    ],
)
def test_paths_that_lead_out_are_refused_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError, match="has to be a path below the folder of the images") as caught:
        find_below(tmp_path, name)
    assert str(caught.value).endswith(f": {reason}")
    put(tmp_path / "p.jpg")
    with pytest.raises(DataError) as caught:
        find_below(tmp_path, name, "image")
    assert str(caught.value) == (
        f"'image' has to be a path below the folder of the images, not '{name}': {reason}; 'p.jpg' is in the folder"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (7, "has to be text, not int"),
        (None, "has to be text, not NoneType"),
        ({"a": 1}, "has to be text, not dict"),
        ("", "names no file"),
        ("  ", "names no file"),
        ("a\0b.jpg", "'a\\0b.jpg' holds a null character"),
        ("é" * 5000, "is longer than names of files can be (5000 letters)"),
        ("a/" * 5000, "is longer than names of files can be (10000 letters)"),
        ("\ud800.jpg", "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_a_name_is_refused_in_one_line(tmp_path: Path, name: object, message: str) -> None:
    for find in (find_below, find_from):
        with pytest.raises(DataError) as caught:
            find(tmp_path, name)
        assert message in str(caught.value) and len(str(caught.value)) < 200


def test_the_folder_itself_is_no_image_but_may_be_the_folder_of_images(tmp_path: Path) -> None:
    assert find_from(tmp_path, ".") == tmp_path
    with pytest.raises(DataError, match="it names the folder itself"):
        find_below(tmp_path, ".")


@pytest.mark.parametrize(("written", "on_disk"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_accents_are_found_in_either_form(tmp_path: Path, written: str, on_disk: str) -> None:
    there = put(tmp_path / on_disk / NFC / "p.jpg")
    assert find_below(tmp_path, f"{written}/{NFD}\\p.jpg") == there
    assert find_from(tmp_path, f"{written}/{NFC}/p.jpg") == there
    assert find_below(tmp_path, f"{written}/none.jpg") == tmp_path / on_disk / "none.jpg"


def test_two_files_that_differ_only_in_their_accents_are_named(tmp_path: Path) -> None:
    for name in (NFC, NFD):
        put(tmp_path / name)
    for written in (NFC, NFD):
        with pytest.raises(DataError, match="differs from .* only in how accents are written"):
            find_below(tmp_path, written)


def test_prompts_may_lie_anywhere_but_not_on_another_machine(tmp_path: Path) -> None:
    there = put(tmp_path / "a" / "p.jpg")
    (tmp_path / "b").mkdir()
    assert find_from(tmp_path / "b", "..\\a\\p.jpg").resolve() == there
    assert find_from(tmp_path / "b", str(there)) == there
    with pytest.raises(DataError, match="absolute path of a Windows machine"):
        find_from(tmp_path, "C:\\photos\\p.jpg")


def test_the_last_part_and_names_that_are_no_text(tmp_path: Path) -> None:
    assert [last_part(name) for name in ("C:\\a\\p.jpg", "a/b\\p.jpg", "p.jpg", "")] == ["p.jpg"] * 3 + [""]
    with pytest.raises(DataError, match=r"not UTF-8 text: b'caf\\xe9.jpg'; rename it"):
        utf8_name(tmp_path / os.fsdecode(b"caf\xe9.jpg"))


def test_readers_and_prompts_find_them_too(build, data_folder, tmp_path: Path) -> None:
    data_folder.image(f"sub/{NFD}", np.full((20, 30, 3), 90, np.uint8))
    words = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "That."}]
    dataset = build("llava_json", [{"id": 1, "image": f"sub\\{NFC}", "conversations": words}])
    assert dataset.queries(0)[0].images == (data_folder.root / "sub" / NFD,)
    questions = data_folder.root / "asked.jsonl"
    questions.write_text(json.dumps({"image": f"sub\\{NFC}", "prompt": "What?"}), encoding="utf-8")
    assert read_questions(questions)[0].images == (data_folder.root / "sub" / NFD,)
    questions.write_text(json.dumps({"image": "C:\\a.jpg", "prompt": "What?"}), encoding="utf-8")
    with pytest.raises(DataError, match="asked.jsonl:1: 'C:.a.jpg' is an absolute path of a Windows machine"):
        read_questions(questions)


def test_a_record_with_an_overlong_name_is_one_bad_sample(build) -> None:
    words = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "That."}]
    dataset = build("llava_json", [{"id": 1, "image": "a" * 5000, "conversations": words}])
    with pytest.raises(SampleError, match=r"record 0: 'aaaaa.*\.\.\.' is longer than names of files can be"):
        dataset.queries(0)


def test_a_path_of_the_command_line_may_be_too_long(command, tmp_path: Path) -> None:
    long = "a" * 5000
    code, _, err = command("data", "import", "coco", "--images", long, "--annotations", long, "--out", str(tmp_path))
    assert code == 2 and err.startswith("error: 'aaa") and err.endswith("the path is too long\n")
