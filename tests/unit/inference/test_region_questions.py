"""Regions at the doors: ``answer``, a chat, ``ullava predict`` and files of questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.modeling.conftest import build_small, make_image

from ullava.cli.main import main
from ullava.errors import DataError, UserError
from ullava.geometry import rle_encode
from ullava.geometry.region_prompts import as_region, region_inside, region_to_json
from ullava.inference import load as loading
from ullava.inference.batch import read_questions
from ullava.inference.predictor import Predictor
from ullava.structures import Answer, RegionPrompt

IMAGE = make_image(0)
ASKED = "What is <region>?"


@pytest.fixture(scope="module")
def pointed() -> Predictor:
    """A small model that takes regions."""
    return Predictor(*build_small(("vision.regions={}",)))


@pytest.fixture
def folder(tmp_path: Path, pointed: Predictor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Somewhere with an image; the command line finds the small model whatever it is called."""
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load", lambda *args, **options: pointed)
    monkeypatch.setattr(loading, "weights_folder", lambda name: tmp_path)
    yield tmp_path


# ---------------------------------------------------------------- forms
def test_every_form_is_the_same_region() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:5, 1:7] = True
    box = RegionPrompt((1.0, 2.0, 7.0, 5.0))
    for given in ([1, 2, 7, 5], (1.0, 2, 7, 5), np.array([1, 2, 7, 5]), {"box": [1, 2, 7, 5]}, box):
        assert as_region(given) == box
    for given in (mask, rle_encode(mask), {"mask": rle_encode(mask)}):
        found = as_region(given)
        assert found.box_xyxy_px == box.box_xyxy_px and found.mask is not None and (found.mask == mask).all()
    assert as_region({"box": [1, 2, 7, 5], "image": 1}).image == 1
    for region in (
        box,
        as_region({"box": [1, 2, 7, 5], "image": 1}),
        as_region({"mask": rle_encode(mask), "image": 0}),
    ):
        again = as_region(json.loads(json.dumps(region_to_json(region))))
        assert (again.box_xyxy_px, again.image) == (region.box_xyxy_px, region.image)
        assert (again.mask is None) == (region.mask is None)
    assert region_inside(RegionPrompt((-0.5, 0.0, 8.9, 6.0)), (6, 8)).box_xyxy_px == (0.0, 0.0, 8.0, 6.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 2, 3], "is neither a box"),
        ([1, 2, 3, float("nan")], "is neither a box"),
        ([1, 2, 3, True], "is neither a box"),
        ("1,2,3,4", "is neither a box"),
        (np.zeros((4, 4)), "is a mask of float64"),
        (np.zeros((4, 4), dtype=bool), "is a mask without a pixel"),
        ([5, 2, 3, 4], r"\[5, 2, 3, 4\] is empty or inside out"),
        ({"size": [4, 4]}, "RLE lacks counts"),
        ({"box": [1, 2, 3, 4], "img": 1}, "unknown key 'img'.*image"),
        ({"box": [1, 2, 3, 4], "mask": {}}, "both 'box' and 'mask'"),
        ({"box": [1, 2, 3, 4], "image": -1}, "number of an image, from 0, not -1"),
    ],
)
def test_what_is_no_region_is_refused(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_region(given)


# ---------------------------------------------------------------- Python
def test_answers_depend_on_the_region_alone(pointed: Predictor) -> None:
    mask = np.zeros(IMAGE.shape[:2], dtype=bool)
    mask[4:30, 3:20] = True
    one = pointed.answer(IMAGE, ASKED, regions=[[3, 4, 20, 30]], max_new_tokens=8)
    same = pointed.answer(IMAGE, ASKED, regions=[mask], max_new_tokens=8)
    assert isinstance(one, Answer) and one.text == same.text, "a mask that fills its box is the box"
    *_, streamed = pointed.stream(IMAGE, ASKED, regions=[mask], max_new_tokens=8)
    assert isinstance(streamed, Answer) and streamed.text == one.text


def test_a_chat_keeps_what_was_pointed_at(pointed: Predictor) -> None:
    chat = pointed.chat(IMAGE, max_new_tokens=4)
    first = chat.ask(ASKED, regions=[[3, 4, 20, 30]])
    second = chat.ask("Is it left of <region>?", regions=[[30, 4, 50, 30]])
    history = [(ASKED, first)]
    again = pointed.answer(IMAGE, "Is it left of <region>?", history=history, max_new_tokens=4,
                           regions=[[3, 4, 20, 30], [30, 4, 50, 30]])  # fmt: skip
    assert second.text == again.text
    chat.undo()
    assert chat.ask("Is it left of <region>?", regions=[[30, 4, 50, 30]]).text == second.text
    with pytest.raises(UserError, match="the question says <region>, but no region is given"):
        chat.ask("And <region>?")
    assert len(chat.history) == 2


def test_questions_that_do_not_fit_are_refused(pointed: Predictor, tiny_like: Predictor) -> None:
    with pytest.raises(UserError, match="1 <region> markers, 2 regions"):
        pointed.answer(IMAGE, ASKED, regions=[[1, 1, 5, 5]] * 2)
    with pytest.raises(UserError, match="says <region>, but no region"):
        pointed.answer(IMAGE, ASKED)
    with pytest.raises(UserError, match=r"regions\[0\] \[3, 4, 90, 30\] leaves the image of 56 x 40"):
        pointed.answer(IMAGE, ASKED, regions=[[3, 4, 90, 30]])
    with pytest.raises(UserError, match="takes no regions: its model.yaml has no vision.regions"):
        tiny_like.answer(IMAGE, ASKED, regions=[[3, 4, 20, 30]])


@pytest.fixture(scope="module")
def tiny_like() -> Predictor:
    """A small model that takes none."""
    return Predictor(*build_small())


# ---------------------------------------------------------------- command line
def test_predict_points_at_boxes(folder: Path, pointed: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["predict", "--image", "a.png", "--prompt", "Is <region> left of <region>?", "--max-new-tokens", "6"]
    assert main([*asked, "--region", "3,4,20,30", "--region", "30, 4, 50, 30", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["regions"] == [[3.0, 4.0, 20.0, 30.0], [30.0, 4.0, 50.0, 30.0]]
    regions = [[3, 4, 20, 30], [30, 4, 50, 30]]
    assert record["text"] == pointed.answer("a.png", asked[4], regions=regions, max_new_tokens=6).text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--region", "1,2,3"], "--region '1,2,3' is neither a box"),
        (["--region", "1,2,3,x"], "--region '1,2,3,x' is not four numbers X1,Y1,X2,Y2"),
        (["--region", "1,1,9,9", "--region", "2,2,9,9"], "--prompt: has 1 <region> markers for 2 regions"),
        (["--region", "1,1,99,9"], "regions[0] [1, 1, 99, 9] leaves the image of 56 x 40"),
        (["--region", "1,1,9,9", "--image", "a.png"], "--region points into one --image"),
        ([], "the question says <region>, but no region is given"),
    ],
)
def test_flags_that_do_not_fit(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["predict", "--image", "a.png", "--prompt", ASKED, *flags]) == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


def test_a_file_of_questions(folder: Path, pointed: Predictor) -> None:
    mask = np.zeros(IMAGE.shape[:2], dtype=bool)
    mask[4:30, 3:9] = True
    lines = [
        {"image": "a.png", "prompt": ASKED, "regions": [[3, 4, 20, 30]], "id": "box"},
        {"image": "a.png", "prompt": ASKED, "regions": [rle_encode(mask)], "id": "mask"},
        {"image": "a.png", "prompt": "What is it?", "id": "none"},
    ]
    file = folder / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    command = ["predict", "--input", str(file), "--out", "out", "--max-new-tokens", "4"]
    assert main(command) == 0
    records = [json.loads(line) for line in (folder / "out" / "answers.jsonl").read_text().splitlines()]
    assert [record.get("regions") for record in records] == [[[3.0, 4.0, 20.0, 30.0]], [rle_encode(mask)], None]
    assert main(command) == 0, "what was answered is known again"
    lines[0]["regions"] = [[3, 4, 20, 31]]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert main(command) == 2, "another region is another question"


def test_lines_that_do_not_fit_are_named(folder: Path) -> None:
    file = folder / "asked.jsonl"
    file.write_text(
        '{"image": "a.png", "prompt": "What is <region>?", "regions": [[1, 2, 3]]}\n'
        '{"image": "a.png", "prompt": "What is it?", "regions": [[1, 2, 3, 4]]}\n'
        '{"image": "a.png", "prompt": "What is <region>?", "region": [[1, 2, 3, 4]]}\n'
    )
    with pytest.raises(DataError) as found:
        read_questions(file)
    told = "\n".join(found.value.problems)
    for wanted in ("asked.jsonl:1: regions[0] is neither",
                   "asked.jsonl:2: prompt: has 0 <region> markers for 1 regions",
                   "asked.jsonl:3: unknown key 'region'; did you mean 'regions'"):  # fmt: skip
        assert wanted in told, told
