"""A parity switch: gradients of the word table as u-LLaVA has them (its released code)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ullava.modeling.configuration import UllavaConfig

Embed = Callable[[torch.Tensor], torch.Tensor]


def embed_as_configured(embed: Embed, config: UllavaConfig) -> Embed:
    """Return ``embed`` (ids [B, L] -> [B, L, D]), or the original's detached form with ``marker_gradient_only``.

    There, in rows with an image or video only the tokens around it send gradients into the word table, in both stages;
    rows of mere text do so everywhere. Ours trains every row that a stage lets train.
    """
    if not config.marker_gradient_only:
        return embed
    ids = (config.image_start_id, config.image_end_id, config.video_start_id, config.video_end_id)

    def embed_detached(input_ids: torch.Tensor) -> torch.Tensor:
        embeddings = embed(input_ids)
        markers = torch.isin(input_ids, torch.tensor([i for i in ids if i is not None], device=input_ids.device))
        attached = markers | ~markers.any(dim=1, keepdim=True)
        return torch.where(attached[..., None], embeddings, embeddings.detach())

    return embed_detached
