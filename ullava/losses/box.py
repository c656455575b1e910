"""The box terms of u-LLaVA: L1 and GIoU, summed over the boxes of a batch and divided once.

(What u-LLaVA's first release does instead: ``ullava.losses.box_ullava_v1``.)
Boxes are xyxy in any one frame that is common to prediction and target.
"""

from __future__ import annotations

from torch import Tensor

from ullava.geometry.box_tensors import paired_iou_giou, sorted_corners

COUNT_EPSILON = 1e-8


def l1_loss(predicted: Tensor, target: Tensor, image_of_box: Tensor | None = None) -> Tensor:
    """Return the absolute error, summed over the four coordinates and averaged over the boxes: a float32 scalar.

    Args:
        predicted: [n, 4] xyxy.
        target: [n, 4] xyxy of the same frame.
        image_of_box: [n] number of the image each box belongs to, which makes no difference.

    No box gives 0, which still carries a (zero) gradient.
    """
    return mean_over_boxes(l1_of_boxes(predicted, target))


def giou_loss(predicted: Tensor, target: Tensor, image_of_box: Tensor | None = None) -> Tensor:
    """Return 1 - GIoU averaged over the boxes: a float32 scalar. Arguments as in ``l1_loss``.

    A prediction with swapped corners is judged with its corners in order, so that it learns.

    Raises:
        ValueError: a target whose corners are not in order.
    """
    return mean_over_boxes(giou_of_boxes(predicted, target))


def l1_of_boxes(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the absolute error of each box, summed over its coordinates: float32 [n]."""
    _check_boxes(predicted, target)
    return (predicted.float() - target.float()).abs().sum(1)


def giou_of_boxes(predicted: Tensor, target: Tensor) -> Tensor:
    """Return 1 - GIoU of each box, the corners of the prediction in order: [n]."""
    _check_boxes(predicted, target)
    if bool((target[:, 2:] < target[:, :2]).any()):
        raise ValueError("a target box has its corners swapped")
    return 1 - paired_iou_giou(sorted_corners(predicted), target)[1]


def mean_over_boxes(each: Tensor) -> Tensor:
    """Return the sum of losses [n] over their number, which is 0 without any."""
    return each.sum() / (each.shape[0] + COUNT_EPSILON)


def expected_box_terms(boxes: Tensor, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (L1, 1 - GIoU) of a head that offers Q boxes for each thing, as that head expects them: two scalars.

    With shares ``p_kq = softmax_q(logits_kq)``, both are ``1/K sum_k sum_q p_kq loss(box_kq, target_k)``: minimum risk
    training (Shen et al. 2016) over the whole, small set of choices. The shares carry gradient: they move to the boxes
    that lie better than the average of their thing, and a box learns the more the more it is believed. With Q = 1 this
    is ``l1_loss`` and ``giou_loss``.

    Args:
        boxes: [K, Q, 4] xyxy.
        logits: [K, Q]; -inf is no candidate. Every thing needs one that is finite.
        target: [K, 4] xyxy of the same frame, corners in order.
    """
    _check_boxes(boxes[:, 0], target)
    shares = logits.float().softmax(dim=1)
    wanted = target.float()[:, None].expand_as(boxes)
    distance = (boxes.float() - wanted).abs().sum(2)
    giou = paired_iou_giou(sorted_corners(boxes), wanted)[1]
    count = boxes.shape[0] + COUNT_EPSILON
    return (shares * distance).sum() / count, (shares * (1 - giou)).sum() / count


def _check_boxes(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape or predicted.ndim != 2 or predicted.shape[1] != 4:
        raise ValueError(f"boxes {tuple(predicted.shape)} and targets {tuple(target.shape)} must both be [n, 4]")
