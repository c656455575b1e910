"""Rows -> batch. Pictures stay uint8 and travel once however many rows ask about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.data.encode import BadSample
from ullava.data.transport import Batch
from ullava.errors import SampleError
from ullava.text.tokens import IGNORE_LABEL


class Collator:
    """Make a batch of examples; see UllavaForConditionalGeneration for the keys that the network reads.

    Beside them: ``mask_targets`` (list over ``[SEG]`` of uint8 [H, W]; equal masks share one tensor),
    ``boxes_xyxy_head`` [K, 4], ``original_sizes`` [I, 2] (H, W), ``bad_samples`` and ``names``.
    """

    def __init__(self, pad_id: int, padding_side: Literal["left", "right"] = "right") -> None:
        self.pad_id = pad_id
        self.padding_side = padding_side

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Batch ``rows``; raises SampleError when none of them is usable."""
        bad = [row for row in rows if isinstance(row, BadSample)]
        examples = [row for row in rows if not isinstance(row, BadSample)]
        if not examples:
            raise SampleError(bad[0].name, f"{bad[0].reason} (and no other sample of this batch is usable)")
        batch = Batch(self._text(examples))
        batch.update(self._images(examples))
        batch.update(self._videos(examples))
        masks: dict[int, torch.Tensor] = {}
        for mask in (mask for example in examples for mask in example.masks):
            masks.setdefault(id(mask), torch.from_numpy(np.ascontiguousarray(mask).view(np.uint8)))
        batch["mask_targets"] = [masks[id(mask)] for example in examples for mask in example.masks]
        batch["boxes_xyxy_head"] = torch.from_numpy(np.concatenate([example.boxes_xyxy_head for example in examples]))
        batch.update(self._patches(examples, batch))
        batch["names"] = [example.name for example in examples]
        batch["bad_samples"] = bad
        return batch

    def _text(self, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
        length = max(len(example.input_ids) for example in examples)
        ids = torch.full((len(examples), length), self.pad_id, dtype=torch.long)
        labels = torch.full_like(ids, IGNORE_LABEL)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            size = len(example.input_ids)
            place = slice(length - size, length) if self.padding_side == "left" else slice(0, size)
            ids[row, place] = torch.from_numpy(example.input_ids)
            labels[row, place] = torch.from_numpy(example.labels)
            mask[row, place] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def _images(self, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
        distinct: dict[str, Any] = {}
        for image in (image for example in examples for image in example.images):
            known = distinct.get(image.key)
            if known is None or (known.sam_u8 is None and image.sam_u8 is not None):
                distinct[image.key] = image
        if not distinct:
            return {}
        number = {key: place for place, key in enumerate(distinct)}
        images = list(distinct.values())
        index = [number[image.key] for example in examples for image in example.images]
        batch = {
            "image_index": torch.tensor(index, dtype=torch.long),
            "original_sizes": torch.tensor([image.original_hw for image in images], dtype=torch.long),
        }
        for name in images[0].views:
            key = "pixel_values" if name == "base" else f"pixel_values_{name}"
            batch[key] = torch.from_numpy(np.stack([image.views[name] for image in images]))
        batch.update(self._sam(images))
        batch.update(self._box_views(images))
        return batch

    @staticmethod
    def _videos(examples: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Distinct videos, uint8 [V, T, 3, h, w] for each view, and which of them each one of the text is."""
        distinct: dict[str, Any] = {}
        for video in (video for example in examples for video in example.videos):
            distinct.setdefault(video.key, video)
        if not distinct:
            return {}
        number = {key: place for place, key in enumerate(distinct)}
        index = [number[video.key] for example in examples for video in example.videos]
        batch = {"video_index": torch.tensor(index, dtype=torch.long)}
        for name in next(iter(distinct.values())).views:
            key = "video_pixel_values" if name == "base" else f"video_pixel_values_{name}"
            batch[key] = torch.from_numpy(np.stack([video.views[name] for video in distinct.values()]))
        return batch

    @staticmethod
    def _patches(examples: Sequence[Any], batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Words of visual tokens [P, N, w] and the distinct picture [P] that each block of them speaks of."""
        named: list[NDArray[np.int64]] = []
        pictures: list[int] = []
        item = 0
        for example in examples:
            if example.patch_words is not None:
                named.append(example.patch_words)
                pictures.append(int(batch["image_index"][item]))
            item += len(example.images)
        if not named:
            return {}
        longest = max(words.shape[1] for words in named)
        table = np.full((len(named), len(named[0]), longest), IGNORE_LABEL, dtype=np.int64)
        for block, words in zip(table, named, strict=True):
            block[:, : words.shape[1]] = words
        return {"patch_words": torch.from_numpy(table), "patch_image": torch.tensor(pictures)}

    def _sam(self, images: Sequence[Any]) -> dict[str, torch.Tensor]:
        wanted = [image.sam_u8 for image in images if image.sam_u8 is not None]
        sam_index = torch.full((len(images),), -1, dtype=torch.long)
        sam_index[[image.sam_u8 is not None for image in images]] = torch.arange(len(wanted))
        if not wanted:
            return {"sam_index": sam_index}
        pixels, sizes = _on_common_plane(wanted)
        return {"sam_index": sam_index, "sam_pixel_values": pixels, "sam_sizes": sizes}

    @staticmethod
    def _box_views(images: Sequence[Any]) -> dict[str, torch.Tensor]:
        """The box head's own views, of any sizes, each at the top left of a common plane; nothing where it has none."""
        wanted = [image.box_u8 for image in images if image.box_u8 is not None]
        if not wanted:
            return {}
        index = torch.full((len(images),), -1, dtype=torch.long)
        index[[image.box_u8 is not None for image in images]] = torch.arange(len(wanted))
        pixels, sizes = _on_common_plane(wanted)
        return {"box_index": index, "box_pixel_values": pixels, "box_sizes": sizes}


def _on_common_plane(views_u8: Sequence[NDArray[np.uint8]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Views [3, h, w] of any sizes, each at the top left of [N, 3, max h, max w], and their sizes [N, 2] (h, w)."""
    sizes = torch.tensor([view.shape[1:] for view in views_u8], dtype=torch.long)
    height, width = sizes.amax(dim=0).tolist()
    pixels = torch.zeros(len(views_u8), 3, height, width, dtype=torch.uint8)
    for row, view in enumerate(views_u8):
        pixels[row, :, : view.shape[1], : view.shape[2]] = torch.from_numpy(view)
    return pixels, sizes
