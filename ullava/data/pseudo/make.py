"""Makes a COCO instances file from a file of boxes: image after image, in several processes, resumed where it stopped.

While it is made, ``OUT.part`` holds a line for each image that is done. The finished file is written under another name
and renamed, and ``OUT.part`` goes.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from ullava.atomic_write import append, begin_lines, whole
from ullava.data.annotations.json_stream import iter_object_lists
from ullava.data.pseudo.agreement import Agreement
from ullava.data.pseudo.grab_cut import grab_cut
from ullava.data.pseudo.images import Cut, ImageCutter, Item, PseudoJob
from ullava.errors import ConfigError, DataError, UserError
from ullava.json_lines import numbered_lines, parse_line

_CHUNK = 4
_OF_A_MASK = ("area", "source", "agreement")
"""What the file of boxes says of a mask that it has already, from a first round."""
_PROCESS: list[ImageCutter] = []
"""The cutter of a worker process, made once."""


def make_pseudo_masks(
    job: PseudoJob, *, workers: int = 1, cut: Cut | None = None, progress: bool = True
) -> dict[str, Any]:
    """Write ``job.out`` and return its ``info``: settings, how many masks were kept, rejected and why, agreement.

    ``cut``: what finds the masks, in this process; without it GrabCut, in ``workers`` processes. The file is the same
    whatever their number. An interrupted run of the same job goes on.

    Raises:
        ConfigError: less than one worker, or ``OUT.part`` belongs to another job.
        DataError: a file that is missing or wrong, an image that cannot be read, nothing to do.
    """
    if workers < 1:
        raise ConfigError(f"workers has to be 1 or more, not {workers}")
    cutter = ImageCutter(job, cut or GrabCut(job))
    left_out = _names(job.leave_out)
    todo = cutter.items(left_out)
    written = {cutter.store.image_name(item.number) for item in todo if not item.of_truth}
    if not written:
        raise DataError(f"{job.boxes}: no image is left to make masks for")
    part = job.out.with_name(job.out.name + ".part")
    done = len(begin_lines(part, json.dumps(_identity(job), sort_keys=True), "files or settings"))
    bar = tqdm(total=len(todo), initial=done, desc="cutting", unit="image", disable=None if progress else True)
    with bar, _lines(cutter, todo[done:], 1 if cut is not None else workers) as lines:
        for line in lines:
            append(part, json.dumps(line) + "\n")
            bar.update()
    notes = _Notes(job, part)
    info = _info(job, notes, written)
    _write(job, cutter, notes, written, info)
    part.unlink()
    return info


class GrabCut:
    """GrabCut under the settings of a job."""

    def __init__(self, job: PseudoJob) -> None:
        self.settings = job.settings

    def __call__(self, path: Path, image: Any, groups: Any) -> Any:
        """See Cut."""
        return grab_cut(image, groups, self.settings)


@contextmanager
def _lines(cutter: ImageCutter, items: list[Item], workers: int) -> Iterator[Iterable[dict[str, Any]]]:
    """Give what becomes of each image, in order, from this process or from ``workers`` others."""
    if workers == 1:
        yield map(cutter, items)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_enter, initargs=(cutter.job,)) as pool:
        yield pool.imap(_in_process, items, chunksize=_CHUNK)


def _enter(job: PseudoJob) -> None:
    cv2.setNumThreads(1)
    _PROCESS[:] = [ImageCutter(job, GrabCut(job))]


def _in_process(item: Item) -> dict[str, Any]:
    return _PROCESS[0](item)


def _names(files: Iterable[Path]) -> set[str]:
    """Return the names of the images of COCO files."""
    return {str(record.value.get("file_name")) for path in files for _, record in iter_object_lists(path, ("images",))}


def _identity(job: PseudoJob) -> dict[str, Any]:
    """Return all that the masks depend on."""
    files = [job.boxes, *(path for path in (job.truth, job.agree_with) if path is not None), *job.leave_out]
    states = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return {"settings": job.settings.told(True), "files": states, "images": str(job.images.resolve())}


class _Notes:
    """The lines of ``OUT.part``, one an image, with what the file of boxes says of the masks that it has already."""

    def __init__(self, job: PseudoJob, part: Path) -> None:
        self.part = part
        self.known: dict[int, dict[str, Any]] = {}
        for _, record in iter_object_lists(job.boxes, ("annotations",)):
            told = {key: record.value[key] for key in _OF_A_MASK if key in record.value}
            if "source" in told:
                self.known[record.value["id"]] = told

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.part.open("rb") as file:
            for number, line in numbered_lines(file):
                if number > 1:
                    try:
                        found = parse_line(line)
                    except ValueError as error:
                        message = f"{self.part}:{number}: {error}; remove the file to begin again"
                        raise UserError(message) from None
                    found["annotations"] = [note | self.known.get(note["id"], {}) for note in found["annotations"]]
                    yield found


def _info(job: PseudoJob, notes: _Notes, written: set[str]) -> dict[str, Any]:
    """Count what was made, and gather the IoUs with the truth."""
    counts: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    agreement = Agreement()
    for line in notes:
        agreement.objects += line["objects"]
        agreement.classes += line["classes"]
        sources.update(note["source"] for note in line["annotations"] if "source" in note)
        counts.update(note["rejected"] for note in line["annotations"] if "rejected" in note)
    info: dict[str, Any] = {
        "description": "masks made from boxes by 'ullava data pseudo-masks'",
        "boxes": job.boxes.name,
    }
    info |= job.settings.told(job.agree_with is not None)
    info |= {} if job.agree_with is None else {"agree_with": job.agree_with.name}
    info |= {"images": len(written), "masks": sources.total(), "sources": dict(sorted(sources.items()))}
    info |= {"rejected": dict(sorted(counts.items()))}
    if job.truth is not None:
        info["agreement"] = {"truth": job.truth.name, **agreement.told()}
    return info


def _write(job: PseudoJob, cutter: ImageCutter, notes: _Notes, written: set[str], info: dict[str, Any]) -> None:
    """Write the COCO file, one image or annotation a line, the images with all that the file of boxes says of them."""
    images = (record.value for _, record in iter_object_lists(job.boxes, ("images",)))
    lists: dict[str, Iterable[Any]] = {
        "images": (image for image in images if image.get("file_name") in written),
        "annotations": (note for line in notes for note in line["annotations"]),
        "categories": ({"id": number, "name": name} for number, name in cutter.names.items()),
    }
    with whole(job.out) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write('{"info": ' + json.dumps(info, ensure_ascii=False))
        for name, values in lists.items():
            ahead = f',\n"{name}": [\n'
            for value in values:
                file.write(ahead + json.dumps(value, ensure_ascii=False, allow_nan=False))
                ahead = ",\n"
            file.write("\n]" if ahead == ",\n" else ahead + "]")
        file.write("\n}\n")
