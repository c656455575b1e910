"""The objects of many answers, gathered by image and numbered by class: what every file format is written from."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ullava.data.annotations.class_names import class_key
from ullava.errors import DataError, UserError, did_you_mean
from ullava.exports.results import Found, Record
from ullava.geometry import Rle, rle_decode
from ullava.given_files import check_plain
from ullava.media.images import stored_frame_of_head, upright_hw
from ullava.structures import BoxXYXY, MaskArray


@dataclass(frozen=True, slots=True)
class Thing:
    """One object on an image. ``label`` counts classes from 0; ``mask``, where there is one, has a pixel at least.

    ``box_xyxy_px``: the model's own box, half-open in original pixels; ``mask_box_xyxy_px``: the mask's tight one. One
    of the two is always there. ``group``: things that one phrase of an answer names have the same; None = not told.
    """

    label: int
    phrase: str
    score: float
    mask: Rle | None
    mask_box_xyxy_px: BoxXYXY | None
    box_xyxy_px: BoxXYXY | None
    question: str
    prompt: str
    model: str
    group: int | None = None

    @property
    def own_box_xyxy_px(self) -> BoxXYXY:
        """The box that the model gave, else that of its mask."""
        box = self.box_xyxy_px or self.mask_box_xyxy_px
        if box is None:
            raise ValueError(f"'{self.phrase}' of question '{self.question}' has neither mask nor box")
        return box

    @property
    def shown_box_xyxy_px(self) -> BoxXYXY:
        """The box of the mask, else the one that the model gave: what annotation formats call the box of a mask."""
        return self.mask_box_xyxy_px or self.own_box_xyxy_px

    def bitmap(self) -> MaskArray:
        """Return the mask as bool [H, W]; it must be there."""
        if self.mask is None:
            raise ValueError(f"'{self.phrase}' of question '{self.question}' has no mask")
        return rle_decode(self.mask)


@dataclass(slots=True)
class Pictured:
    """One image with all that was found on it, and the questions that were asked about it.

    ``path``: where the file is, None = not found; ``given``: how the answers call it; ``name``: the same below the
    folder that all images have in common; ``stem``: a plain file name that no other image has, without suffix.
    ``questions``: (id, prompt).
    """

    path: Path | None
    given: str
    name: str
    stem: str
    height: int
    width: int
    things: list[Thing] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)

    @property
    def file_name(self) -> str:
        """A plain file name for a copy, which no other image has."""
        return self.stem + Path(self.name).suffix.lower()


@dataclass(frozen=True, slots=True)
class Collection:
    """Images in the order in which they were asked about, class names in the order of their numbers; ``notes`` are
    sentences about what was left out.
    """

    images: list[Pictured]
    classes: list[str]
    notes: list[str]

    def things(self) -> list[tuple[int, Thing]]:
        """Return every object with the number of its image, from 0."""
        return [(number, thing) for number, image in enumerate(self.images) for thing in image.things]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is exported: objects of ``min_score`` and more; ``classes``: these alone, in this order (None: as the
    answers call them, sorted); ``single_class``: one class of this name for everything.

    ``images``: a folder in which images are looked for that are not where the answers name them.
    """

    min_score: float = 0.0
    classes: Sequence[str] | None = None
    single_class: str | None = None
    images: Path | None = None


def gather(records: Sequence[Record], choice: Choice) -> Collection:
    """Gather the objects of ``records``.

    Raises:
        DataError: masks of one image differ in size, an image is not where it was and no mask tells its size.
        UserError: ``choice`` contradicts itself.
    """
    if choice.classes is not None and choice.single_class is not None:
        raise UserError("--classes and --single-class exclude each other")
    left = Counter[str]()
    kept: list[tuple[Record, Found]] = []
    for record in records:
        if not record.images:
            left["answers without an image"] += 1
        for found in record.objects:
            reason = _unwanted(found, choice.min_score)
            if reason:
                left[reason] += 1
            else:
                kept.append((record, found))
    classes, labels = _classes([found.phrase for _, found in kept], choice)
    images = _images(records, choice.images)
    others = Counter[str]()
    for record, found in kept:
        label = labels.get(class_key(found.phrase), 0 if choice.single_class else None)
        if label is None:
            others[found.phrase] += 1
            continue
        images[record.images[found.image]].things.append(_thing(record, found, label))
    for record in records:
        for image in record.images:
            images[image].questions.append((record.id, record.prompt))
    return Collection(list(images.values()), classes, _notes(left, others, classes, labels, kept))


def _unwanted(found: Found, min_score: float) -> str:
    """Say why an object is left out; '' where it is not."""
    if found.of_video:
        return "things of videos"
    if found.mask is None and found.box_xyxy_px is None:
        return "objects whose mask has no pixel" if found.blank_mask else "objects without mask and box"
    return f"objects below the score {min_score:g}" if found.score < min_score else ""


def _classes(phrases: Sequence[str], choice: Choice) -> tuple[list[str], dict[str, int]]:
    """Return the class names, and the number of each by ``class_key``. The first spelling of a name stays."""
    if choice.single_class is not None:
        return [choice.single_class], {}
    spelled: dict[str, str] = {}
    for name in phrases if choice.classes is None else choice.classes:
        spelled.setdefault(class_key(name), name)
    keys = sorted(spelled) if choice.classes is None else list(spelled)
    return [spelled[key] for key in keys], {key: number for number, key in enumerate(keys)}


def _thing(record: Record, found: Found, label: int) -> Thing:
    return Thing(
        label, found.phrase, found.score, found.mask, found.mask_box_xyxy_px, found.box_xyxy_px,
        record.id, record.prompt, record.model, found.group,
    )  # fmt: skip


def _notes(
    left: Counter[str],
    others: Counter[str],
    classes: Sequence[str],
    labels: dict[str, int],
    kept: Sequence[tuple[Record, Found]],
) -> list[str]:
    notes = [f"left out: {reason}: {count}" for reason, count in left.items()]
    if others:
        named = ", ".join(f"'{name}' ({count})" for name, count in others.most_common(5))
        more = f" and {len(others) - 5} more names" if len(others) > 5 else ""
        notes.append(f"left out: {others.total()} objects of names that are not among --classes: {named}{more}")
    present = {class_key(found.phrase) for _, found in kept}
    for key, number in labels.items():
        if key not in present:
            near = did_you_mean(classes[number], list(others))
            notes.append(f"class '{classes[number]}': no object{near if 'mean' in near else ''}")
    return notes


# ---------------------------------------------------------------- images
def _images(records: Sequence[Record], folder: Path | None) -> dict[str, Pictured]:
    """Return every image that a record names, by the name that it has there."""
    names = list(dict.fromkeys(image for record in records for image in record.images))
    sizes = _mask_sizes(records)
    shown = _names_below([os.path.normpath(name) for name in names])
    stems = _stems(names)
    problems: list[str] = []
    images: dict[str, Pictured] = {}
    for name, below, stem in zip(names, shown, stems, strict=True):
        path = _find(name, folder)
        try:
            size = _size_hw(name, path, sizes.get(name))
        except UserError as error:
            problems += error.problems
            continue
        images[name] = Pictured(path, name, below, stem, *size)
    if problems:
        raise DataError(problems)
    return images


def _mask_sizes(records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """Return [H, W] of every image that has a mask. Raises DataError where two masks of one image differ."""
    sizes: dict[str, tuple[int, int]] = {}
    problems: list[str] = []
    for record in records:
        for number, found in enumerate(record.objects):
            if found.size_hw is None:
                continue
            known = sizes.setdefault(record.images[found.image], found.size_hw)
            if known != found.size_hw:
                problems.append(
                    f"{record.where}: objects[{number}]: mask is {list(found.size_hw)} (HxW), others of "
                    f"'{record.images[found.image]}' are {list(known)}"
                )
    if problems:
        raise DataError(problems)
    return sizes


def _find(name: str, folder: Path | None) -> Path | None:
    """Return the file of an image: where the answer says, else in ``folder``, under its whole name or its last part."""
    last = re.split(r"[\\/]", name)[-1]
    below = [] if folder is None else [folder / name, folder / last]
    return next((path for path in (Path(name), *below) if os.path.isfile(path)), None)


def _size_hw(name: str, path: Path | None, masks_hw: tuple[int, int] | None) -> tuple[int, int]:
    """Return an image's [H, W]. Raises DataError where nothing tells it, or where file and masks differ."""
    if path is None:
        if masks_hw is None:
            check_plain(Path(name), what="image (--images DIR looks in another folder)")
            raise DataError(f"{name}: no such image (--images DIR looks in another folder)")
        return masks_hw
    size = upright_hw(*stored_frame_of_head(path))
    if masks_hw is not None and masks_hw != size:
        raise DataError(f"{path}: is {list(size)} (HxW), but the masks of the answers are {list(masks_hw)}")
    return size


def _names_below(names: Sequence[str]) -> list[str]:
    """Return names below the folder that all of them have in common, with slashes."""
    folders = {os.path.dirname(os.path.abspath(name)) for name in names}
    common = os.path.commonpath(folders) if folders else ""
    return [os.path.relpath(os.path.abspath(name), common).replace(os.sep, "/") for name in names]


def _stems(names: Sequence[str]) -> list[str]:
    """Return a plain file name without suffix for each image, all of them different."""
    stems: list[str] = []
    used: set[str] = set()
    for number, name in enumerate(names, start=1):
        stem = re.sub(r"[^\w-]+", "-", Path(name).stem).strip("-")[:80] or f"image-{number}"
        while stem.casefold() in used:  # file systems that do not tell capitals apart
            stem = f"{stem}-{number}"
        used.add(stem.casefold())
        stems.append(stem)
    return stems
