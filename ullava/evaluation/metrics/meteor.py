"""METEOR by nltk (Lavie and Agarwal 2007): exact words and Porter stems, with synonyms only where WordNet is at hand.

Papers report METEOR 1.5 (Denkowski and Lavie 2014), a Java program that also knows paraphrases and weighs function
words: its figures are other ones, and higher. So these carry their own names, which say what was matched.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

STEMS = "METEOR (nltk, stems)"
SYNONYMS = "METEOR (nltk, stems, WordNet)"
NEEDS = "needs nltk: pip install 'ullava[meteor]'"


class _NoSynonyms:
    """What nltk asks for synonyms where there are none."""

    def synsets(self, word: str) -> list[Any]:
        return []


def why_no_meteor() -> str:
    """Return what is missing for METEOR; '' where it can be had."""
    return "" if find_spec("nltk") else NEEDS


def meteor_figures(
    captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float]:
    """Return METEOR of tokenized captions, each with its tokenized references: the best of them, then the mean, x 100.

    By name: ``STEMS``, and ``SYNONYMS`` where nltk finds its copy of WordNet (``python -m nltk.downloader wordnet``).
    nltk has to be there (``why_no_meteor``).
    """
    library = importlib.import_module("nltk")
    meteor: Any = importlib.import_module("nltk.translate.meteor_score")
    stemmer = library.stem.PorterStemmer()
    known: dict[str, Any] = {STEMS: _NoSynonyms()}
    if _has_wordnet(library):
        known[SYNONYMS] = importlib.import_module("nltk.corpus").wordnet
    figures = {}
    for name, words in known.items():
        scores = [
            meteor.meteor_score(texts, caption, stemmer=stemmer, wordnet=words)
            for caption, texts in zip(captions, references, strict=True)
        ]
        figures[name] = 100.0 * math.fsum(scores) / len(scores)
    return figures


def _has_wordnet(library: Any) -> bool:
    for place in ("corpora/wordnet", "corpora/wordnet.zip"):
        try:
            library.data.find(place)
        except LookupError:
            continue
        return True
    return False
