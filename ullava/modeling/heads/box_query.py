"""``grounding_dino_query``: the projected ``[LOC]`` state takes the place of GroundingDINO's text features.

For every ``[LOC]`` the detector looks at the image with a text of one token, whose features are
``projector(state)``; its text encoder (and the projection behind it) is left out of the model, everything else is
transformers' class under its own names. The class hands its ``token_type_ids`` to the text encoder untouched, and that
is the way on which the state travels in.

Q queries of the last decoder layer offer a box and a logit each, ``s_q = <query_q, text>``. Both are trained by
``expected_box_terms`` (ullava.losses): L = 1/K sum_k sum_q p_kq loss(box_kq, target_k), p = softmax(s), the mean over
the encoder's proposals and all decoder layers. The box taken is that of the largest ``s_q``
(ullava.modeling.heads.box_contract.choose), in training and inference alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from ullava.examples import HeadImages
from ullava.modeling.heads.box_contract import BoxHead, Candidates
from ullava.modeling.heads.detector import decoded_sets, detector_class, run_by_size
from ullava.modeling.heads.projector import two_layer_projector

TEXT_PARTS = ("model.text_backbone.", "model.text_projection.")
"""Weights of a pretrained detector that this head has no use for."""


class StateAsText(nn.Module):
    """Stands where the text encoder stood and returns the features that come in as ``token_type_ids``."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """Features [K, 1, d_model] -> the same, as an encoder's output."""
        return BaseModelOutput(last_hidden_state=token_type_ids)


class QueryBoxHead(BoxHead):
    """Projector of its own and a GroundingDINO without its text encoder."""

    needs_image = True
    skipped_weights = TEXT_PARTS
    unread = ("detector.model.backbone.conv_encoder.model.swin.layernorm.",)

    def __init__(self, config: PreTrainedConfig, width_in: int) -> None:
        super().__init__()
        self.projector = two_layer_projector(width_in, config.d_model)
        self.detector: Any = detector_class(config)(config)
        self.detector.model.text_backbone = StateAsText()
        self.detector.model.text_projection = nn.Identity()

    def forward(
        self, states: torch.Tensor, rows: torch.Tensor | None, images: HeadImages | None
    ) -> tuple[Candidates, ...]:
        """States [K, D] on images ``rows`` [K] -> one set of candidates for each stage, the deciding one last."""
        features = self.projector(states)
        if images is None or rows is None or len(states) == 0:
            return (Candidates(features.new_zeros(0, 1, 4).float(), features.new_zeros(0, 1).float()),)

        # transformers' own way of recomputing this decoder hands its layers their arguments in the wrong order.
        self.detector.model.decoder.gradient_checkpointing = False

        def run(pixels: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
            token = torch.zeros(len(places), 1, dtype=torch.long, device=pixels.device)
            present = torch.ones_like(token)
            output = self.detector.model(
                pixel_values=pixels,
                pixel_mask=mask,
                input_ids=token,
                token_type_ids=features[places][:, None],
                attention_mask=present,
                return_dict=True,
            )
            sets = decoded_sets(self.detector, output, present.bool(), token=0)
            return tuple(part for made in sets for part in (made.boxes_xyxy_head, made.logits))

        flat = run_by_size(self.detector, images, rows, run)
        return tuple(Candidates(boxes, logits) for boxes, logits in zip(flat[::2], flat[1::2], strict=True))
