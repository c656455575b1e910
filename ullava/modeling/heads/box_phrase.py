"""``grounding_dino_phrase``: GroundingDINO, frozen, finds the words that the answer puts between its tags.

What u-LLaVA did before it had ``[LOC]`` (its first release, arXiv 2311.05348): the language model names the thing, the
detector finds things of that name, and the mask says which of them is meant.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from ullava.examples import HeadImages
from ullava.geometry.box_tensors import corners_of_centers
from ullava.modeling.heads.box_contract import BoxHead, FoundBoxes, PhrasePrompts
from ullava.modeling.heads.detector import detector_class, run_by_size


class PhraseBoxHead(BoxHead):
    """Holds the whole detector; there is nothing in it that ``[LOC]`` states could teach."""

    reads_states = False
    trains = False
    skipped_weights: tuple[str, ...] = ()

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.detector: Any = detector_class(config)(config)

    @torch.no_grad()
    def find(self, prompts: PhrasePrompts, images: HeadImages) -> FoundBoxes:
        """Find P phrases; every query of the detector is returned, with its scores (see FoundBoxes)."""

        def run(pixels: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
            words = prompts.is_word[places]
            output = self.detector(
                pixel_values=pixels,
                pixel_mask=mask,
                input_ids=prompts.input_ids[places],
                attention_mask=prompts.attention_mask[places],
                return_dict=True,
            )
            match = output.logits.float().sigmoid()
            of_words = match[..., : words.shape[1]].masked_fill(~words[:, None], 0.0)
            return corners_of_centers(output.pred_boxes), match.amax(dim=-1), of_words.amax(dim=-1)

        boxes, scores, word_scores = run_by_size(self.detector, images, images.rows(prompts.image), run)
        return FoundBoxes(boxes, scores, word_scores)
