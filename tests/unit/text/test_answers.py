from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ullava.structures import Region
from ullava.text.answers import (
    CaptionPhrase,
    grounded_answer,
    grounded_caption,
    name_last,
    no_target_answer,
    split_objects,
)
from ullava.text.tokens import LOC, SEG, plain_places, strip_grounding

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


# ---------------------------------------------------------------- captions
def caption_of(*phrases: tuple[str, int]) -> tuple[str, list[CaptionPhrase]]:
    """The caption ``p 0, p 1 and p 2.`` of the phrases, with so many masks each."""
    caption = ", then ".join(words for words, _ in phrases) + "'s end."
    made, here = [], 0
    for words, count in phrases:
        start = caption.index(words, here)
        here = start + len(words)
        made.append(CaptionPhrase((start, here), tuple(Region(words, MASK) for _ in range(count))))
    return caption, made


def test_a_caption_is_read_back_with_its_phrases() -> None:
    caption, phrases = caption_of(("Two red circles", 2), ("a star", 1), ("three hearts", 3))
    text = grounded_caption(caption, phrases)
    assert text.startswith(f"[tag]Two red circles[/tag]{SEG}{SEG}, then [tag]a star[/tag]{SEG}, then")
    assert strip_grounding(text) == caption
    found = split_objects(text)
    assert [item.seg_ordinal for item in found] == list(range(6))
    assert [item.group for item in found] == [0, 0, 1, 2, 2, 2]
    assert [caption[slice(*item.plain_span)] for item in found] == [item.phrase for item in found]
    assert [item.phrase for item in found][::2] == ["Two red circles", "a star", "three hearts"]
    assert len({item.span for item in found}) == 3
    assert text[slice(*found[-1].span)] == f"[tag]three hearts[/tag]{SEG}{SEG}{SEG}"


def test_a_box_without_a_mask_is_located() -> None:
    phrases = [CaptionPhrase((0, 5), (Region("A dog", None, BOX), Region("A dog", MASK, BOX)))]
    assert grounded_caption("A dog runs.", phrases) == f"[tag]A dog[/tag]{LOC}{SEG} runs."


@pytest.mark.parametrize("spans", [[(0, 5), (4, 8)], [(6, 8), (0, 5)], [(0, 99)], [(5, 2)]])
def test_phrases_in_disorder_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="one after the other"):
        grounded_caption("A dog runs.", [CaptionPhrase(span, (Region("x", MASK),)) for span in spans])
    with pytest.raises(ValueError, match="'A dog' speaks of nothing"):
        grounded_caption("A dog runs.", [CaptionPhrase((0, 5), ())])


@pytest.mark.parametrize(
    ("text", "phrases", "groups"),
    [
        (f"<p> [tag] a dog [/tag] {SEG} {SEG}", ["a dog", "a dog"], [0, 0]),
        (f"[tag]a[/tag]: Mask {SEG}; Mask {SEG}.", ["a", "a"], [0, 0]),
        (f"[tag]a[/tag]: {SEG}, {SEG} and {SEG}. It is {SEG}", ["a", "a", "a", ""], [0, 0, 0, 1]),
        (f"[tag]a[/tag]{SEG}{LOC}{SEG}{LOC} [tag]a[/tag]{SEG}", ["a", "a", "a"], [0, 0, 1]),
        (f"Mask: {SEG}; Mask: {SEG}; [tag]cups[/tag]. {SEG} {SEG}", ["cups", "cups", "", ""], [0, 0, 1, 2]),
        (f"[tag]none[/tag] and [tag]two[/tag]{SEG}{SEG}", ["two", "two"], [0, 0]),
        (f"[tag][tag]a[tag] two[/tag]{SEG}{SEG}", ["two", "two"], [0, 0]),
    ],
)
def test_several_tokens_of_one_phrase_keep_its_name(text: str, phrases: list[str], groups: list[int]) -> None:
    found = split_objects(text)
    assert [item.phrase for item in found] == phrases and [item.group for item in found] == groups
    plain = strip_grounding(text)
    assert all(plain[slice(*item.plain_span)] == item.phrase for item in found if item.phrase)


@given(
    st.text(alphabet="aM [].;:,\n", max_size=40), st.lists(st.sampled_from([SEG, LOC, "Mask ", "[tag]"]), max_size=4)
)
def test_places_of_the_plain_words(words: str, tokens: list[str]) -> None:
    text = words.join(["", *tokens, ""])
    plain, places = plain_places(text)
    assert len(plain) == len(places) and sorted(set(places)) == places
    assert all(
        text[place] == sign or (sign == " " and text[place].isspace())
        for sign, place in zip(plain, places, strict=True)
    )
