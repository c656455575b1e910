"""Mask heads with an image encoder of their own: what it makes of an image may be kept on disk, where it is frozen.

What an encoder makes depends on the image, the view and its own weights alone, what the rest of the head makes of that
(``adapt``) also on weights that may train. So only the first is kept, and training and inference get it here alike.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ullava.errors import UserError
from ullava.examples import HeadImages
from ullava.modeling.heads.mask_cache import MaskCache
from ullava.modeling.heads.mask_contract import MaskHead, Pyramid


class EncodingMaskHead(MaskHead):
    """``kind``: as in model.yaml; ``cache``: where maps of images are kept, None = nowhere."""

    kind: str
    cache: MaskCache | None = None

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The image encoder: all weights that ``encode`` reads."""

    @abstractmethod
    def encode(self, images: HeadImages, rows: Tensor) -> list[Tensor]:
        """Run the encoder on the views in ``rows`` [n] of ``images.pixels`` -> maps [n, C, h, w]."""

    @abstractmethod
    def adapt(self, maps: list[Tensor]) -> Any:
        """What ``encode`` gave, of all images that are asked about -> what ``decode`` reads."""

    def embed(self, images: HeadImages | Pyramid, rows: Tensor) -> Any:
        """See MaskHead; images whose maps are kept are not encoded again."""
        images = self.own_views(images)
        if images.kept is None:
            return self.adapt(self._encoded(images, rows))
        is_new = rows < len(images.pixels)
        new, known = rows[is_new], rows[~is_new] - len(images.pixels)
        parts: list[list[Tensor]] = []
        if len(new):
            parts.append(self._encoded(images, new))
            if self.cache is not None:
                self.cache.keep([images.kept.entries[row] for row in new.tolist()], parts[0])
        if len(known):
            parts.append([level[known] for level in images.kept.maps])
            if self.cache is not None:
                self.cache.counts.found += len(known)
        return self.adapt(_joined(parts, is_new))

    def own_views(self, images: HeadImages | Pyramid) -> HeadImages:
        """Return the views that the encoder sees. Raises UserError for maps of the vision tower."""
        if not isinstance(images, HeadImages):
            raise UserError(f"mask.kind {self.kind} encodes images of its own and reads no maps of the vision tower")
        return images

    def encoder_gradients(self) -> torch.set_grad_enabled:
        """Keep gradients of the encoder only where it trains."""
        trains = any(parameter.requires_grad for parameter in self.encoder.parameters())
        return torch.set_grad_enabled(trains and torch.is_grad_enabled())

    def _encoded(self, images: HeadImages, rows: Tensor) -> list[Tensor]:
        with self.encoder_gradients():
            return self.encode(images, rows)


def _joined(parts: Sequence[list[Tensor]], is_new: Tensor) -> list[Tensor]:
    """Maps of the new images and of the known ones -> maps in the order in which they were asked for."""
    if len(parts) == 1:
        return parts[0]
    place = torch.cat([is_new.nonzero(), (~is_new).nonzero()])[:, 0].argsort()
    return [torch.cat(levels)[place] for levels in zip(*parts, strict=True)]
