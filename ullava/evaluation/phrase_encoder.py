"""Phrases compared by an encoder, as GLaMM's evaluation does with BERT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from ullava.hub import find_folder
from ullava.modeling.loading.pretrained import read_config, read_network, read_tokenizer
from ullava.modeling.loading.strict_loading import refuse_misfits

LONGEST = 512
"""Tokens of a phrase that are read, as in GLaMM's evaluation."""
_BESIDE, _UNREAD = ("cls.*", "lm_head.*"), ("pooler.*",)
"""Weights of an encoder's file that belong to other heads, and of the network that the mean does not pass through."""


class EncoderSimilarity:
    """The cosine of the means of two phrases' last hidden states, all tokens counted (``[CLS]`` and ``[SEP]`` too)."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self._known: dict[str, NDArray[np.float64]] = {}

    @classmethod
    def load(cls, named: str) -> EncoderSimilarity:
        """Open an encoder by folder or Hub id. Raises UserError for what is missing, damaged or incomplete."""
        folder = find_folder(named, Path(), "phrase_similarity")
        model, info = read_network(AutoModel, folder, config=read_config(folder), dtype=torch.float32)
        refuse_misfits(info, folder, beside=_BESIDE, unread=_UNREAD)
        return cls(model, read_tokenizer(folder), named.rstrip("/").rsplit("/", 1)[-1])

    def __call__(self, true: Sequence[str], said: Sequence[str]) -> NDArray[np.float64]:
        """See PhraseSimilarity."""
        if not true or not said:
            return np.zeros((len(true), len(said)))
        first, second = (np.stack([self._state(phrase) for phrase in phrases]) for phrases in (true, said))
        return np.asarray(first @ second.T, dtype=np.float64)

    @torch.inference_mode()
    def _state(self, phrase: str) -> NDArray[np.float64]:
        """The mean state of a phrase [D], of length 1."""
        if phrase not in self._known:
            coded = self.tokenizer(phrase, return_tensors="pt", max_length=LONGEST, truncation=True)
            mean = self.model(**coded).last_hidden_state[0].mean(dim=0).cpu().double()
            self._known[phrase] = (mean / mean.norm()).numpy()
        return self._known[phrase]
