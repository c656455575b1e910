"""The dialogues of every golden dataset: ids and labels as the original made them, answers in its order of words."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import folders, read
from tests.released_tokens import stage_tokens

from ullava.structures import Region
from ullava.text.answers import grounded_answer, name_last, split_objects
from ullava.text.released_tokenizer import llama_tokenizer
from ullava.text.rows_ullava_v1 import released_row, with_image

CASE = pytest.mark.parametrize("folder", folders("datasets"))
VIDEO = "tgif"
MASK = np.ones((2, 2), np.bool_)
BOX = (0.0, 0.0, 2.0, 2.0)


@cache
def tokenizer_of(shared: Path, stage: int) -> Any:
    model_file = shared / "realdata" / "tokenizers" / "llama2_sp" / "tokenizer.model"
    pad, length = {1: ("[PAD]", 1024), 2: ("<unk>", 512)}[stage]
    tokens = stage_tokens(stage=stage, base_has_pad=False)
    return llama_tokenizer(model_file, tokens, pad=pad, max_length=length)


def records(folder: Path, builder: str) -> list[dict[str, Any]]:
    return read(folder, f"annotations/{read(folder)['builders'][builder]['annotation']}")


@CASE
def test_ids_and_labels_of_every_item(folder: Path, shared_dir: Path) -> None:
    case, compared = read(folder), 0
    for builder, expected in read(folder, "expected/items.json").items():
        if builder == VIDEO:  # test_video_parity.py has those
            continue
        tokenizer = tokenizer_of(shared_dir, int(expected["tokenizer"].removeprefix("stage")))
        for item in expected["items"]:
            turns = item.get("conversation") or records(folder, builder)[item["index"]]["conversations"]
            said = [(turn["from"], turn["value"]) for turn in turns]
            if item["has_image"]:
                said = with_image(said, case["image_token_len"])
            row = released_row(tokenizer, said, expected["conv_type"], tokenizer.model_max_length)
            place = f"{builder} {item['index']}"
            assert row.input_ids == item["input_ids"], place
            assert row.labels == item["labels"], place
            compared += 1
    assert compared > 30


@CASE
def test_answers_in_the_released_order(folder: Path) -> None:
    """Ours name the thing first; ``text.answer: name_last`` writes the original's words. (It says Info for parts.)"""
    compared = 0
    for expected in read(folder, "expected/items.json").values():
        for item in expected["items"]:
            for turn in (item.get("conversation") or [])[1::2]:
                answer = turn["value"].replace("Info: [SEG]", "Mask: [SEG]")
                named = re.fullmatch(r"(.*\[tag\](.*?)\[/tag\]\.)(?: Explanation: .+)?", answer)
                if named is None:  # a salient question for validation ends after [LOC]
                    assert answer == "Sure. Mask: [SEG]; Location: [LOC];"
                    continue
                ours = grounded_answer([Region(named[2], MASK, BOX)])
                assert name_last(ours) == named[1]
                found = [(thing.phrase, thing.seg_ordinal, thing.loc_ordinal) for thing in split_objects(answer)]
                assert found == [(thing.phrase, thing.seg_ordinal, thing.loc_ordinal) for thing in split_objects(ours)]
                compared += 1
    assert compared > 20
