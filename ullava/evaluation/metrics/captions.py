"""Captions: BLEU-4, CIDEr-D, and, where a scene is known, whether what the caption names is right.

Tokens are those of the COCO caption programs (``caption_words``), so that both figures compare with published ones.

``BLEU-4``  over the whole set: the geometric mean of clipped n-gram precisions, n = 1 … 4, times exp(1 - r / c) where
            the captions' total length c is below r, the total of the nearest reference lengths (the shorter of two that
            are as near). No smoothing: one n without a single match makes it 0.
``CIDEr``   CIDEr-D (Vedantam et al. 2015), which papers report by that name, times 100. For n = 1 … 4 a caption c and a
            reference r are vectors of n-gram counts times ln(images / images whose references have the n-gram).
            With l the length in words,
              sim_n(c, r) = exp(-(l_c - l_r)^2 / (2 * 6^2)) * sum_g min(c_g, r_g) r_g / (|c| |r|)
            and CIDEr-D = 10 * mean over n and references; then the mean over images. Document frequencies come from
            the references of the evaluated images, so one image alone always has 0.
``facts``   share of captions in which nothing that can be checked is wrong (``facts.py`` says what is checked);
            ``facts_complete``: and which name all that the facts hold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from ullava.evaluation.metrics.caption_words import caption_words
from ullava.evaluation.metrics.rows import Metric, Row, column, put_mean
from ullava.synthetic.facts import FactCheck

NGRAM = 4
SIGMA = 6.0

Ngram = tuple[str, ...]


class Captions(Metric):
    """Rows: ``caption``, ``references``, ``right`` and ``complete`` (None where there is no scene to check against)."""

    resamples: ClassVar[bool] = False

    def update(self, caption: str, references: Sequence[str], facts: FactCheck | None = None) -> Row:
        """Keep one caption with its references. Raises ValueError if there is no reference."""
        if not references:
            raise ValueError("a caption needs at least one reference")
        return self.add(
            {
                "caption": caption,
                "references": list(references),
                "right": facts.right if facts else None,
                "complete": facts.complete if facts else None,
            }
        )

    def compute(self) -> dict[str, float]:
        """Return ``CIDEr``, ``BLEU-4`` and, where scenes are known, ``facts`` and ``facts_complete``."""
        if not self.rows:
            return {}
        captions = [caption_words(row["caption"]) for row in self.rows]
        references = [[caption_words(text) for text in row["references"]] for row in self.rows]
        scores = cider_d(captions, references)
        figures = {"CIDEr": 100.0 * math.fsum(scores) / len(scores), "BLEU-4": 100.0 * bleu(captions, references)}
        checked = [row for row in self.rows if row["right"] is not None]
        put_mean(figures, "facts", column(checked, "right"))
        put_mean(figures, "facts_complete", column(checked, "complete"))
        return figures


def ngrams(tokens: Sequence[str], n: int) -> Counter[Ngram]:
    """Count the n-grams of a text."""
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def bleu(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], order: int = NGRAM) -> float:
    """Return BLEU of tokenized captions, each with its tokenized references, as a fraction."""
    matched, possible = [0] * order, [0] * order
    length = nearest = 0
    for caption, texts in zip(captions, references, strict=True):
        length += len(caption)
        nearest += min((abs(len(text) - len(caption)), len(text)) for text in texts)[1]
        for n in range(1, order + 1):
            counts = ngrams(caption, n)
            most: Counter[Ngram] = Counter()
            for text in texts:
                most |= ngrams(text, n)
            matched[n - 1] += (counts & most).total()
            possible[n - 1] += counts.total()
    if not all(matched):
        return 0.0
    mean_log = math.fsum(math.log(m / p) for m, p in zip(matched, possible, strict=True)) / order
    return math.exp(mean_log + min(0.0, 1.0 - nearest / length))


def cider_d(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """Return CIDEr-D of each tokenized caption (0 … 10)."""
    images = len(references)
    scores = [0.0] * images
    for n in range(1, NGRAM + 1):
        counted = [[ngrams(text, n) for text in texts] for texts in references]
        frequency: Counter[Ngram] = Counter()
        for counts in counted:
            frequency.update(set().union(*counts))

        def weigh(counts: Counter[Ngram], frequency: Counter[Ngram] = frequency) -> dict[Ngram, float]:
            return {gram: count * math.log(images / max(1, frequency[gram])) for gram, count in counts.items()}

        for number, (caption, texts) in enumerate(zip(captions, references, strict=True)):
            weights = weigh(ngrams(caption, n))
            similarities = [
                _similarity(weights, weigh(counts)) * math.exp(-((len(caption) - len(text)) ** 2) / (2 * SIGMA**2))
                for text, counts in zip(texts, counted[number], strict=True)
            ]
            scores[number] += 10.0 * math.fsum(similarities) / len(texts) / NGRAM
    return scores


def _similarity(caption: dict[Ngram, float], reference: dict[Ngram, float]) -> float:
    """Clipped cosine of two weighted n-gram vectors; 0 if one of them is empty."""
    lengths = math.sqrt(math.fsum(w * w for w in caption.values()) * math.fsum(w * w for w in reference.values()))
    if lengths == 0.0:
        return 0.0
    return math.fsum(min(w, reference[g]) * reference[g] for g, w in caption.items() if g in reference) / lengths
