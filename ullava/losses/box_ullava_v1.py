"""The box terms as u-LLaVA's first release computes them, defects included (``loss.box_divide_twice``).

It divides twice: the boxes of each image by their number, and the sum over images by the total again, so that the
same error counts the less the more boxes an image has. It also gives a prediction with swapped corners no GIoU loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ullava.losses.box import COUNT_EPSILON, giou_of_boxes, l1_of_boxes, mean_over_boxes


def l1_loss(predicted: Tensor, target: Tensor, image_of_box: Tensor | None = None) -> Tensor:
    """Return the term as ``ullava.losses.l1_loss``, divided twice; ``image_of_box`` [n] is needed (ValueError)."""
    return mean_over_boxes(_over_images(l1_of_boxes(predicted, target), image_of_box))


def giou_loss(predicted: Tensor, target: Tensor, image_of_box: Tensor | None = None) -> Tensor:
    """Return the term as ``ullava.losses.giou_loss``, divided twice, without predictions whose corners are swapped."""
    each = giou_of_boxes(predicted, target) * (predicted[:, 2:] >= predicted[:, :2]).all(1)
    return mean_over_boxes(_over_images(each, image_of_box))


def _over_images(each: Tensor, image_of_box: Tensor | None) -> Tensor:
    """Divide the losses [n] of the boxes by how many boxes their image has."""
    if image_of_box is None:
        raise ValueError("what is divided twice needs image_of_box")
    _, image, boxes_of_image = torch.unique(image_of_box, return_inverse=True, return_counts=True)
    share: Tensor = each / (boxes_of_image[image] + COUNT_EPSILON)
    return share
