"""GroundingDINO and MM-GroundingDINO, transformers' own classes, on images of any sizes and many prompts.

Prompts on images of one size run together, those of other sizes apart, so that no image is padded to another's
size: what a prompt finds does not depend on who shares its batch. The backbone runs once for each image, however many
prompts ask about it (but once more where they are too many for one chunk).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    PreTrainedConfig,
)
from transformers.modeling_outputs import BackboneOutput

from ullava.errors import UserError, did_you_mean
from ullava.examples import HeadImages
from ullava.geometry.box_tensors import corners_of_centers
from ullava.modeling.heads.box_contract import Candidates
from ullava.modeling.pixels import normalize_u8

DETECTORS: dict[str, tuple[type[PreTrainedConfig], type[Any]]] = {
    GroundingDinoConfig.model_type: (GroundingDinoConfig, GroundingDinoForObjectDetection),
    MMGroundingDinoConfig.model_type: (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
}
"""``model_type`` -> config and network: the closed table of detectors."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CHUNK_PIXELS = 4 * 800 * 1333
"""How many pixels of prompted images run at once: four of 800 x 1333 (docs/box_heads.md has the memory)."""

MIN_SIDE_SHARE = 8
"""An image is padded (and masked) to at least 1 / 8 of its long side, or a ribbon would hold too few positions."""


def detector_class(config: PreTrainedConfig) -> type[Any]:
    """Return transformers' network for a detector's config. Raises UserError for another ``model_type``."""
    if config.model_type not in DETECTORS:
        raise UserError(
            f"no box detector of model_type '{config.model_type}'{did_you_mean(config.model_type, DETECTORS)}"
        )
    return DETECTORS[config.model_type][1]


def decoded_sets(detector: Any, output: Any, text_mask: torch.Tensor, token: int) -> tuple[Candidates, ...]:
    """What a GroundingDINO says at each of its stages, for one text token: the encoder's proposals, then every layer.

    The boxes of layer l are ``sigmoid(delta_l + logit(reference_{l-1}))``, its logits the products of its queries with
    the text; the last set is what the class itself returns as ``pred_boxes`` and ``logits``. ``output`` is that of
    ``detector.model``, ``text_mask`` bool [K, L].
    """
    sets: list[Candidates] = []
    if output.enc_outputs_class is not None:
        coordinates, logits = output.enc_outputs_coord_logits, output.enc_outputs_class[..., token].float()
        real = torch.isfinite(coordinates).all(dim=-1)
        boxes = coordinates.masked_fill(~real[..., None], 0.0)
        sets.append(Candidates(corners_of_centers(boxes.float().sigmoid()), logits.masked_fill(~real, -torch.inf)))
    reference = output.init_reference_points
    for level in range(output.intermediate_hidden_states.shape[1]):
        queries = output.intermediate_hidden_states[:, level]
        delta = detector.bbox_embed[level](queries).float()
        start = torch.special.logit(reference.float(), eps=1e-5)
        raw = torch.cat([delta[..., : start.shape[-1]] + start, delta[..., start.shape[-1] :]], dim=-1)
        logits = detector.class_embed[level](
            vision_hidden_state=queries,
            text_hidden_state=output.encoder_last_hidden_state_text,
            text_token_mask=text_mask,
        )
        sets.append(Candidates(corners_of_centers(raw.sigmoid()), logits[..., token].float()))
        reference = output.intermediate_reference_points[:, level]
    return tuple(sets)


Run = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
"""(normalized pixels [J, 3, h, w], pixel mask [k, h, w], places [k] of the prompts) -> tensors [k, ...]."""


def run_by_size(detector: Any, images: HeadImages, rows: torch.Tensor, run: Run) -> tuple[torch.Tensor, ...]:
    """Call ``run`` on P prompts about images ``rows`` [P], those of one image size together; results in order.

    Tensors of another second dimension (more positions in a larger image) are filled up: with -inf where they are
    [k, N], else with 0.
    """
    sizes = [tuple(size) for size in images.sizes.tolist()]
    size_of = [sizes[row] for row in rows.tolist()]
    parts: list[tuple[torch.Tensor, ...]] = []
    order: list[int] = []
    for height, width in dict.fromkeys(size_of):
        alike = [place for place, size in enumerate(size_of) if size == (height, width)]
        alike.sort(key=lambda place: int(rows[place]))
        step = max(1, CHUNK_PIXELS // (height * width))
        for start in range(0, len(alike), step):
            places = torch.tensor(alike[start : start + step], device=rows.device)
            used, which = rows[places].unique(return_inverse=True)
            pixels, mask = _canvas(images.pixels[used, :, :height, :width], detector.dtype)
            with _shared_backbone(detector, which):
                parts.append(run(pixels, mask.expand(len(places), -1, -1), places))
            order.extend(alike[start : start + step])
    back = torch.tensor(order, device=rows.device).argsort()
    return tuple(torch.cat(_filled(tensors))[back] for tensors in zip(*parts, strict=True))


def _canvas(pixels_u8: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalize [J, 3, h, w]; a ribbon is widened with zeros that the mask [1, h', w'] leaves out."""
    height, width = pixels_u8.shape[-2:]
    least = -(-max(height, width) // MIN_SIDE_SHARE)
    padding = (0, max(0, least - width), 0, max(0, least - height))
    pixels = functional.pad(normalize_u8(pixels_u8, IMAGENET_MEAN, IMAGENET_STD, dtype), padding)
    mask = torch.ones(1, height, width, dtype=torch.long, device=pixels.device)
    return pixels, functional.pad(mask, padding)


@contextmanager
def _shared_backbone(detector: Any, which: torch.Tensor) -> Iterator[None]:
    """While open, the backbone's maps of J images are handed on to k prompts: map ``which[i]`` to prompt i.

    Raises UserError inside where the images are too small for the detector's number of queries.
    """
    config = detector.config

    def spread(_module: nn.Module, _inputs: Any, output: Any) -> BackboneOutput:
        maps = output.feature_maps
        height, width = maps[-1].shape[-2:]
        positions = sum(level.shape[-2] * level.shape[-1] for level in maps)
        for _ in range(config.num_feature_levels - len(maps)):
            height, width = (height + 1) // 2, (width + 1) // 2
            positions += height * width
        if config.two_stage and positions < config.num_queries:
            raise UserError(f"box.detector: {config.num_queries} queries, but the image has {positions} positions")
        return BackboneOutput(feature_maps=tuple(level[which] for level in maps))

    hook = detector.model.backbone.conv_encoder.model.register_forward_hook(spread)
    try:
        yield
    finally:
        hook.remove()


def _filled(tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    longest = max(tensor.shape[1] for tensor in tensors)
    made = []
    for tensor in tensors:
        missing = longest - tensor.shape[1]
        if missing and tensor.ndim == 2:
            tensor = functional.pad(tensor, (0, missing), value=-torch.inf)
        elif missing:
            tensor = functional.pad(tensor, (0, 0, 0, missing))
        made.append(tensor)
    return made
