"""Where a mask ends: from which logit on a cell belongs to it, one number for all masks or one for each.

One threshold does not fit all masks. Of a mask that is sure, cells of a probability above one half are its own; of one
that is not, more of them have to be taken for the expected overlap to be the greatest. For the Dice coefficient the
best threshold is half the coefficient that is reached (Lipton, Elkan and Naryanaswamy 2014, arXiv 1402.1892, for F1);
with J for the intersection over union that is J / (1 + J): 0.47 where J is 0.9, 0.23 where it is 0.3.

What is cut out may have several connected components. A head that is sure of one thing also marks others that look
alike, and is less sure of those: a component whose highest logit is much below the highest of all is left out
(``peak_gap``), and several things that the head is equally sure of stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy import ndimage

MaskRule = Literal["fixed", "expected_iou"]
RULES: tuple[str, ...] = get_args(MaskRule)


@dataclass(frozen=True, slots=True)
class MaskCut:
    """``threshold`` is a logit: with ``fixed`` the one above which a cell belongs to a mask.

    With ``expected_iou`` it is the one that counts as probability one half, and each mask takes as many of its
    likeliest cells as have the highest expected intersection over union. ``peak_gap``: components whose highest logit
    is further than this below the mask's highest are left out; None: none is.
    """

    rule: MaskRule = "fixed"
    threshold: float = 0.0
    peak_gap: float | None = None

    def cut(self, mask_logits_lowres: torch.Tensor) -> torch.Tensor:
        """Return the logits [K, h, w] shifted, mask by mask, so that what belongs to a mask is above 0."""
        shifted = self._shifted(mask_logits_lowres)
        if self.peak_gap is None:
            return shifted
        return torch.where(faint_components(shifted, self.peak_gap), -shifted, shifted)

    def without_faint(self, mask_logits_lowres: torch.Tensor) -> torch.Tensor:
        """Return the logits [K, h, w] as they are, but components that ``cut`` leaves out at their plane's lowest."""
        if self.peak_gap is None or len(mask_logits_lowres) == 0:
            return mask_logits_lowres
        faint = faint_components(self._shifted(mask_logits_lowres), self.peak_gap)
        return torch.where(faint, mask_logits_lowres.amin(dim=(1, 2), keepdim=True), mask_logits_lowres)

    def _shifted(self, mask_logits_lowres: torch.Tensor) -> torch.Tensor:
        if self.rule == "fixed":
            return mask_logits_lowres - self.threshold if self.threshold else mask_logits_lowres
        shifted = mask_logits_lowres - self.threshold
        return shifted - expected_iou_threshold(shifted)[:, None, None].to(shifted.dtype)

    def __str__(self) -> str:
        """Return the rule and its numbers as they are printed."""
        gap = "" if self.peak_gap is None else f", gap {self.peak_gap:g}"
        return f"{self.rule} {self.threshold:g}{gap}"


@contextmanager
def uncut(config: Any) -> Iterator[None]:
    """Let a model of this config give the logits as its head has them, within the block."""
    now = config.mask_cut
    config.mask_cut = MaskCut()
    try:
        yield
    finally:
        config.mask_cut = now


def expected_iou_threshold(mask_logits: torch.Tensor) -> torch.Tensor:
    """Return for each mask [K, h, w] the logit [K] between the last cell to take and the first to leave.

    Of the n likeliest cells, with probabilities p, the intersection with the truth is expected to have ``sum of p over
    them`` cells, the union ``n + sum of p over the others``; n has the highest ratio of the two. No mask is left
    without a cell: whether a thing is there at all is not asked here.
    """
    logits = mask_logits.float().flatten(1)
    ordered = logits.sort(dim=1, descending=True).values
    likely = ordered.sigmoid()
    taken = torch.arange(1, ordered.shape[1] + 1, device=ordered.device, dtype=likely.dtype)
    shared = likely.cumsum(dim=1)
    last = (shared / (taken + shared[:, -1:] - shared)).argmax(dim=1, keepdim=True)
    behind = (last + 1).clamp(max=ordered.shape[1] - 1)
    inside, outside = ordered.gather(1, last), ordered.gather(1, behind)
    # With all cells taken there is none to leave: the threshold lies below the last.
    between = torch.where(behind > last, (inside + outside) / 2, inside - 1)
    return between[:, 0]


def faint_components(mask_logits: torch.Tensor, gap: float) -> torch.Tensor:
    """Return bool [K, h, w]: which cells lie in a connected component that is left out of its mask.

    A mask [K, h, w] has the cells above 0; those that touch, corners included, are one component. It is left out if its
    highest logit is further than ``gap`` below the mask's highest.
    """
    touching = np.ones((3, 3), dtype=bool)
    planes = mask_logits.detach().float().cpu().numpy()
    faint = np.zeros(planes.shape, dtype=bool)
    for place, plane in enumerate(planes):
        labels, count = ndimage.label(plane > 0, structure=touching)
        if count > 1:
            numbers = np.arange(1, count + 1)
            peaks = ndimage.maximum(plane, labels, numbers)
            faint[place] = np.isin(labels, numbers[peaks < peaks.max() - gap])
    return torch.from_numpy(faint).to(mask_logits.device)
