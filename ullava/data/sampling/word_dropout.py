"""Word dropout: some words of the answers so far are hidden from the model while it learns to go on with them.

A model that always reads the color it has just said learns which shapes go with it and stops looking: it never says
"red diamond" if training had none. With words hidden at random (Bowman et al. 2016, "Generating Sentences from a
Continuous Space", part 3.1) the image has to be asked. What is to be said, the labels, stays whole.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullava.examples import Example
from ullava.text.tokens import IGNORE_LABEL


@dataclass(frozen=True, slots=True)
class WordDropout:
    """Hides each supervised token with probability ``share``; the same ones for the same ``seed`` and position."""

    share: float
    hidden_id: int
    spared_ids: NDArray[np.int64]
    seed: int

    @classmethod
    def of(cls, tokenizer: Any, share: float, seed: int) -> WordDropout:
        """Hide behind the unknown word, or padding where the tokenizer has none; markers such as [SEG] are spared."""
        hidden = tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        markers: Collection[int] = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        return cls(share, int(hidden), np.array(sorted(markers), dtype=np.int64), seed)

    def __call__(self, example: Example, position: int) -> Example:
        """The example with other ``input_ids`` [L]; images, masks and labels are the same objects."""
        words = (example.labels != IGNORE_LABEL) & ~np.isin(example.input_ids, self.spared_ids)
        chosen = np.random.default_rng([self.seed, position]).random(len(words)) < self.share
        return replace(example, input_ids=np.where(words & chosen, self.hidden_id, example.input_ids))
