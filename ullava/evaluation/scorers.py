"""Which scorer a recipe's settings want for a task family."""

from __future__ import annotations

from collections.abc import Mapping

from ullava.config.schema import EvalRecipe
from ullava.errors import ConfigError
from ullava.evaluation.phrase_similarity import similarity_of
from ullava.evaluation.scoring import SCORERS, WRITTEN, GroundedCaptionScorer, Scorer
from ullava.evaluation.scoring_ullava_v1 import SCORERS_ULLAVA_V1
from ullava.evaluation.text_boxes import TextBoxFrame

COUNTINGS: Mapping[str, Mapping[str, type[Scorer]]] = {
    "strict": SCORERS,
    "as_released": {**SCORERS, **SCORERS_ULLAVA_V1},
}
"""``counting`` of a recipe -> task family -> scorer."""


def scorer_of(
    family: str, counting: str, protocol: str = "generate", text_box_frame: TextBoxFrame = "padsq"
) -> type[Scorer]:
    """Return the scorer of a task family; the settings as in EvalRecipe.

    Raises ConfigError for a family that the protocol ``text_box`` cannot measure: words hold the box of one thing.
    """
    if protocol == "text_box":
        if family != "rec":
            raise ConfigError(f"protocol text_box reads a box from words: it measures the task rec, not {family}")
        return WRITTEN[text_box_frame]
    return COUNTINGS[counting][family]


def scorer_for(family: str, recipe: EvalRecipe) -> type[Scorer]:
    """Return the scorer of a task family as a recipe's settings want it. Raises ConfigError as ``scorer_of``."""
    return scorer_of(family, recipe.counting, recipe.protocol, recipe.text_box_frame)


def make_scorer(family: str, recipe: EvalRecipe) -> Scorer:
    """Return a scorer with all that a recipe's settings want of it. Raises ConfigError as ``scorer_of``, UserError."""
    kind = scorer_for(family, recipe)
    if issubclass(kind, GroundedCaptionScorer):
        return kind(similarity_of(recipe.phrase_similarity))
    return kind()
