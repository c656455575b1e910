"""What a visitor takes along: the answers of a dialog as files of other programs, and images edited by masks."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ullava.errors import UserError
from ullava.exports.collection import Choice
from ullava.exports.formats import FORMATS, export_results
from ullava.exports.results import BATCH
from ullava.exports.settings import Settings
from ullava.inference.editing import blur, cut_out, erase, replace_background
from ullava.inference.export import png_bytes
from ullava.inference.overlay import draw_overlay
from ullava.media.images import read_image_rgb_u8
from ullava.serving.page.dialog import Dialog, Exchange, mask_of, record_line
from ullava.structures import GroundedObject, ImageArray

PICTURES = "pictures with masks"
KINDS = (PICTURES, *FORMATS)
"""What a dialog can be saved as: our own overlays, and every format of ``ullava export``."""

CUT, BLUR_THING, BLUR_AROUND, BACKGROUND, ERASE = (
    "cut out", "blur it", "blur what is around it", "replace the background", "take it away",
)  # fmt: skip
EDITS = (CUT, BLUR_THING, BLUR_AROUND, BACKGROUND, ERASE)


@dataclass(frozen=True, slots=True)
class Saved:
    """A zip file, and sentences about what is missing in it."""

    path: Path
    notes: tuple[str, ...]


def save(dialog: Dialog, kind: str, min_score: float, folder: Path) -> Saved:
    """Write every answer about an image as ``kind`` (of ``KINDS``) into a new zip file in ``folder``.

    Raises UserError: no such answer yet, an unknown kind, an image that is no longer there.
    """
    asked = [exchange for exchange in dialog.exchanges if exchange.images]
    if not asked:
        raise UserError("nothing to save yet: ask about an image first")
    if kind not in KINDS:
        raise UserError(f"unknown format '{kind}'")
    place = Path(tempfile.mkdtemp(dir=folder))
    path = place / f"ullava-{kind.split()[0]}.zip"
    with tempfile.TemporaryDirectory(prefix="ullava-save-") as draft:
        out = Path(draft, "out")
        notes: tuple[str, ...] = ()
        if kind == PICTURES:
            out.mkdir()
            _write_pictures(asked, dialog.images, min_score, out)
        else:
            results = _write_results(asked, dialog.images, Path(draft, "results"))
            choice = Choice(min_score=min_score, images=results)
            notes = export_results(results, kind, out, choice, Settings()).notes
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(out.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(out).as_posix())
    return Saved(path, notes)


def edit(
    dialog: Dialog,
    picked: Sequence[int],
    how: str,
    strength_px: float,
    min_score: float,
    color: tuple[int, int, int] = (255, 255, 255),
    background: ImageArray | None = None,
) -> ImageArray:
    """Edit the image of the last answer by the masks of its things ``picked`` (none: all of ``min_score`` or more).

    ``how``: one of ``EDITS``; ``strength_px``: width of the blur, of a soft edge, or by how much the mask is widened
    before what is under it is painted over. Returns uint8 [H, W, 3], of what is cut out [h, w, 4].
    Raises UserError for nothing picked that has a mask, or things on different images.
    """
    if how not in EDITS:
        raise UserError(f"unknown edit '{how}'")
    things = dialog.exchanges[-1].objects if dialog.exchanges else ()
    chosen = [thing for number, thing in enumerate(things) if number in picked]
    chosen = chosen or [thing for thing in things if thing["score"] >= min_score]
    masks = [(thing, mask) for thing in chosen if (mask := mask_of(thing)) is not None]
    if not masks:
        raise UserError("nothing to edit: no thing with a mask is picked")
    places = {int(thing["image"]) for thing, _ in masks}
    if len(places) > 1:
        raise UserError("the things that are picked are on different images; pick those of one")
    image = _read(dialog.images[places.pop()])
    mask = np.logical_or.reduce([mask for _, mask in masks])
    if how == CUT:
        return cut_out(image, mask, soft_px=strength_px / 10)
    if how in (BLUR_THING, BLUR_AROUND):
        return blur(image, mask, max(strength_px, 0.5), around=how == BLUR_AROUND)
    if how == BACKGROUND:
        return replace_background(image, mask, color if background is None else background, strength_px / 10)
    return erase(image, mask, grow_px=round(strength_px / 2))


def _write_pictures(asked: Sequence[Exchange], images: Sequence[Path], min_score: float, out: Path) -> None:
    for number, exchange in enumerate(asked, start=1):
        for place in sorted({int(thing["image"]) for thing in exchange.objects}) or [exchange.images - 1]:
            things = [
                GroundedObject(
                    thing["phrase"],
                    tuple(thing["span"]),
                    mask_of(thing),
                    thing["box_xyxy_px"],
                    thing["score"],
                    group=thing.get("group"),
                )
                for thing in exchange.objects
                if thing["image"] == place and thing["score"] >= min_score
            ]
            drawn = draw_overlay(_read(images[place]), things)
            (out / f"turn-{number}-image-{place + 1}.png").write_bytes(png_bytes(drawn))


def _write_results(asked: Sequence[Exchange], images: Sequence[Path], folder: Path) -> Path:
    """Write answers as ``ullava predict`` does, the images beside them under names of their own."""
    folder.mkdir()
    names = []
    for path in images:
        _check(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        names.append(f"{path.stem[:60]}-{digest}{path.suffix.lower()}")
        shutil.copyfile(path, folder / names[-1])
    lines = [record_line(done, number, names[: done.images]) for number, done in enumerate(asked, start=1)]
    (folder / BATCH).write_text("".join(lines), encoding="utf-8")
    return folder


def _read(path: Path) -> ImageArray:
    _check(path)
    return read_image_rgb_u8(path)


def _check(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path.name} is no longer here; begin a new chat")
