"""Writes a synthetic world: images, label images and annotation files, in the formats of the real datasets."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ullava.atomic_write import whole_folder
from ullava.errors import DataError, did_you_mean
from ullava.run_lock import hold
from ullava.structures import ImageArray
from ullava.synthetic.records import SceneRecords
from ullava.synthetic.render import render
from ullava.synthetic.scene import sample_scene
from ullava.synthetic.vocabulary import SHAPES, SPLITS, VERSION, Split, class_id
from ullava.synthetic.worlds import PLAIN, WORLDS, World

Drawn = TypeVar("Drawn")

JPEG_QUALITY = 92
ANNOTATIONS: tuple[str, ...] = (
    "res", "gres", "reasoning", "semantic", "salient", "caption", "listing", "naming", "drill", "vqa", "text",
    "parts",
)  # fmt: skip
"""Annotation files that are one list; ``instances.json`` and ``scenes.jsonl`` have forms of their own."""
POINTING: tuple[str, ...] = ("regions", "region_masks")
"""Those whose questions point at regions, which a world has where it was asked for."""
GROUNDED = "grounded"
"""The annotation file of captions with masks, which is written where it is asked for."""


@dataclass(frozen=True, slots=True)
class DrawnFiles:
    """What one scene adds to a world: encoded images by path, and JSON records by annotation name."""

    images: dict[str, bytes]
    records: dict[str, list[str]]


def _encode(suffix: str, image: NDArray[np.uint8], options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise DataError(f"OpenCV could not encode a {suffix} image of shape {image.shape}")
    return data.tobytes()


def jpeg_bytes(image_rgb_u8: ImageArray) -> bytes:
    """Return an image uint8 [H, W, 3] as a JPEG file."""
    bgr = np.ascontiguousarray(image_rgb_u8[..., ::-1])
    return _encode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def _png(image: NDArray[np.uint8]) -> bytes:
    return _encode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def draw_scene(
    index: int, seed: int, split: Split, world: World = PLAIN, regions: bool = False, grounded: bool = False
) -> DrawnFiles:
    """Everything that scene ``index`` adds to the world (``split``, ``seed``); no files are touched.

    ``regions``: questions that point, too; ``grounded``: captions with masks, too.
    """
    scene = sample_scene(split, seed, index, world)
    drawn = SceneRecords.of(scene, render(scene))
    image = drawn.image
    images = {
        drawn.image_path: jpeg_bytes(image.image_rgb_u8),
        drawn.label_path: _png(drawn.label_map()),
    }
    if scene.salient is not None:
        images[drawn.salient_path] = _png(image.masks[scene.salient].astype(np.uint8) * 255)
    lists = lists_of(regions, grounded)
    values: dict[str, list[dict[str, Any]]] = {name: getattr(drawn, name)() for name in lists}
    values["coco_images"] = [drawn.coco_image()]
    values["coco_annotations"] = drawn.coco_annotations()
    values["scenes"] = drawn.truth()
    dumps = partial(json.dumps, separators=(",", ":"))
    return DrawnFiles(images, {name: [dumps(record) for record in records] for name, records in values.items()})


def lists_of(regions: bool, grounded: bool) -> tuple[str, ...]:
    """Return the annotation files of a world that are one list each."""
    return (*ANNOTATIONS, *(POINTING if regions else ()), *((GROUNDED,) if grounded else ()))


class ListFile:
    """A JSON list written one record at a time, or with ``brackets`` "{}" an object of ``"key":value`` texts.

    ``after`` is what ends the file behind it.
    """

    def __init__(self, file: TextIO, brackets: str = "[]", after: str = "") -> None:
        self._file = file
        self._empty = True
        self._end = f"\n{brackets[1]}{after}\n"
        file.write(brackets[0])

    def add(self, record: str) -> None:
        """Append one record, already JSON."""
        self._file.write("\n" if self._empty else ",\n")
        self._file.write(record)
        self._empty = False

    def close(self) -> None:
        """End the list."""
        self._file.write(self._end)
        self._file.close()


@contextmanager
def drawn_in_order(draw: Callable[[int], Drawn], count: int, workers: int) -> Iterator[Iterable[Drawn]]:
    """What ``draw`` gives for 0 … ``count`` - 1, in order, from this process or from ``workers`` others."""
    if workers <= 1:
        yield map(draw, range(count))
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield pool.imap(draw, range(count), chunksize=16)


def write_drawn(folder: Path, scenes: Iterable[DrawnFiles], lists: Sequence[str], truth: str) -> None:
    """Write the files of ``scenes``: ``lists`` below ``annotations/``, and ``truth`` as JSON lines beside it."""
    with ExitStack() as stack:
        files: dict[str, ListFile] = {}
        for name in lists:
            files[name] = ListFile((folder / "annotations" / f"{name}.json").open("w", encoding="utf-8"))
            stack.callback(files[name].close)
        lines = stack.enter_context((folder / f"{truth}.jsonl").open("w", encoding="utf-8"))
        for drawn in scenes:
            for path, data in drawn.images.items():
                (folder / path).write_bytes(data)
            for name, records in drawn.records.items():
                for record in records:
                    if name == truth:
                        lines.write(record + "\n")
                    else:
                        files[name].add(record)


def _write_instances(path: Path, images: Path, annotations: Path) -> None:
    """Join the two lists of a COCO instances file without holding them."""
    categories = [{"id": class_id(shape), "name": shape, "supercategory": "shape"} for shape in SHAPES]
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info":{{"description":"drawn shapes","version":"{VERSION}"}},\n"images":')
        for name, part in (("", images), (',"annotations":', annotations)):
            file.write(name)
            with part.open(encoding="utf-8") as lines:
                shutil.copyfileobj(lines, file)
            part.unlink()
        file.write(f',"categories":{json.dumps(categories)}}}\n')


def _write_world(
    folder: Path,
    images: int,
    seed: int,
    split: Split,
    workers: int,
    progress: bool,
    world: World,
    regions: bool,
    grounded: bool,
) -> None:
    for name in ("images", "labels", "salient", "annotations"):
        (folder / name).mkdir(parents=True)
    notes = folder / "annotations"
    draw = partial(draw_scene, seed=seed, split=split, world=world, regions=regions, grounded=grounded)
    with drawn_in_order(draw, images, workers) as drawn:
        bar = tqdm(drawn, total=images, desc=f"draw {split}", unit="img", disable=not progress)
        lists = (*lists_of(regions, grounded), "coco_images", "coco_annotations")
        write_drawn(folder, bar, lists, "scenes")
    _write_instances(notes / "instances.json", notes / "coco_images.json", notes / "coco_annotations.json")
    kind = "shapes" if world is PLAIN else f"{world.name} shapes"
    about = {"world": kind, "version": VERSION, "seed": seed, "split": split, "images": images}
    about |= {"regions": True} if regions else {}
    (folder / "world.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def draw_world(
    out: Path,
    images: int,
    seed: int,
    split: str = "train",
    workers: int = 1,
    progress: bool = True,
    world: str = PLAIN.name,
    regions: bool = False,
    grounded: bool = False,
) -> Path:
    """Draw ``images`` scenes of the world (``split``, ``seed``) into the new folder ``out`` and return it.

    ``world``: which kind, by its name in ullava.synthetic.worlds. ``regions``: with questions that point at regions;
    ``grounded``: with captions with masks.

    The same (split, seed) gives the same bytes, and fewer images the beginning of more. Nothing is left behind when
    drawing is interrupted. Raises DataError where ``out`` holds something already, or an argument makes no sense.
    """
    known = check_order(out, "images", images, seed, split, workers, world)
    kind = WORLDS[world]
    return make_world(
        out, lambda folder: _write_world(folder, images, seed, known, workers, progress, kind, regions, grounded)
    )


def check_order(
    out: Path, things: str, count: int, seed: int, split: str, workers: int, world: str = PLAIN.name
) -> Split:
    """Return the split of a world to draw; DataError with a line for each argument that makes no sense."""
    problems = []
    if split not in SPLITS:
        problems.append(f"split '{split}' is not known{did_you_mean(split, SPLITS)}")
    if world not in WORLDS:
        problems.append(f"world '{world}' is not known{did_you_mean(world, WORLDS)}")
    if count < 1:
        problems.append(f"{things} must be 1 or more, not {count}")
    if seed < 0:
        problems.append(f"seed must be 0 or more, not {seed}")
    if workers < 1:
        problems.append(f"workers must be 1 or more, not {workers}")
    problems += _in_the_way(out)
    if problems:
        raise DataError(problems)
    return next(name for name in SPLITS if name == split)


def _in_the_way(out: Path) -> list[str]:
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    return [f"{out}: exists and is not an empty folder; name another folder or remove it"] if taken else []


def make_world(out: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a folder and move it to ``out`` when it is whole; nothing is left behind otherwise.

    Raises DataError where ``out`` cannot be written, UserError where another process is making it.
    """
    try:
        with hold(out, beside=True):
            if problems := _in_the_way(out):  # of another process that was first
                raise DataError(problems)
            with whole_folder(out.absolute()) as folder:
                write(folder)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    return out
