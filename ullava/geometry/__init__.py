"""Boxes, masks and views: the only place where coordinates change frame. Pure functions on NumPy arrays.

Frames (``ullava.structures`` has the legend): a pixel covers [x, x+1) x [y, y+1), so corner 0,0 is the outer corner of
the first pixel, boxes are half-open (a full-image box is 0, 0, W, H) and masks are bool [H, W]. Sizes of images
are written (W, H); ``h, w`` order appears only where a mask's shape is meant.
"""

from ullava.geometry.boxes import (
    Boxes,
    as_coordinates,
    box_area,
    box_iou,
    clip_boxes_px,
    norm_to_px,
    padsq_to_px,
    px_to_norm,
    px_to_padsq,
    sort_corners,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from ullava.geometry.masks import (
    Rle,
    SegmentationError,
    mask_iou,
    mask_ious,
    mask_to_box_xyxy_px,
    polygons_to_mask,
    rle_area,
    rle_decode,
    rle_encode,
    segmentation_to_mask,
)
from ullava.geometry.outlines import mask_outlines, mask_to_polygons, simple_outlines
from ullava.geometry.video_masks import VideoMasks, united
from ullava.geometry.views import VIEW_KINDS, View, ViewKind, plan_bounded_view, plan_square, plan_view, resized_hw

__all__ = [
    "VIEW_KINDS",
    "Boxes",
    "Rle",
    "SegmentationError",
    "VideoMasks",
    "View",
    "ViewKind",
    "as_coordinates",
    "box_area",
    "box_iou",
    "clip_boxes_px",
    "mask_iou",
    "mask_ious",
    "mask_outlines",
    "mask_to_box_xyxy_px",
    "mask_to_polygons",
    "norm_to_px",
    "padsq_to_px",
    "plan_bounded_view",
    "plan_square",
    "plan_view",
    "polygons_to_mask",
    "px_to_norm",
    "px_to_padsq",
    "resized_hw",
    "rle_area",
    "rle_decode",
    "rle_encode",
    "segmentation_to_mask",
    "simple_outlines",
    "sort_corners",
    "united",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]
