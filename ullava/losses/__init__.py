"""Named loss terms with stated reductions. The model returns, the criterion judges: nothing here knows the model."""

from ullava.losses.box import expected_box_terms, giou_loss, l1_loss
from ullava.losses.mask import bce_per_mask, dice_per_mask, mask_iou_per_mask
from ullava.losses.ranking import RankingTerms, answer_nll, ranking_loss
from ullava.losses.text import row_surprises, token_cross_entropy

__all__ = [
    "RankingTerms",
    "answer_nll",
    "bce_per_mask",
    "dice_per_mask",
    "expected_box_terms",
    "giou_loss",
    "l1_loss",
    "mask_iou_per_mask",
    "ranking_loss",
    "row_surprises",
    "token_cross_entropy",
]
