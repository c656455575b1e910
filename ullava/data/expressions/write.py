"""A COCO instances file and its images -> expressions in the layout ``grefer`` (ullava.data.readers.refer)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from ullava.atomic_write import whole
from ullava.data.annotations.file_names import find_below
from ullava.data.annotations.store import AnnotationStore
from ullava.data.expressions.make import Drawing, PhotoExpression, expressions_of
from ullava.data.expressions.photo import Photo, PhotoObject, photo_of
from ullava.data.readers.boxes import check_new
from ullava.data.readers.record import Record
from ullava.errors import DataError
from ullava.media.images import read_image_rgb_u8
from ullava.text.phrases import name_fault

SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be written. ``per_image``: expressions of an image at most; ``kinds``: weights by name.

    ``boxes_only``: segmentations are left aside, answers are boxes. ``min_area``: the least share of the image that an
    object covers which is asked for.
    """

    instances: Path
    images: Path
    out: Path
    kinds: Mapping[str, float]
    per_image: int = 8
    min_area: float = 0.005
    seed: int = 0
    boxes_only: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """How many images, records and expressions there are, expressions by kind, and images left out, with the reason."""

    images: int
    records: int
    kinds: Mapping[str, int]
    skipped: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Return the report."""
        total = sum(self.kinds.values())
        head = f"{total} expressions in {self.records} records of {self.images} images"
        lines = [head, *(f"  {kind:<10}{count:>7}{count / total:>8.1%}" for kind, count in self.kinds.items())]
        lines += [f"left out: {reason}" for reason in self.skipped[:SHOWN]]
        return lines + ([f"left out: {len(self.skipped) - SHOWN} more"] if len(self.skipped) > SHOWN else [])


def write_expressions(job: Job) -> Written:
    """Make the expressions of every image of the file and write them, whole or not at all.

    What is drawn of an image depends on the seed, its file name, and which classes the file has. An image that cannot
    be read, or has an annotation that is wrong (an empty mask), is left out and named: what is not known of it could
    make any expression untrue. Raises DataError for files that are missing or of another form, and for ``out`` that is
    there already.
    """
    check_new(job.out)
    store = AnnotationStore.open(job.instances, "coco")
    names = class_names(store)
    drawing = Drawing(job.kinds, job.min_area, class_counts(store, names))
    kinds: Counter[str] = Counter()
    skipped: list[str] = []
    records = 0
    job.out.parent.mkdir(parents=True, exist_ok=True)
    with whole(job.out) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for number in tqdm(range(len(store)), desc="making expressions", unit="image", disable=None):
            try:
                photo = read_photo(store, number, names, job)
            except DataError as error:
                skipped.append(str(error))
                continue
            made = expressions_of(photo, drawing, job.per_image, Random(f"{job.seed} {photo.file_name}"))
            kinds.update(expression.kind for expression in made)
            for record in records_of(photo, made, job):
                file.write(("[\n" if records == 0 else ",\n") + json.dumps(record, ensure_ascii=False))
                records += 1
        file.write("[]\n" if records == 0 else "\n]\n")
        if records == 0:
            raise DataError(
                [f"{job.instances}: no image has anything that can be spoken of for certain", *skipped[:SHOWN]]
            )
    return Written(len(store) - len(skipped), records, {kind: kinds[kind] for kind in job.kinds}, skipped)


def class_names(store: AnnotationStore) -> dict[int, str]:
    """Return the names of a COCO file's categories as expressions write them. Raises DataError for unusable ones."""
    names = {int(number): name.strip().lower() for number, name in store.facts["categories"].items()}
    faults = [
        f"{store.source}: category {number}: {fault}" for number, name in names.items() if (fault := name_fault(name))
    ]
    if faults:
        raise DataError(faults)
    return names


def class_counts(store: AnnotationStore, names: Mapping[int, str]) -> dict[str, int]:
    """Return in how many images of the file each class occurs."""
    counts: Counter[str] = Counter()
    for number in range(len(store)):
        counts.update(
            {names[part["category_id"]] for part in store.record(number)["annotations"] if part["category_id"] in names}
        )
    return {name: counts[name] for name in sorted(counts)}


def read_photo(store: AnnotationStore, number: int, names: Mapping[int, str], job: Job) -> Photo:
    """Read one image with its objects. Raises DataError (SampleError) that says where what is wrong stands."""
    record = Record(store.record(number), store.image_name(number), lambda: store.where(number))
    image = read_image_rgb_u8(find_below(job.images, record.text("image_path"), "image_path"))
    return photo_of(record, names, image, job.boxes_only)


def records_of(photo: Photo, made: list[PhotoExpression], job: Job) -> Iterator[dict[str, Any]]:
    """Yield one record for each set of targets, and one for each expression without any."""
    groups: dict[Any, list[PhotoExpression]] = {}
    for expression in made:
        groups.setdefault(expression.targets or expression.words, []).append(expression)
    head = {"image_path": photo.file_name, "height": photo.height, "width": photo.width}
    for group in groups.values():
        targets = [photo.objects[place] for place in group[0].targets]
        yield head | {
            "sentences": [expression.words for expression in group],
            "rules": [expression.kind for expression in group],
            "no_target": not targets,
            "annotations": [_annotation(thing) for thing in targets],
            "made_by": f"ullava data expressions --seed {job.seed} of {job.instances.name}",
        }


def _annotation(thing: PhotoObject) -> dict[str, Any]:
    box = [
        round(value, 2)
        for value in (thing.box[0], thing.box[1], thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
    ]
    known: dict[str, Any] = {"category": thing.name, "bbox": box}
    if "id" in thing.written:
        known["annotation_id"] = thing.written["id"]
    return known | ({"segmentation": thing.written["segmentation"]} if thing.masked else {"box_only": True})
