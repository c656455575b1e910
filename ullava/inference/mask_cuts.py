"""A model's answers under several rules of where masks end, from one pass (``ullava calibrate --masks``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ullava.examples import NOTHING
from ullava.inference.clip_masks import ClipChoice
from ullava.inference.predictor import Predictor
from ullava.modeling.mask_cut import MaskCut, uncut
from ullava.structures import Answer, Sample


class MaskCuts:
    """What ``predictor.teacher_forced`` would answer under each of several rules in the model's config."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @torch.inference_mode()
    def __call__(self, samples: Sequence[Sample], cuts: Sequence[MaskCut]) -> list[list[Answer]]:
        """Return the answers to ``samples`` under each of ``cuts``."""
        predictor = self.predictor
        choice = ClipChoice().settled(predictor.model)
        with uncut(predictor.model.config):
            examples, output, inputs = predictor.read_given(samples, NOTHING)
        logits = output.seg.mask_logits_lowres
        seen = (replace(output.seg, mask_logits_lowres=cut.cut(logits)) for cut in cuts)
        return [predictor.given_answers(samples, examples, replace(output, seg=seg), inputs, choice) for seg in seen]
