"""The criterion: its terms against a slow loop, and what must not change them."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from tests.unit.geometry.plain_resize import interpolated
from torch.nn import functional

from ullava.config.fields import CountKind
from ullava.config.schema import LossConfig
from ullava.errors import ConfigError
from ullava.losses import token_cross_entropy
from ullava.modeling.heads.mask_sam import SamMaskRules
from ullava.training.optim.objective import TERMS, Counts, GroundingObjective, Targets
from ullava.training.reporting.loss_window import LossWindow

SIDE = 64
RULES = SamMaskRules(SIDE)


class TellingRules(SamMaskRules):
    """Those of a head that also says whether a thing is there."""

    tells_presence = True


TELLING = TellingRules(SIDE)
WEIGHTS = LossConfig(ce=1.0, bce=2.0, dice=0.5, l1=1.0, giou=1.0, iou_score=0.3, base_kl=0.7)


def judged(masks: int = 4, boxes: int = 3, seed: int = 0) -> tuple[Any, Targets]:
    """An output and targets with images of two sizes in alternation."""
    draw = torch.Generator().manual_seed(seed)
    sizes = [(SIDE, SIDE) if place % 2 else (48, 40) for place in range(masks)]
    corners = torch.rand(boxes, 4, generator=draw).mul(0.4)
    logits = torch.randn(7, 11, generator=draw, requires_grad=True)
    labels = torch.randint(0, 11, (7,), generator=draw)
    output = SimpleNamespace(
        supervised_logits=logits,
        targets=labels,
        loss=token_cross_entropy(logits, labels),
        seg=SimpleNamespace(
            mask_logits_lowres=torch.randn(masks, 16, 16, generator=draw, requires_grad=True),
            iou_scores=torch.rand(masks, generator=draw, requires_grad=True),
            target=None,
            presence_logits=torch.linspace(-1.5, 2.0, masks, requires_grad=True),
        ),
        loc=SimpleNamespace(
            candidates=None,
            boxes_xyxy_head=torch.rand(boxes, 4, generator=draw, requires_grad=True),
            image=torch.tensor([0, 0, 1, 2, 3][:boxes]),
        ),
        idle=None,
        aux=None,
        patch_nll=None,
        base_kl=None,
    )
    targets = Targets(
        masks=[(torch.rand(size, generator=draw) > 0.6).to(torch.uint8) for size in sizes],
        boxes_xyxy_head=torch.cat([corners[:, :2], corners[:, 2:] + 0.5], dim=1),
    )
    return output, targets


def test_terms_equal_a_slow_loop() -> None:
    output, targets = judged()
    terms = GroundingObjective(WEIGHTS, RULES)(output, targets)
    bce, dice, score = [], [], []
    for logits, quality, mask in zip(output.seg.mask_logits_lowres, output.seg.iou_scores, targets.masks, strict=True):
        height, width = mask.shape
        longest = max(height, width)
        resized = (round(height * SIDE / longest), round(width * SIDE / longest))
        plane = interpolated(logits[None], side=SIDE, resized_hw=resized, original_hw=(height, width))[0]
        truth = mask.float()
        bce.append(functional.binary_cross_entropy_with_logits(plane, truth))
        probability = plane.sigmoid()
        overlap, total = (probability * truth).sum() / 1000, (probability.sum() + truth.sum()) / 1000
        dice.append(1 - (2 * overlap + 1e-6) / (total + 1e-6))
        found = plane > 0
        score.append((quality - (found & mask.bool()).sum() / (found | mask.bool()).sum()) ** 2)
    assert float(terms["bce"]) == pytest.approx(float(torch.stack(bce).mean()), rel=1e-4)
    assert float(terms["dice"]) == pytest.approx(float(torch.stack(dice).mean()), rel=1e-4)
    assert float(terms["iou_score"]) == pytest.approx(float(torch.stack(score).mean()), rel=1e-3)
    assert float(terms["ce"]) == pytest.approx(
        float(functional.cross_entropy(output.supervised_logits, output.targets)), rel=1e-5
    )
    distance = (output.loc.boxes_xyxy_head - targets.boxes_xyxy_head).abs().sum(1).mean()
    assert float(terms["l1"]) == pytest.approx(float(distance), rel=1e-5)


def test_every_row_has_a_weight_and_a_count() -> None:
    """Every number of LossConfig that weighs a term is a row; what a row is a mean over is one of the counts."""
    weights = [entry.name for entry in fields(LossConfig) if entry.type == "float"]
    assert list(TERMS) == weights and len(weights) >= 7
    assert {entry.name for entry in fields(Counts)} == set(get_args(CountKind)) >= set(TERMS.values())


@pytest.mark.parametrize("name", TERMS)
def test_every_row_is_weighed_counted_and_logged(name: str) -> None:
    """Weight and normalizer of a term act on it, and on it alone. ``base_kl`` is a row where it has a weight."""
    output, targets = judged()
    targets = replace(targets, masks=[targets.masks[0] * 0, *targets.masks[1:]], absent=frozenset({0}))
    output.patch_nll = torch.tensor([1.0, 2.0, 6.0])
    output.base_kl = torch.tensor([0.5, 1.5])
    assert "base_kl" not in GroundingObjective(replace(WEIGHTS, base_kl=0.0), TELLING)(output, targets).own
    objective = GroundingObjective(WEIGHTS, TELLING)
    terms, local = objective(output, targets), objective.counts(output, targets)
    assert list(terms.own) == list(TERMS) and float(terms[name]) > 0
    heavier = GroundingObjective(replace(WEIGHTS, **{name: getattr(WEIGHTS, name) + 3.0}), TELLING)(output, targets)
    assert float(heavier.total) == pytest.approx(float(terms.total) + 3.0 * float(terms[name]), rel=1e-5)
    assert {other: float(heavier[other]) for other in TERMS} == {other: float(terms[other]) for other in TERMS}
    kind = TERMS[name]
    wider = replace(local, **{kind: 2.0 * local.of(kind)})
    shared = objective(output, targets, wider)
    for other in TERMS:
        expected = float(terms[other]) * (0.5 if TERMS[other] == kind else 1.0)
        assert float(shared[other]) == pytest.approx(expected, rel=1e-5)
    window = LossWindow.empty(torch.device("cpu"))
    window.add(shared, wider, wider)
    assert window.means()[f"loss_{name}"] == pytest.approx(float(shared[name]), rel=1e-5)


def test_total_is_the_weighted_sum() -> None:
    output, targets = judged()
    terms = GroundingObjective(WEIGHTS, TELLING)(output, targets)
    expected = sum(getattr(WEIGHTS, name) * float(terms[name]) for name in TERMS)
    assert float(terms.total) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(terms.stacked(), torch.stack([terms[name].detach() for name in TERMS]))


def test_each_gradient_stays_with_its_own_mask() -> None:
    output, targets = judged(masks=3)
    objective = GroundingObjective(replace(WEIGHTS, iou_score=0.0), RULES)
    before = objective(output, targets)
    changed = replace(targets, masks=[targets.masks[0], targets.masks[1] ^ 1, targets.masks[2]])
    planes = output.seg.mask_logits_lowres
    first = torch.autograd.grad(before.total, planes)[0]
    second = torch.autograd.grad(objective(output, changed).total, planes)[0]
    assert torch.equal(first[0], second[0]) and torch.equal(first[2], second[2])
    assert not torch.allclose(first[1], second[1])


def test_a_thing_that_is_not_there_has_no_mask_to_learn() -> None:
    output, targets = judged(masks=4)
    empty = [mask * int(place != 2) for place, mask in enumerate(targets.masks)]
    absent = replace(targets, masks=empty, absent=frozenset({2}))
    terms = GroundingObjective(replace(WEIGHTS, presence=2.0), TELLING)(output, absent)
    seg = output.seg
    wanted = torch.tensor([1.0, 1.0, 0.0, 1.0])
    expected = functional.binary_cross_entropy_with_logits(seg.presence_logits, wanted)
    assert float(terms["presence"]) == pytest.approx(float(expected), rel=1e-5)
    terms.total.backward()
    moved = [bool(plane.any()) for plane in seg.mask_logits_lowres.grad]
    assert moved == [True, True, False, True] == (seg.iou_scores.grad != 0).tolist()
    assert bool((seg.presence_logits.grad != 0).all()) and float(seg.presence_logits.grad[2]) > 0
    kept = replace(absent, masks=[empty[0], empty[1], empty[3]], absent=frozenset())
    for name in ("mask_logits_lowres", "iou_scores", "presence_logits"):
        setattr(seg, name, getattr(seg, name).detach()[[0, 1, 3]])
    alone = GroundingObjective(WEIGHTS, TELLING)(output, kept)
    assert float(terms["bce"]) == pytest.approx(0.75 * float(alone["bce"]), rel=1e-5), "a mean over all of them"


def test_what_is_absent_can_be_taught_to_be_nowhere() -> None:
    output, targets = judged(masks=3)
    absent = replace(targets, masks=[targets.masks[0], targets.masks[1] * 0, targets.masks[2]], absent=frozenset({1}))
    terms = GroundingObjective(replace(WEIGHTS, absent_bce=3.0), TELLING)(output, absent)
    without = GroundingObjective(WEIGHTS, TELLING)(output, absent)
    added = float(terms.total) - float(without.total)
    assert added == pytest.approx(3.0 * float(terms["absent_bce"]), rel=1e-4)
    terms.total.backward()
    planes = output.seg.mask_logits_lowres
    assert bool((planes.grad[1] >= 0).all()) and bool((planes.grad[1] > 0).any()), "every cell is pushed down"
    assert float(output.seg.iou_scores.grad[1]) == 0.0


def test_a_batch_of_absent_things_reaches_the_whole_head() -> None:
    output, targets = judged(masks=2)
    nothing = replace(targets, masks=[mask * 0 for mask in targets.masks], absent=frozenset({0, 1}))
    terms = GroundingObjective(WEIGHTS, TELLING)(output, nothing)
    assert [float(terms[name]) for name in ("bce", "dice", "iou_score")] == [0.0] * 3 and float(terms["presence"]) > 0
    terms.total.backward()
    assert output.seg.mask_logits_lowres.grad is not None and output.seg.iou_scores.grad is not None


def test_heads_that_tell_no_presence_have_no_such_row() -> None:
    output, targets = judged()
    output.seg.presence_logits = None
    objective = GroundingObjective(WEIGHTS, RULES)
    assert (
        list(objective.terms)
        == [name for name in TERMS if name not in ("presence", "absent_bce")]
        == list(objective(output, targets).own)
    )
    absent = replace(targets, masks=[mask * 0 for mask in targets.masks], absent=frozenset(range(len(targets.masks))))
    assert float(objective(output, absent)["bce"]) > 0, "an empty mask is a mask to learn"


def test_nothing_grounded_gives_zeros_that_reach_the_heads() -> None:
    output, targets = judged(masks=0, boxes=0)
    terms = GroundingObjective(WEIGHTS, TELLING)(output, targets)
    assert [float(terms[name]) for name in list(TERMS)[1:]] == [0.0] * 9
    terms.total.backward()
    assert output.seg.mask_logits_lowres.grad is not None
    assert output.loc.boxes_xyxy_head.grad is not None
    assert bool(torch.isfinite(terms.total))


def test_idle_and_strategy_terms_join_the_total() -> None:
    output, targets = judged()
    plain = float(GroundingObjective(WEIGHTS, RULES)(output, targets).total)
    output.idle = torch.zeros((), requires_grad=True) * 1.0
    output.aux = {"router": torch.tensor(0.25), "balance": torch.tensor(2.0)}
    weighed = replace(WEIGHTS, aux={"balance": 0.5})
    objective = GroundingObjective(weighed, RULES, dict.fromkeys(("balance", "router", "gate"), "tokens"))
    terms = objective(output, targets)
    assert float(terms.total) == pytest.approx(plain + 0.25 + 0.5 * 2.0)
    assert terms.stacked().tolist()[len(objective.terms) :] == [2.0, 0.25, 0.0]
    shared = Counts(tokens=2.0 * len(output.targets), masks=4, boxes=3)
    assert objective(output, targets, shared).aux["balance"].item() == pytest.approx(1.0)


def test_terms_that_no_one_announced_are_refused() -> None:
    output, targets = judged()
    output.aux = {"router": torch.tensor(0.25)}
    with pytest.raises(ValueError, match="does not announce: \\['router'\\]"):
        GroundingObjective(WEIGHTS, RULES)(output, targets)
    with pytest.raises(ConfigError, match="no term 'rooter'; did you mean 'router'"):
        GroundingObjective(replace(WEIGHTS, aux={"rooter": 1.0}), RULES, {"router": "tokens"})


def test_named_patches_are_averaged_and_weighed() -> None:
    output, targets = judged()
    plain = GroundingObjective(WEIGHTS, RULES)(output, targets)
    output.patch_nll = torch.tensor([1.0, 2.0, 6.0])
    weighed = GroundingObjective(replace(WEIGHTS, patch=0.5), RULES)
    terms = weighed(output, targets)
    assert float(terms["patch"]) == pytest.approx(3.0)
    assert float(terms.total) == pytest.approx(float(plain.total) + 1.5)
    local = weighed.counts(output, targets)
    assert local.patches == 3
    assert float(weighed(output, targets, replace(local, patches=6.0))["patch"]) == pytest.approx(1.5)


def test_wrong_counts_are_refused() -> None:
    output, targets = judged()
    objective = GroundingObjective(WEIGHTS, RULES)
    with pytest.raises(ValueError, match="4 masks for 3 targets"):
        objective(output, replace(targets, masks=targets.masks[:3]))
    with pytest.raises(ValueError, match="3 boxes for 2 targets"):
        objective(output, replace(targets, boxes_xyxy_head=targets.boxes_xyxy_head[:2]))


def test_double_division_shrinks_shared_images_only() -> None:
    output, targets = judged()
    once = GroundingObjective(WEIGHTS, RULES)(output, targets)
    twice = GroundingObjective(replace(WEIGHTS, box_divide_twice=True), RULES)(output, targets)
    each = (output.loc.boxes_xyxy_head - targets.boxes_xyxy_head).abs().sum(1)
    assert float(once["l1"]) == pytest.approx(float(each.mean()), rel=1e-5)
    assert float(twice["l1"]) == pytest.approx(float((each[0] / 2 + each[1] / 2 + each[2]) / 3), rel=1e-5)


def test_low_plane_agrees_on_flat_masks() -> None:
    output, _ = judged(masks=2, boxes=0)
    with torch.no_grad():
        output.seg.mask_logits_lowres.fill_(2.0)
    targets = Targets(
        masks=[torch.ones(64, 64, dtype=torch.uint8), torch.ones(32, 64, dtype=torch.uint8)],
        boxes_xyxy_head=torch.zeros(0, 4),
    )
    full = GroundingObjective(WEIGHTS, RULES)(output, targets)
    low = GroundingObjective(replace(WEIGHTS, mask_plane="lowres"), RULES)(output, targets)
    assert float(low["bce"]) == pytest.approx(float(full["bce"]), rel=1e-5)
    assert float(low["dice"]) == pytest.approx(float(full["dice"]), rel=1e-4)


def test_a_step_in_pieces_has_the_loss_of_the_whole(make_model: Any, make_batch: Any) -> None:
    model, processor = make_model()
    objective = GroundingObjective(WEIGHTS, processor.masks)
    pieces = [
        make_batch(processor, "shapes_res", count=1),
        make_batch(processor, "shapes_text", count=1),
        make_batch(processor, "shapes_res", count=3, first=1),
    ]
    outputs = [model.train()(**piece.inputs.as_kwargs()) for piece in pieces]
    local = [objective.counts(out, piece.targets) for out, piece in zip(outputs, pieces, strict=True)]
    step = Counts(*(sum(values) for values in zip(*((c.tokens, c.masks, c.boxes) for c in local), strict=True)))
    parts = [objective(out, piece.targets, step) for out, piece in zip(outputs, pieces, strict=True)]
    for name in ("ce", "bce", "dice", "l1", "giou"):
        alone = [objective(out, piece.targets) for out, piece in zip(outputs, pieces, strict=True)]
        weighted = sum(float(a[name]) * c.of(TERMS[name]) for a, c in zip(alone, local, strict=True)) / step.of(
            TERMS[name]
        )
        assert sum(float(part[name]) for part in parts) == pytest.approx(weighted, rel=1e-5)
