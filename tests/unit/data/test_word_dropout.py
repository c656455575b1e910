"""Word dropout hides words of the answers and nothing else, and the same ones every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ullava.data.loading.encode import EncodedMixture
from ullava.data.sampling.word_dropout import WordDropout
from ullava.examples import Example
from ullava.structures import Sample
from ullava.text.tokens import IGNORE_LABEL

PROMPT, ANSWER = 400, 4000
MARKER = 7


class Words:
    """As much of a tokenizer as word dropout asks of one."""

    pad_token_id = 0
    unk_token_id: int | None = None
    all_special_ids = (0, 1)

    def get_added_vocab(self) -> dict[str, int]:
        """One marker."""
        return {"[SEG]": MARKER}


def _example() -> Example:
    ids = np.random.default_rng(0).integers(MARKER, 50, PROMPT + ANSWER)
    labels = ids.copy()
    labels[:PROMPT] = IGNORE_LABEL
    return Example("s", "d", "vqa", ids, labels, (), (), np.zeros((0, 4), dtype=np.float32))


def test_only_words_of_the_answer_are_hidden_and_labels_stay() -> None:
    example = _example()
    dropped = WordDropout.of(Words(), 0.25, seed=3)(example, 11)
    changed = dropped.input_ids != example.input_ids
    assert not changed[:PROMPT].any() and not changed[example.input_ids == MARKER].any()
    assert set(dropped.input_ids[changed]) == {0}
    assert 0.22 < changed[PROMPT:].mean() < 0.28
    assert dropped.labels is example.labels and dropped.name == example.name


def test_what_is_hidden_depends_on_seed_and_position_alone() -> None:
    example = _example()
    first = WordDropout.of(Words(), 0.25, seed=3)
    again = WordDropout.of(Words(), 0.25, seed=3)(example, 11).input_ids
    assert np.array_equal(first(example, 11).input_ids, again)
    assert not np.array_equal(first(example, 12).input_ids, again)
    assert not np.array_equal(WordDropout.of(Words(), 0.25, seed=4)(example, 11).input_ids, again)


def test_the_unknown_word_hides_where_a_tokenizer_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "unk_token_id", 5)
    dropped = WordDropout.of(Words(), 0.25, seed=3)(_example(), 11).input_ids
    assert (dropped == 5).any() and not (dropped == 0).any()


def test_a_mixture_hides_words_only_where_it_is_told_to() -> None:
    class Mixture:
        def __len__(self) -> int:
            return 1

        def sample(self, position: int) -> Sample:
            return Sample(name="s", dataset="d", task="vqa", images=(), turns=())

    class Encoder:
        video_frames = 0

        def encode(self, *_: Any, **__: Any) -> Example:
            return _example()

    plain = EncodedMixture(Mixture(), Encoder())[0]
    hidden = EncodedMixture(Mixture(), Encoder(), word_dropout=WordDropout.of(Words(), 0.25, seed=3))[0]
    assert np.array_equal(plain.input_ids, _example().input_ids)
    assert (hidden.input_ids != plain.input_ids).sum() > 800
