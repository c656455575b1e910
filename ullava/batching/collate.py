"""Rows -> batch. Images stay uint8 and travel once however many rows ask about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.batching.packing import packed
from ullava.batching.transport import side_by_side
from ullava.examples import (
    BadSample,
    Batch,
    ClipFrames,
    ClipTarget,
    Example,
    HeadImages,
    ImageExample,
    Instructions,
    KeptMaps,
    MaskEntry,
    ModelInputs,
    PatchNames,
    RegionInputs,
    Targets,
    VideoExample,
    Views,
    VisualInputs,
)
from ullava.text.tokens import IGNORE_LABEL

ItemT = TypeVar("ItemT", ImageExample, VideoExample)


class Collator:
    """Make a Batch of rows; those that are bad samples are handed on beside it. Equal masks share one tensor.

    ``tokens``: several dialogues share a row of the batch, of at most so many tokens (ullava.batching.packing); None =
    each has its own.
    """

    def __init__(
        self, pad_id: int, padding_side: Literal["left", "right"] = "right", tokens: int | None = None
    ) -> None:
        self.pad_id = pad_id
        self.padding_side = padding_side
        self.tokens = tokens

    def __call__(self, rows: Sequence[Example | BadSample]) -> Batch:
        """Batch ``rows``; without a usable one the batch has neither inputs nor targets."""
        bad = tuple(row for row in rows if isinstance(row, BadSample))
        examples = [row for row in rows if isinstance(row, Example)]
        if not examples:
            return Batch(inputs=None, targets=None, bad_samples=bad)
        rows_of = [[place] for place in range(len(examples))]
        if self.tokens is not None:
            rows_of = packed([_most_tokens(example) for example in examples], self.tokens)
            examples = [examples[place] for row in rows_of for place in row]
        ids, dialogues, labels = self._text(examples, [len(row) for row in rows_of])
        images = [image for example in examples for image in example.images]
        videos = [video for example in examples for video in example.videos]
        rows_of_images, rows_of_videos, instructions = self._instructions(examples)
        distinct = _distinct(images, lambda image: image.for_heads)
        films = _distinct(videos, lambda video: video.sam_u8)
        shown = _visual(images, distinct, rows_of_images)
        inputs = ModelInputs(
            input_ids=ids,
            attention_mask=(dialogues > 0).long(),
            labels=labels,
            dialogues=None if self.tokens is None else dialogues,
            images=shown,
            videos=_visual(videos, films, rows_of_videos),
            mask_images=_head_images(
                [image.sam_u8 for image in distinct.values()], [image.mask_entry for image in distinct.values()]
            ),
            box_images=_head_images([image.box_u8 for image in distinct.values()]),
            instructions=instructions,
            patches=None if shown is None else _patches(examples, shown.index.tolist()),
            regions=None if shown is None else _regions(examples, shown.index.tolist()),
            clip_frames=_clip_frames([target for row in examples for target in row.clip_targets], films),
        )
        names = tuple(example.name for example in examples)
        return Batch(inputs=inputs, targets=_targets(examples, len(images)), names=names, bad_samples=bad)

    def _text(
        self, examples: Sequence[Example], members: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, dialogues and labels [B, L] of examples, ``members`` of them in each row, one after another."""
        ends = np.cumsum(members)
        rows = [examples[end - count : end] for end, count in zip(ends, members, strict=True)]
        sizes = [sum(len(example.input_ids) for example in row) for row in rows]
        ids = torch.full((len(rows), max(sizes)), self.pad_id, dtype=torch.long)
        labels = torch.full_like(ids, IGNORE_LABEL)
        dialogues = torch.zeros_like(ids)
        for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
            start = max(sizes) - size if self.padding_side == "left" else 0
            for member, example in enumerate(row, start=1):
                place = slice(start, start + len(example.input_ids))
                ids[number, place] = torch.from_numpy(example.input_ids)
                labels[number, place] = torch.from_numpy(example.labels)
                dialogues[number, place] = member
                if member > 1:  # nothing of the dialogue before it predicts its first token
                    labels[number, start] = IGNORE_LABEL
                start = place.stop
        return ids, dialogues, labels

    def _instructions(
        self, examples: Sequence[Example]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Instructions | None]:
        """The row of each image and of each video, and what each row asks; for strategies that read it.

        Rows are also told where a batch has both, whose order in the text a core may need to know.
        """
        asked = [example.instruction_ids for example in examples if example.instruction_ids is not None]
        numbers = torch.arange(len(examples))
        of_images = numbers.repeat_interleave(torch.tensor([len(example.images) for example in examples]))
        of_videos = numbers.repeat_interleave(torch.tensor([len(example.videos) for example in examples]))
        if not asked:
            return (of_images, of_videos, None) if len(of_images) and len(of_videos) else (None, None, None)
        if len(asked) < len(examples):
            raise ValueError("some rows of a batch tell what they ask, others do not")
        ids = torch.full((len(examples), max(map(len, asked))), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, words in enumerate(asked):
            ids[row, : len(words)] = torch.from_numpy(words)
            mask[row, : len(words)] = 1
        grounded = torch.tensor([example.grounded for example in examples])
        return of_images, of_videos, Instructions(ids=ids, mask=mask, grounded=grounded)


def _most_tokens(example: Example) -> int:
    """The longest that a row's text may become when the network has settled its visual tokens."""
    items: list[ImageExample | VideoExample] = [*example.images, *example.videos]
    return len(example.input_ids) + sum(item.count.high - 1 for item in items if not item.count.exact)


def _distinct(items: Sequence[ItemT], serves_heads: Callable[[ItemT], object]) -> dict[str, ItemT]:
    """Items by key, in order; of equal ones that with views for the heads."""
    distinct: dict[str, ItemT] = {}
    for item in items:
        known = distinct.get(item.key)
        if known is None or (serves_heads(item) and not serves_heads(known)):
            distinct[item.key] = item
    return distinct


def _clip_frames(targets: Sequence[ClipTarget], videos: Mapping[str, VideoExample]) -> ClipFrames | None:
    """The frames in which masks are taught; None where none are."""
    if not targets:
        return None
    annotated = torch.zeros(len(targets), targets[0].frames, dtype=torch.bool)
    for row, target in zip(annotated, targets, strict=True):
        row[list(target.masks)] = True
    prompt = torch.tensor([target.prompt for target in targets])
    views = [view for video in videos.values() for view in video.sam_u8]
    if not views:
        return ClipFrames(annotated=annotated, prompt=prompt)
    starts, row = [], 0
    for video in videos.values():
        starts.append(row if video.sam_u8 else -1)
        row += len(video.sam_u8)
    return ClipFrames(
        annotated=annotated,
        prompt=prompt,
        pixels=cast(torch.Tensor, side_by_side(views)),
        sizes=torch.tensor([view.shape[1:] for view in views], dtype=torch.long),
        first_row=torch.tensor(starts),
    )


def _visual(items: Sequence[ItemT], distinct: Mapping[str, ItemT], rows: torch.Tensor | None) -> VisualInputs | None:
    """The views of ``distinct`` items and which of them each of ``items``, the places of the text, shows."""
    if not items:
        return None
    number = {key: place for place, key in enumerate(distinct)}
    counts = None
    if not all(item.count.exact for item in items):
        counts = torch.tensor([(item.count.low, item.count.high) for item in items])
    index = torch.tensor([number[item.key] for item in items], dtype=torch.long)
    return VisualInputs(views=_views(list(distinct.values())), index=index, counts=counts, row=rows)


def _views(items: Sequence[ItemT]) -> Views:
    """The views of distinct items: one tensor for each name, a list of tensors where the items' shapes differ."""
    views: dict[str, torch.Tensor | list[torch.Tensor]] = {}
    for name in items[0].views:
        arrays = [item.views[name] for item in items]
        alike = len({array.shape for array in arrays}) == 1
        views[name] = torch.from_numpy(np.stack(arrays)) if alike else [torch.from_numpy(array) for array in arrays]
    return views


def _head_images(
    views_u8: Sequence[NDArray[np.uint8] | None], entries: Sequence[MaskEntry | None] = ()
) -> HeadImages | None:
    """Views [3, h, w] of distinct images, of any sizes, each at the top left of a common plane; None without any.

    ``entries``: of the same images, where a head keeps maps; those that have maps come after those with a view.
    """
    shown = [place for place, view in enumerate(views_u8) if view is not None]
    known = {place: entry for place, entry in enumerate(entries) if entry is not None and entry.maps is not None}
    if not shown and not known:
        return None
    row_of_image = torch.full((len(views_u8),), -1, dtype=torch.long)
    row_of_image[[*shown, *known]] = torch.arange(len(shown) + len(known))
    wanted = [view for view in views_u8 if view is not None]
    pixels = torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
    if wanted:
        pixels = cast(torch.Tensor, side_by_side(wanted))  # in a loader's worker it is drawn when the batch is sent
    sizes = [view.shape[1:] for view in wanted] + [entry.view_hw for entry in known.values()]
    kept = None
    if any(entry is not None for entry in entries):
        maps = zip(*(cast(tuple[torch.Tensor, ...], entry.maps) for entry in known.values()), strict=True)
        kept = KeptMaps(entries=tuple(entries[place] for place in shown), maps=[torch.stack(level) for level in maps])
    return HeadImages(pixels=pixels, sizes=torch.tensor(sizes, dtype=torch.long), row_of_image=row_of_image, kept=kept)


def _patches(examples: Sequence[Example], index: Sequence[int]) -> PatchNames | None:
    """Names of visual tokens; ``index``: see VisualInputs. An image of fewer tokens has rows without words at the end.

    Returns None where no row has any.
    """
    named: list[NDArray[np.int64]] = []
    images: list[int] = []
    item = 0
    for example in examples:
        if example.patch_words is not None:
            named.append(example.patch_words)
            images.append(index[item])
        item += len(example.images)
    if not named:
        return None
    most, longest = (max(words.shape[axis] for words in named) for axis in (0, 1))
    table = np.full((len(named), most, longest), IGNORE_LABEL, dtype=np.int64)
    for block, words in zip(table, named, strict=True):
        block[: words.shape[0], : words.shape[1]] = words
    return PatchNames(words=torch.from_numpy(table), image=torch.tensor(images))


def _regions(examples: Sequence[Example], index: Sequence[int]) -> RegionInputs | None:
    """What the rows point at, in reading order; ``index``: see VisualInputs. None where no row points at anything."""
    found = [region for example in examples for region in example.regions]
    if not found:
        return None
    images: list[int] = []
    item = 0
    for example in examples:
        images += [index[item + region.image] for region in example.regions]
        item += len(example.images)
    sides = {region.shares.shape for region in found if region.shares is not None}
    shares = None
    if sides:
        (side,) = sides
        whole = np.ones(side, dtype=np.float32)
        shares = np.stack([whole if region.shares is None else region.shares for region in found])
    return RegionInputs(
        boxes=torch.from_numpy(np.stack([region.box_xyxy_view for region in found])),
        image=torch.tensor(images, dtype=torch.long),
        shares=None if shares is None else torch.from_numpy(shares),
    )


def _targets(examples: Sequence[Example], images: int) -> Targets:
    given = [mask for example in examples for mask in example.masks]
    clips = [target.masks for example in examples for target in example.clip_targets]
    given += [found[frame] for found in clips for frame in sorted(found)]
    masks: dict[int, torch.Tensor] = {}
    for mask in given:
        masks.setdefault(id(mask), torch.from_numpy(np.ascontiguousarray(mask).view(np.uint8)))
    places = [id(mask) for mask in given]
    wanted = [masks[place] for place in places]
    empty = {name for name, mask in masks.items() if not bool(mask.any())}
    return Targets(
        masks=wanted,
        absent=frozenset(place for place, name in enumerate(places) if name in empty),
        boxes_xyxy_head=torch.from_numpy(np.concatenate([example.boxes_xyxy_head for example in examples])),
        images=images,
    )
