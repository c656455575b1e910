"""Boxes on the device, with gradients: what the heads and the losses share. Tensors, where the rest here is NumPy."""

from __future__ import annotations

import torch
from torch import Tensor

AREA_EPSILON = 1e-7


def paired_iou_giou(boxes_a: Tensor, boxes_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return (IoU [...], generalized IoU [...]) of each box of ``boxes_a`` [..., 4] with its own of ``boxes_b``.

    xyxy of one frame, both with their corners in order. GIoU lies in (-1, 1] and stays informative where boxes do not
    meet (Rezatofighi et al. 2019). float32.
    """
    a, b = boxes_a.float(), boxes_b.float()
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    iou = intersection / union.clamp(min=AREA_EPSILON)
    return iou, iou - (hull - union) / hull.clamp(min=AREA_EPSILON)


def sorted_corners(boxes_xyxy: Tensor) -> Tensor:
    """Return boxes [..., 4] with left <= right and top <= bottom."""
    first, second = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=-1)


def corners_of_centers(boxes_cxcywh: Tensor) -> Tensor:
    """Center, width and height [..., 4] -> corners xyxy, float32."""
    center, half = boxes_cxcywh[..., :2].float(), boxes_cxcywh[..., 2:].float() / 2
    return torch.cat([center - half, center + half], dim=-1)
