"""The box terms of u-LLaVA (arXiv 2311.05348, loss of stage II): L1 and GIoU, summed over the boxes of a batch and
divided once.

u-LLaVA divides twice: the boxes of each image by their number, and the sum over images by the total again, so
that the same error counts the less the more boxes an image has. It also gives a prediction with swapped corners no
GIoU loss at all. Both are defects; ``divide_twice=True`` reproduces the pair for comparing with its numbers.
Boxes are xyxy in any one frame that is common to prediction and target.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ullava.geometry.box_tensors import paired_iou_giou, sorted_corners

COUNT_EPSILON = 1e-8


def l1_loss(
    predicted: Tensor,
    target: Tensor,
    image_of_box: Tensor | None = None,
    *,
    divide_twice: bool = False,
) -> Tensor:
    """Return the absolute error, summed over the four coordinates and averaged over the boxes: a float32 scalar.

    Args:
        predicted: [n, 4] xyxy.
        target: [n, 4] xyxy of the same frame.
        image_of_box: [n] number of the image each box belongs to; needed for ``divide_twice`` only.
        divide_twice: divide as u-LLaVA does (see above).

    No box gives 0, which still carries a (zero) gradient.
    """
    _check_boxes(predicted, target)
    each = (predicted.float() - target.float()).abs().sum(1)
    return _reduce(each, image_of_box, divide_twice)


def giou_loss(
    predicted: Tensor,
    target: Tensor,
    image_of_box: Tensor | None = None,
    *,
    divide_twice: bool = False,
) -> Tensor:
    """Return 1 - GIoU averaged over the boxes: a float32 scalar. Arguments as in ``l1_loss``.

    A prediction with swapped corners is judged with its corners in order, so that it learns; with ``divide_twice`` it
    gets no loss, as in u-LLaVA.

    Raises:
        ValueError: a target whose corners are not in order.
    """
    _check_boxes(predicted, target)
    if bool((target[:, 2:] < target[:, :2]).any()):
        raise ValueError("a target box has its corners swapped")
    each = 1 - paired_iou_giou(sorted_corners(predicted), target)[1]
    if divide_twice:
        each = each * (predicted[:, 2:] >= predicted[:, :2]).all(1)
    return _reduce(each, image_of_box, divide_twice)


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


def _reduce(each: Tensor, image_of_box: Tensor | None, divide_twice: bool) -> Tensor:
    """Sum the losses [n] of the boxes, or u-LLaVA's means of each image, and divide by the number of boxes."""
    if divide_twice:
        if image_of_box is None:
            raise ValueError("divide_twice needs image_of_box")
        _, image, boxes_of_image = torch.unique(image_of_box, return_inverse=True, return_counts=True)
        each = each / (boxes_of_image[image] + COUNT_EPSILON)
    return each.sum() / (each.shape[0] + COUNT_EPSILON)


def _check_boxes(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape or predicted.ndim != 2 or predicted.shape[1] != 4:
        raise ValueError(f"boxes {tuple(predicted.shape)} and targets {tuple(target.shape)} must both be [n, 4]")
