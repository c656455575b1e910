"""How the name of a thing becomes the question that a model was taught to answer."""

from __future__ import annotations

import re
from typing import Literal

PredictionTask = Literal["segmentation", "detection", "question"]

_ASKS: dict[PredictionTask, str] = {
    "segmentation": "Segment {}.",
    "detection": "Draw a box around {}.",
    "question": "{}",
}
"""Wordings of ``datasets/templates/SEG.json`` and ``datasets/templates/BOX.json``."""
_SENTENCE = re.compile(r"[.?!]\s*$")
_ARTICLE = re.compile(r"(the|a|an|all|every|each|any|both|some|one|two|three|my|his|her|its|their)\b", re.IGNORECASE)


def question_of(query: str, task: PredictionTask) -> str:
    """Return the question for what is looked for: ``red circle`` -> ``Segment the red circle.``

    A ``query`` that is a sentence (it ends as one) is asked as it stands.
    """
    words = query.strip()
    if task == "question" or not words or _SENTENCE.search(words):
        return words
    return _ASKS[task].format(words if _ARTICLE.match(words) else f"the {words}")
