from __future__ import annotations

import numpy as np
import pytest

from ullava.structures import Region
from ullava.text.answers import grounded_answer, name_last, no_target_answer, split_objects
from ullava.text.tokens import LOC, SEG, strip_grounding

MASK = np.ones((2, 2), dtype=bool)
BOX = (0.0, 0.0, 2.0, 2.0)


def test_answer_and_reading_back_agree() -> None:
    regions = [Region("Red circle", MASK, BOX), Region("star", MASK, None), Region("heart", None, BOX)]
    text = grounded_answer(regions, "It is the largest.")
    found = split_objects(text)
    assert [item.phrase for item in found] == ["red circle", "star", "heart"]
    assert [item.seg_ordinal for item in found] == [0, 1, None]
    assert [item.loc_ordinal for item in found] == [0, None, 1]
    assert text[slice(*found[0].span)] == "[tag]red circle[/tag]: Mask [SEG]; Location [LOC]"
    assert text[slice(*found[2].span)] == "[tag]heart[/tag]: Location [LOC]"
    assert text.endswith("It is the largest.")


def test_every_region_without_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="neither mask nor box"):
        grounded_answer([Region("ghost")])
    with pytest.raises(ValueError, match="no_target_answer"):
        grounded_answer([])


def test_no_target_holds_no_grounding_token() -> None:
    text = no_target_answer("the red star ")
    assert text == "No such object: the red star."
    assert split_objects(text) == []


@pytest.mark.parametrize(
    ("text", "ordinals"),
    [
        (f"It is {SEG}.", [(0, None)]),
        (f"{SEG}{SEG}", [(0, None), (1, None)]),
        (f"{LOC} {SEG} [tag]a[/tag] {SEG}", [(0, 0), (1, None)]),
        (f"Mask {SEG}; Location {LOC}; [tag]a[/tag]. Mask {SEG}; [tag]b[/tag].", [(0, 0), (1, None)]),
        (f"[tag]a[/tag]: {SEG} {SEG} [tag]b[/tag] {LOC}", [(0, None), (1, None), (None, 0)]),
        ("[tag]a word without a place[/tag]", []),
        (f"{SEG} [tag]never closed", [(0, None)]),
    ],
)
def test_free_forms_are_read(text: str, ordinals: list[tuple[int | None, int | None]]) -> None:
    assert [(item.seg_ordinal, item.loc_ordinal) for item in split_objects(text)] == ordinals


def test_plain_text_has_only_words() -> None:
    text = grounded_answer([Region("star", MASK, BOX)], "It is big.")
    assert strip_grounding(text) == "Sure. star. It is big."


def test_the_name_may_come_last() -> None:
    regions = [Region("Cup", MASK, BOX), Region("a plate", None, BOX), Region("fork", MASK)]
    text = name_last(grounded_answer(regions, "It is big."))
    assert text == (
        "Sure. Mask: [SEG]; Location: [LOC]; [tag]cup[/tag]. Location: [LOC]; [tag]a plate[/tag]. "
        "Mask: [SEG]; [tag]fork[/tag]. It is big."
    )
    assert [found.phrase for found in split_objects(text)] == ["cup", "a plate", "fork"]
    assert name_last("The cup is red.") == "The cup is red."
