"""How alike two phrases are: by their words, or by an encoder's states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ullava.text.normalization import content_words

WORDS = "words"
"""The default rule's name in a recipe."""


class PhraseSimilarity(Protocol):
    """``name`` is how figures are called that depend on it."""

    name: str

    def __call__(self, true: Sequence[str], said: Sequence[str]) -> NDArray[np.float64]:
        """Return how alike phrases are by pairs, [true, said], 1 for the same."""
        ...


class WordSimilarity:
    """The share of words that two phrases have in common, of all that either has: intersection over union.

    Lower case, without articles unless there is nothing else. It needs no model and is stricter than an encoder, for
    which "a red circle" and "a blue circle" are much alike: here they are at 1/3.
    """

    name = WORDS

    def __call__(self, true: Sequence[str], said: Sequence[str]) -> NDArray[np.float64]:
        """See PhraseSimilarity; two phrases without a word are alike."""
        first, second = ([frozenset(content_words(phrase)) for phrase in phrases] for phrases in (true, said))
        table = np.zeros((len(first), len(second)))
        for row, one in enumerate(first):
            for column, other in enumerate(second):
                table[row, column] = len(one & other) / len(one | other) if one | other else 1.0
        return table


def similarity_of(named: str) -> PhraseSimilarity:
    """Return the rule of a recipe's ``phrase_similarity``: ``words``, or an encoder by folder or Hub id.

    Raises UserError for what is neither, or cannot be read.
    """
    if named == WORDS:
        return WordSimilarity()
    from ullava.evaluation.phrase_encoder import EncoderSimilarity

    return EncoderSimilarity.load(named)
