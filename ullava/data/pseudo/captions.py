"""Captions whose phrases have boxes (Flickr30k Entities), written again with masks cut from them by GrabCut."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from ullava.atomic_write import append, begin_lines, whole
from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.data.pseudo.grab_cut import grab_cut
from ullava.data.pseudo.objects import TOO_SMALL, ClassBoxes, fault_of_mask, is_large, masks_of_boxes
from ullava.data.pseudo.settings import PseudoSettings
from ullava.data.readers.grounded_captions import GroundedCaptionReader
from ullava.errors import ConfigError, SampleError
from ullava.geometry import rle_encode
from ullava.json_lines import numbered_lines, parse_line
from ullava.media.images import read_image_rgb_u8
from ullava.structures import BoxXYXY, ImageArray, MaskArray, Region


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionJob:
    """Which split of which dataset is written to ``out``, and what masks are cut and kept by."""

    dataset: str
    entry: DatasetEntry
    data_root: Path
    out: Path
    settings: PseudoSettings = field(default_factory=PseudoSettings)


def make_caption_masks(job: CaptionJob, progress: bool = True) -> dict[str, Any]:
    """Write ``job.out`` in the layout ``grounded_captions``; return how many captions and masks it has.

    A phrase is kept where every one of its boxes gives a mask that is worth keeping; the words of another one stay in
    the caption, and are no phrase. Captions without a phrase are left out. ``rejected`` of the result counts boxes by
    the reason. An interrupted run of the same job goes on.

    Raises:
        ConfigError: another layout, or ``OUT.part`` belongs to another job.
        SampleError: a record that is wrong, or an image of another size. DataError: an image that cannot be read.
    """
    reader = build_dataset(job.dataset, job.entry, job.data_root)
    if not isinstance(reader, GroundedCaptionReader):
        raise ConfigError(f"dataset {job.dataset}: has no captions with boxes; a layout grounded_captions has them")
    cutter = _Cutter(reader, job.settings)
    part = job.out.with_name(job.out.name + ".part")
    source = reader.origin.store.arrow.name  # tells the version of the annotations
    head = {"settings": job.settings.told(False), "annotations": source, "records": len(reader)}
    done = len(begin_lines(part, json.dumps(head, sort_keys=True), "files or settings"))
    for number in tqdm(range(done, len(reader)), desc="cutting", unit="caption", disable=None if progress else True):
        append(part, json.dumps(cutter(number), ensure_ascii=False) + "\n")
    rejected: Counter[str] = Counter()
    captions = masks = 0
    with whole(job.out) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        ahead = "[\n"
        for line in _lines(part):
            rejected.update(line["rejected"])
            if line["record"] is not None:
                file.write(ahead + json.dumps(line["record"], ensure_ascii=False))
                ahead, captions = ",\n", captions + 1
                masks += sum(len(phrase["annotations"]) for phrase in line["record"]["phrases"])
        file.write("\n]\n" if captions else "[]\n")
    part.unlink()
    return {"captions": captions, "masks": masks, "rejected": dict(sorted(rejected.items()))}


def _lines(part: Path) -> Iterator[dict[str, Any]]:
    with part.open("rb") as file:
        for number, line in numbered_lines(file):
            if number > 1:
                yield parse_line(line)


class _Cutter:
    """Makes the record of one caption after the other; sentences of one image share its pixels and masks."""

    def __init__(self, reader: GroundedCaptionReader, settings: PseudoSettings) -> None:
        self.reader = reader
        self.settings = settings
        self.path: Path | None = None
        self.image: ImageArray | None = None
        self.known: dict[tuple[BoxXYXY, ...], list[MaskArray | str]] = {}

    def __call__(self, number: int) -> dict[str, Any]:
        """Return ``{record, rejected}``; ``record`` is None where no phrase of the caption is kept."""
        (sample,) = self.reader.queries(number)
        record, regions = self.reader.origin.store.record(number), iter(sample.turns[0].regions)
        size_hw = (sample.truth["height"], sample.truth["width"])
        if self.path != sample.images[0]:
            self.path, self.image, self.known = sample.images[0], read_image_rgb_u8(sample.images[0]), {}
        image = cast(ImageArray, self.image)
        if image.shape[:2] != size_hw:
            raise SampleError(sample.name, f"{self.path} has another size than {size_hw[1]} x {size_hw[0]} pixels")
        phrases, rejected = [], list[str]()
        for phrase, told in zip(record["phrases"], sample.truth["phrases"], strict=True):
            found = self._masks(image, told["words"], list(islice(regions, told["objects"])))
            rejected += [fault for fault in found if isinstance(fault, str)]
            masks = [{"segmentation": dict(rle_encode(mask))} for mask in found if not isinstance(mask, str)]
            if len(masks) == len(found):
                phrases.append({**phrase, "annotations": masks})
        return {"record": {**record, "phrases": phrases} if phrases else None, "rejected": rejected}

    def _masks(self, image: ImageArray, words: str, things: Sequence[Region]) -> list[MaskArray | str]:
        """Return the mask of each thing of a phrase, or why it is not worth keeping; masks that are there stay."""
        if all(thing.mask is not None for thing in things):
            return [thing.mask for thing in things if thing.mask is not None]
        boxes = tuple(thing.box_xyxy_px for thing in things if thing.box_xyxy_px is not None)
        if len(boxes) < len(things):
            raise SampleError(self.reader.id, f"'{words}' has masks and bare boxes; a phrase has the one or the other")
        if boxes not in self.known:
            self.known[boxes] = self._cut(image, ClassBoxes(words, tuple(range(len(boxes))), boxes))
        return self.known[boxes]

    def _cut(self, image: ImageArray, group: ClassBoxes) -> list[MaskArray | str]:
        size = (image.shape[0], image.shape[1])
        if not all(is_large(box, size, self.settings) for box in group.boxes):
            return [TOO_SMALL for _ in group.boxes]
        (found,) = grab_cut(image, [group], self.settings)
        dealt = [None] * len(group.boxes) if found is None else masks_of_boxes(found, group.boxes)
        judged: list[MaskArray | str] = []
        for box, mask in zip(group.boxes, dealt, strict=True):
            fault = fault_of_mask(mask, box, self.settings)
            judged.append(fault if fault or mask is None else mask)
        return judged
