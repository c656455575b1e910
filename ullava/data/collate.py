"""Rows -> batch. Pictures stay uint8 and travel once however many rows ask about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.data.encode import BadSample
from ullava.data.transport import Batch, Plane, side_by_side
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
        batch.update(self._instructions(examples))
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

    def _images(self, examples: Sequence[Any]) -> dict[str, torch.Tensor | Plane]:
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
        batch: dict[str, torch.Tensor | Plane] = {
            "image_index": torch.tensor(index, dtype=torch.long),
            "original_sizes": torch.tensor([image.original_hw for image in images], dtype=torch.long),
        }
        batch.update(_views(images, "pixel_values"))
        batch.update(_open_counts([image for example in examples for image in example.images], "image_counts"))
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
        batch.update(_views(list(distinct.values()), "video_pixel_values"))
        batch.update(_open_counts([video for example in examples for video in example.videos], "video_counts"))
        return batch

    def _instructions(self, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
        """What each row asks, [B, T], whether for masks or boxes, [B], and the row of each picture and video.

        For strategies that read it.
        """
        if all(example.instruction_ids is None for example in examples):
            return {}
        length = max(len(example.instruction_ids) for example in examples)
        ids = torch.full((len(examples), length), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            ids[row, : len(example.instruction_ids)] = torch.from_numpy(example.instruction_ids)
            mask[row, : len(example.instruction_ids)] = 1
        rows = torch.arange(len(examples))
        images, videos = ([len(getattr(e, kind)) for e in examples] for kind in ("images", "videos"))
        return {
            "instruction_ids": ids,
            "instruction_mask": mask,
            "grounded_rows": torch.tensor([example.grounded for example in examples]),
            "image_row": rows.repeat_interleave(torch.tensor(images)),
            "video_row": rows.repeat_interleave(torch.tensor(videos)),
        }

    @staticmethod
    def _patches(examples: Sequence[Any], batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Words of visual tokens [P, N, w] and the distinct picture [P] that each block of them speaks of.

        A picture of fewer tokens than N has rows without words at the end.
        """
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
        most, longest = (max(words.shape[axis] for words in named) for axis in (0, 1))
        table = np.full((len(named), most, longest), IGNORE_LABEL, dtype=np.int64)
        for block, words in zip(table, named, strict=True):
            block[: words.shape[0], : words.shape[1]] = words
        return {"patch_words": torch.from_numpy(table), "patch_image": torch.tensor(pictures)}

    def _sam(self, images: Sequence[Any]) -> dict[str, torch.Tensor | Plane]:
        wanted = [image.sam_u8 for image in images if image.sam_u8 is not None]
        sam_index = torch.full((len(images),), -1, dtype=torch.long)
        sam_index[[image.sam_u8 is not None for image in images]] = torch.arange(len(wanted))
        if not wanted:
            return {"sam_index": sam_index}
        pixels, sizes = _on_common_plane(wanted)
        return {"sam_index": sam_index, "sam_pixel_values": pixels, "sam_sizes": sizes}

    @staticmethod
    def _box_views(images: Sequence[Any]) -> dict[str, torch.Tensor | Plane]:
        """The box head's own views, of any sizes, each at the top left of a common plane; nothing where it has none."""
        wanted = [image.box_u8 for image in images if image.box_u8 is not None]
        if not wanted:
            return {}
        index = torch.full((len(images),), -1, dtype=torch.long)
        index[[image.box_u8 is not None for image in images]] = torch.arange(len(wanted))
        pixels, sizes = _on_common_plane(wanted)
        return {"box_index": index, "box_pixel_values": pixels, "box_sizes": sizes}


def _on_common_plane(views_u8: Sequence[NDArray[np.uint8]]) -> tuple[torch.Tensor | Plane, torch.Tensor]:
    """Views [3, h, w] of any sizes, each at the top left of [N, 3, max h, max w], and their sizes [N, 2] (h, w)."""
    return side_by_side(views_u8), torch.tensor([view.shape[1:] for view in views_u8], dtype=torch.long)


def _views(items: Sequence[Any], base: str) -> dict[str, Any]:
    """The views of distinct items: one tensor for each name, a list of tensors where the items' shapes differ."""
    batch: dict[str, Any] = {}
    for name in items[0].views:
        arrays = [item.views[name] for item in items]
        alike = len({array.shape for array in arrays}) == 1
        key = base if name == "base" else f"{base}_{name}"
        batch[key] = torch.from_numpy(np.stack(arrays)) if alike else [torch.from_numpy(array) for array in arrays]
    return batch


def _open_counts(items: Sequence[Any], key: str) -> dict[str, torch.Tensor]:
    """Least and most visual tokens of every place of the text, [items, 2], if any of them is open."""
    if all(item.count.exact for item in items):
        return {}
    return {key: torch.tensor([(item.count.low, item.count.high) for item in items])}
