"""The criterion: what the model returned and what the batch wants -> named loss terms. The model itself has no loss.

Every term is a mean over its own kind of thing (supervised tokens, masks, boxes, patches). With gradient accumulation
or several processes the mean is over the whole step (``Counts``): the gradient does not depend on how a step is cut up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, get_args

import torch
from torch.nn import functional

from ullava.config.fields import CountKind, rows_per
from ullava.config.schema import LossConfig
from ullava.errors import ConfigError, did_you_mean
from ullava.examples import Targets
from ullava.geometry.mask_resize import shrink_targets
from ullava.losses import (
    bce_per_mask,
    box,
    box_ullava_v1,
    dice_per_mask,
    expected_box_terms,
    mask_iou_per_mask,
)
from ullava.modeling.heads.mask_contract import MaskRules

TERMS: Mapping[str, CountKind] = rows_per(LossConfig)
"""The terms by name with what each is a mean over. A further one is a row of LossConfig, and its value below."""


PRESENCE = "presence"
ABSENT = "absent_bce"
"""The terms that only heads have which say whether a thing is there."""
BASE = "base_kl"
"""The term that only runs with adapters have that ask for it: it costs a pass without them."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many things the terms of one optimizer step are means over.

    ``images``: their places in the text. ``plain_tokens``: those of ``tokens`` in rows without image or video.
    """

    tokens: float
    masks: float
    boxes: float
    patches: float = 0.0
    images: float = 0.0
    plain_tokens: float = 0.0

    @classmethod
    def number(cls) -> int:
        """Return how many counts there are."""
        return len(fields(cls))

    def of(self, kind: CountKind) -> float:
        """Return one of the counts."""
        return float(getattr(self, kind))

    def stacked(self) -> list[float]:
        """Return the counts in the order of the fields."""
        return list(astuple(self))


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Scalars, float32, unweighted, by name; ``total`` is their weighted sum, the one to differentiate.

    ``own``: those of ``GroundingObjective.terms``, in that order. ``aux``: those that the vision strategy and the
    passes announce, in their order.
    """

    own: Mapping[str, torch.Tensor]
    total: torch.Tensor
    aux: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a term of ``TERMS``."""
        return self.own[name]

    def stacked(self) -> torch.Tensor:
        """Return the terms, then those of ``aux``, detached: [number of both]."""
        return torch.stack([term.detach().float() for term in (*self.own.values(), *self.aux.values())])


class GroundingObjective:
    """Callable criterion: ``objective(output, targets)`` -> LossTerms.

    ``masks``: the mask head's rules, which map logits to the original image. ``aux_terms``: what the vision strategy
    and the passes judge themselves (``VisionStrategy.passes``): names, and what each is a mean over. Raises ConfigError
    where ``weights.aux`` has others.
    """

    def __init__(self, weights: LossConfig, masks: MaskRules, aux_terms: Mapping[str, CountKind] | None = None) -> None:
        aux_terms = aux_terms or {}
        unknown = [name for name in weights.aux if name not in aux_terms]
        if unknown:
            raise ConfigError(
                [f"loss.aux: the vision strategy has no term '{n}'{did_you_mean(n, aux_terms)}" for n in unknown]
            )
        self.weights = weights
        self.boxes = box_ullava_v1 if weights.box_divide_twice else box
        self.masks = masks
        self.terms = {
            name: kind
            for name, kind in TERMS.items()
            if (masks.tells_presence or name not in (PRESENCE, ABSENT)) and (weights.base_kl > 0 or name != BASE)
        }
        self.aux_terms = dict(aux_terms)

    def __call__(self, output: Any, targets: Targets, step: Counts | None = None) -> LossTerms:
        """Judge one batch. ``step``: the counts of the whole optimizer step, where that is more than this batch.

        Raises ValueError where the network grounded another number of things than the batch holds.
        """
        local = self.counts(output, targets)
        with torch.autocast(output.loss.device.type, enabled=False):
            means: dict[str, torch.Tensor] = {"ce": output.loss}
            means |= self._mask_terms(output.seg, targets)
            means |= self._box_terms(output.loc, targets)
            means["patch"] = output.loss.new_zeros(()) if output.patch_nll is None else output.patch_nll.mean()
            means[BASE] = output.loss.new_zeros(()) if output.base_kl is None else output.base_kl.mean()
        own = {name: means[name] for name in self.terms}
        given = output.aux or {}
        if not given.keys() <= self.aux_terms.keys():
            raise ValueError(f"loss terms that the vision strategy does not announce: {sorted(given)}")
        aux = {name: given.get(name, output.loss.new_zeros(())).float() for name in self.aux_terms}
        if step is not None:
            share = {kind: local.of(kind) / max(step.of(kind), 1.0) for kind in get_args(CountKind)}
            own = {name: mean * share[TERMS[name]] for name, mean in own.items()}
            aux = {name: term * share[self.aux_terms[name]] for name, term in aux.items()}
        total = torch.stack([getattr(self.weights, name) * mean for name, mean in own.items()]).sum()
        if output.idle is not None:
            total = total + output.idle
        for name, term in aux.items():
            total = total + self.weights.aux.get(name, 1.0) * term
        return LossTerms(own, total, aux)

    @staticmethod
    def counts(output: Any, targets: Targets) -> Counts:
        """Return how many tokens, masks and boxes a batch supervises; known without waiting for the device."""
        patches = 0 if output.patch_nll is None else output.patch_nll.shape[0]
        plain = 0 if output.base_kl is None else output.base_kl.shape[0]
        boxes = targets.boxes_xyxy_head.shape[0]
        return Counts(output.targets.shape[0], len(targets.masks), boxes, patches, targets.images, plain)

    def _mask_terms(self, seg: Any, targets: Targets) -> dict[str, torch.Tensor]:
        """The means over all masks; where the head tells presence, an empty one counts with that and ``absent_bce``."""
        logits, scores, presence = seg.mask_logits_lowres, seg.iou_scores, seg.presence_logits
        if seg.target is not None:
            targets = targets.of(seg.target.tolist())
        wanted = len(targets.masks)
        if logits.shape[0] != wanted:
            raise ValueError(f"the model made {logits.shape[0]} masks for {wanted} targets")
        if wanted == 0:
            nothing = (logits.float().sum() + scores.float().sum()) * 0.0
            told = nothing if presence is None else presence.float().sum() * 0.0
            return {"bce": nothing, "dice": nothing, "iou_score": nothing, PRESENCE: told, ABSENT: nothing}
        absent = frozenset() if presence is None else targets.absent
        sums = torch.zeros(3, dtype=torch.float32, device=logits.device)
        for places, masks in _same_sized(targets.masks, logits.device, absent):
            plane, truth = self._common_plane(logits[places], masks)
            sums = sums + torch.stack(
                [
                    bce_per_mask(plane, truth).sum(),
                    dice_per_mask(plane, truth).sum(),
                    _score_error(scores[places], plane, truth).sum(),
                ]
            )
        bce, dice, score = (sums / wanted).unbind()
        if len(absent) == wanted:
            bce = bce + (logits.float().sum() + scores.float().sum()) * 0.0
        told = _presence_error(presence, absent, bce)
        nowhere = self._absent_bce(logits, targets, absent) / wanted
        return {"bce": bce, "dice": dice, "iou_score": score, PRESENCE: told, ABSENT: nowhere}

    def _absent_bce(self, logits: torch.Tensor, targets: Targets, absent: frozenset[int]) -> torch.Tensor:
        """Sum of the cross-entropies of the masks that are empty."""
        total = logits.new_zeros((), dtype=torch.float32)
        there = frozenset(range(len(targets.masks))) - absent
        for places, masks in _same_sized(targets.masks, logits.device, there):
            total = total + bce_per_mask(*self._common_plane(logits[places], masks)).sum()
        return total

    def _common_plane(self, logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bring logits [k, h, w] and targets [k, H, W] to one plane, both float32."""
        original_hw = masks.shape[-2:]
        if self.weights.mask_plane == "original":
            return self.masks.to_original(logits, original_hw), masks.float()
        plane = self.masks.covered(logits, original_hw)
        return plane, shrink_targets(masks, plane.shape[-2], plane.shape[-1])

    def _box_terms(self, loc: Any, targets: Targets) -> dict[str, torch.Tensor]:
        boxes = loc.boxes_xyxy_head
        if boxes is None:  # a head that reads no states learns nothing from boxes
            nothing = loc.token_probability.float().sum() * 0.0
            return {"l1": nothing, "giou": nothing}
        wanted = targets.boxes_xyxy_head.to(boxes.device, torch.float32)
        if boxes.shape != wanted.shape:
            raise ValueError(f"the model made {boxes.shape[0]} boxes for {wanted.shape[0]} targets")
        if boxes.shape[0] == 0:
            nothing = boxes.float().sum() * 0.0
            return {"l1": nothing, "giou": nothing}
        if loc.candidates is not None:
            if self.boxes is box_ullava_v1:
                raise ConfigError("loss.box_divide_twice belongs to boxes that are regressed; this head offers several")
            stages = [expected_box_terms(stage.boxes_xyxy_head, stage.logits, wanted) for stage in loc.candidates]
            l1, giou = torch.stack([torch.stack(terms) for terms in stages]).mean(dim=0).unbind()
            return {"l1": l1, "giou": giou}
        return {
            "l1": self.boxes.l1_loss(boxes.float(), wanted, loc.image),
            "giou": self.boxes.giou_loss(boxes.float(), wanted, loc.image),
        }


def _presence_error(presence: torch.Tensor | None, absent: frozenset[int], like: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of ``presence`` [K] against the things not being among the ``absent``; 0 without it."""
    if presence is None:
        return like.new_zeros(())
    there = torch.ones_like(presence, dtype=torch.float32)
    there[sorted(absent)] = 0.0
    return functional.binary_cross_entropy_with_logits(presence.float(), there)


def _same_sized(
    masks: Sequence[torch.Tensor], device: torch.device, left_out: frozenset[int] = frozenset()
) -> list[tuple[torch.Tensor | slice, torch.Tensor]]:
    """Group masks [H, W] of one size: (their places among all, [k, H, W]). Batches of one size are not gathered.

    ``left_out``: places of masks that are in no group.
    """
    groups: dict[torch.Size, list[int]] = {}
    for place, mask in enumerate(masks):
        if place not in left_out:
            groups.setdefault(mask.shape, []).append(place)
    made: list[tuple[torch.Tensor | slice, torch.Tensor]] = []
    for members in groups.values():
        places = slice(None) if len(members) == len(masks) else torch.tensor(members, device=device)
        made.append((places, torch.stack([masks[place] for place in members]).to(device)))
    return made


def _score_error(scores: torch.Tensor, plane: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Squared error [k] of the predicted quality against the IoU that the thresholded mask really has."""
    return (scores.float() - mask_iou_per_mask(plane, truth > 0.5)).square()
