"""Where the tokens lie that a question keeps of an image's tiles (vision encoder slime), drawn over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ullava.atomic_write import whole
from ullava.data.loading.encode import read_images
from ullava.data.readers.base import TaskDataset
from ullava.experiments.contender_cost import EncodeCost, kind_of
from ullava.geometry import Boxes
from ullava.inference.predictor import Predictor
from ullava.modeling.vision.slime_tiles import plan_tiles
from ullava.structures import ImageArray, Sample
from ullava.text.tokens import IMAGE_MARKER

DIMMED = 0.3
"""Brightness of what no kept token looks at."""


def draw_kept(predictor: Predictor, datasets: Mapping[str, TaskDataset], items: int, path: Path) -> bool:
    """Draw one image twice, each with the tokens that one of two questions keeps; False where nothing is chosen.

    The image is the first of the first ``items`` items of each data set that is asked two questions of different
    kinds; the questions are the first two such. No image is picked for how it looks.
    """
    settings = predictor.model.config.vision_settings
    if predictor.model.config.strategy != "slime" or settings["view"] == "global":
        return False
    costing = EncodeCost(predictor)
    every = (asked for dataset in datasets.values() for asked in costing.questions(dataset, items))
    pair = next(filter(None, map(_two_kinds, every)), None)
    if pair is None:
        return False
    image = read_images(pair[0].images, pair[0].name)[0]
    panels = []
    for sample in pair:
        seen, _ = costing.see(costing.encode(sample))
        kept = [int(place) for place in seen.diagnostics["kept"][0]]
        cells = cells_of(predictor, (image.shape[1], image.shape[0]))
        share = f"{len(kept)} of {len(cells)} tokens"
        panels.append((f"{_words(sample)}\n{share}", lit(image, cells[kept])))
    _save(panels, path)
    return True


def cells_of(predictor: Predictor, orig_wh: tuple[int, int]) -> Boxes:
    """Where each token of the tiles looks: boxes [n, 4] in original pixels."""
    config: Any = predictor.model.config
    most = int(predictor.overrides.get("max_tiles", config.vision_settings["max_tiles"]))
    plan = plan_tiles(orig_wh, int(config.vision_config.image_size), most)
    return plan.cell_boxes_xyxy_px(int(config.vision_settings["local_side"]))


def lit(image_rgb_u8: ImageArray, boxes_xyxy_px: Boxes) -> ImageArray:
    """The image [H, W, 3] with everything outside the boxes [k, 4] darkened."""
    light = np.full(image_rgb_u8.shape[:2], DIMMED)
    for x0, y0, x1, y1 in np.rint(boxes_xyxy_px).astype(int):
        light[y0:y1, x0:x1] = 1.0
    return np.rint(image_rgb_u8 * light[..., None]).astype(np.uint8)


def _two_kinds(asked: Sequence[Sample]) -> tuple[Sample, Sample] | None:
    other = next((sample for sample in asked if kind_of(sample) != kind_of(asked[0])), None)
    return None if other is None else (asked[0], other)


def _words(sample: Sample) -> str:
    return sample.turns[-1].question.replace(IMAGE_MARKER, "").strip()


def _save(panels: Sequence[tuple[str, ImageArray]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 4.4), layout="tight")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, image) in zip(axes[0], panels, strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize="small")
        axis.axis("off")
    with whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=90)
