"""Referring expressions in the form of ``refs(*).p`` (or the same as JSON) with ``instances.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ullava.data.annotations.encodings import UTF_8
from ullava.data.converters.imported.coco_file import CocoFile, ListedAnnotation, ListedImage, id_of, read_coco_file
from ullava.data.converters.imported.items import (
    AMBIGUOUS,
    JOINED,
    Faults,
    Import,
    Item,
    one_file,
)
from ullava.data.converters.imported.listed import ListedReading, has_boxes_alone
from ullava.data.converters.imported.things import BoxFormat, ThingReader
from ullava.data.converters.published.refs import Ref, entries_of, read_entries, spoken
from ullava.data.converters.published.source import OriginalSource
from ullava.errors import DataError
from ullava.given_files import check_plain


def read_refs(
    images: Path,
    refs: Path,
    instances: Path,
    part: str | None = None,
    *,
    boxes: bool = False,
    box_format: BoxFormat | None = None,
    encoding: str = UTF_8,
    stored_pixels: bool = False,
) -> Import:
    """Read expressions (``part``: of this split of the file, "all" for every one), their masks and images.

    A pickle is read without running anything in it. Entries whose ``ann_id`` is a list are expressions for several
    objects or none. ``boxes`` reads boxes alone, for the task rec; instances without any mask are read so by
    themselves. ``box_format``: see ThingReader; ``stored_pixels``: see annotated_size_hw.

    Faults: entries that are malformed or whose ids ``instances.json`` does
    not have, images that are missing, unreadable or of another size, masks and boxes that cannot be used. Raises
    DataError for files that cannot be understood.
    """
    for path in (refs, instances):
        check_plain(path, what="annotation file")
    entries = read_entries(refs, encoding)
    several = isinstance(entries, list) and any(
        isinstance(entry, dict) and isinstance(entry.get("ann_id"), list) for entry in entries
    )
    source = OriginalSource(
        kind="grefs" if several else "refs", root=images, annotations=refs, companion=instances, part=part
    )
    faults = Faults()
    said, blank = spoken(entries_of(source, entries, several, id_of, faults.add))
    for skipped in blank:
        faults.add(f"{refs}: {skipped.name}", skipped.reason)
    wanted = {number for ref in said for number in ref.annotation_ids}
    file = read_coco_file(instances, faults, wanted.__contains__, encoding)
    boxes = boxes or has_boxes_alone(file, faults)
    things = ThingReader(instances, faults, boxes_only=boxes, box_format=box_format)
    reading = _Expressions(images, file, faults, things, stored_pixels, refs=refs, several=several)
    items = reading.items(said)
    things.check_form()
    return Import(
        layout="grefer" if several else "refer",
        task="rec" if boxes else "res",
        items=items,
        boxes_only=boxes,
        faults=faults,
    )


class _Expressions(ListedReading):
    def __init__(
        self,
        images: Path,
        file: CocoFile,
        faults: Faults,
        things: ThingReader,
        stored_pixels: bool,
        *,
        refs: Path,
        several: bool,
    ) -> None:
        super().__init__(images, file, faults, things, stored_pixels)
        self.refs = refs
        self.several = several
        self.annotations: dict[str | None, list[ListedAnnotation]] = {}
        for entry in file.annotations:
            self.annotations.setdefault(entry.id, []).append(entry)

    def items(self, said: list[Ref]) -> list[Item]:
        """Join expressions, objects and images. An image that is listed under several names or ids is one image."""
        groups: dict[str, list[tuple[Ref, ListedImage]]] = {}
        for ref in said:
            with self.faults.noting(f"{self.refs}: entry {ref.place}"):
                image = self._image(ref)
                group = groups.setdefault(one_file(self.path_of(image)), [])
                if group and image.id not in {other.id for _, other in group}:
                    self.faults.note(JOINED, image.where, f"'{image.name}' is '{group[0][1].name}' once more")
                group.append((ref, image))
        return [item for group in groups.values() if (item := self._item(group)) is not None]

    def _image(self, ref: Ref) -> ListedImage:
        """Return the image of an entry; DataError where it, or an object in it, is not listed or is listed twice."""
        listed = self.file.images.get(str(ref.image_id), [])
        absent = [f"image_id {ref.image_id}"] if not listed else []
        for number in ref.annotation_ids:
            found = self.annotations.get(str(number), [])
            if not found:
                absent.append(f"ann_id {number}")
            elif found[0].image_id != ref.image_id:
                absent.append(f"ann_id {number} of this image (it is of image {found[0].image_id})")
            elif any(entry.value != found[0].value for entry in found[1:]):
                raise DataError(f"{self.file.path.name} has several annotations with the id {number}")
        if absent:
            raise DataError(f"{self.file.path.name} has no {', '.join(absent)}")
        names = {one_file(self.path_of(image)) for image in listed}
        if len(names) > 1:
            raise DataError(f"{self.file.path.name} has several images with the id {ref.image_id}")
        return listed[0]

    def _item(self, group: list[tuple[Ref, ListedImage]]) -> Item | None:
        name = group[0][1].name
        with self.faults.noting(f"{self.refs}: {name}"):
            path = self.path_of(group[0][1])
            size = self.size_of(path)
            found = [(ref, record) for ref, image in group if (record := self._record(ref, image, path, size))]
            if not found:
                raise DataError("no usable expression is left on this image")
            self._note_ambiguous([ref for ref, _ in found], name)
            records = tuple(record for _, record in found)
            return self.made(path, size, records)
        return None

    def _record(self, ref: Ref, image: ListedImage, path: Path, size_hw: tuple[int, int]) -> dict[str, Any] | None:
        where = f"{self.refs}: ref_id {ref.ref_id}"
        with self.faults.noting(where):
            self.check_size(path, size_hw, image)
            parts = [self._part(self.annotations[str(number)][0], size_hw, where) for number in ref.annotation_ids]
            head = {"sentences": ref.sentences, "ref_id": ref.ref_id}
            if self.several:
                return head | {"no_target": ref.no_target, "annotations": parts}
            return head | parts[0]
        return None

    def _part(self, entry: ListedAnnotation, size_hw: tuple[int, int], where: str) -> dict[str, Any]:
        category = self.file.category(entry)
        thing = self.things.read(entry.value, size_hw, f"{where}: {entry.label}")
        mask = {} if thing.segmentation is None else {"segmentation": thing.segmentation}
        return {"category": category, "bbox": thing.bbox} | mask

    def _note_ambiguous(self, refs: list[Ref], name: str) -> None:
        meant: dict[str, set[tuple[Any, ...]]] = {}
        for ref in refs:
            for sentence in ref.sentences:
                meant.setdefault(sentence.casefold(), set()).add(tuple(sorted(ref.annotation_ids, key=str)))
        for sentence, objects in meant.items():
            if len(objects) > 1:
                self.faults.note(AMBIGUOUS, f"{self.refs}: {name}", f"'{sentence}' means {len(objects)} things")
