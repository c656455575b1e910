"""Flickr30k Entities (Plummer et al., 1505.04870): sentences whose phrases have ids, and XML with a box for each id.

``Sentences/<image>.txt`` has five lines such as ``[/EN#1/people A man] rides [/EN#2/vehicles a bike] .``,
``Annotations/<image>.xml`` beside it objects with a ``name`` (an id) or several, and a ``bndbox`` or none. Boxes count
pixels from 1, the last one included, as the authors' flickr30k_entities_utils.py reads them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ullava.data.annotations.encodings import read_text
from ullava.data.converters.published.parquet import said_of
from ullava.data.converters.published.source import Converted, OriginalSource, Skipped, row
from ullava.errors import DataError

BOXES = "Annotations"
"""The folder beside that of the sentences."""
NOT_VISUAL = "0"
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/\w+)+) ([^\[\]]+)\]")
_LEFT = re.compile(r"\[/EN#[^\s\]]*|\]")


def flickr_entities_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield a ``grounded_captions`` record for each sentence of the images that ``companion`` lists.

    Its phrases are those whose ids have boxes; phrases of a scene, of nothing visible or of no box stay words. All
    sentences of the image are its references. Raises DataError for a file that is missing or of another form.
    """
    listed = source.listed()
    if listed is None:
        source.fail("needs the list of the split's images (companion)")
    facts["sentences"] = 0
    for stem, line in listed.items():
        path = source.annotations / f"{stem}.txt"
        boxes = source.annotations.parent / BOXES / f"{stem}.xml"
        for needed in (path, boxes):
            if not needed.is_file():
                raise DataError(f"{needed}: no such file; {source.companion}:{line} lists the image '{stem}'")
        size_hw, found = _boxes(boxes)
        said = [
            _sentence(f"{path}:{number}", text)
            for number, text in enumerate(read_text(path).splitlines(), start=1)
            if text.strip()
        ]
        shown = source.image(f"{stem}.jpg")
        record = {"image_path": shown, "height": size_hw[0], "width": size_hw[1]}
        record |= {"references": [caption for caption, _ in said]}
        for caption, phrases in said:
            fault = said_of(path.name, caption)
            if isinstance(fault, Skipped):
                yield fault
                continue
            told = [{"span": list(span), "annotations": found[name]} for name, span in phrases if name in found]
            facts["sentences"] += len(told)
            yield row({**record, "caption": caption, "phrases": told}, shown)
        if not said:
            yield Skipped(path.name, "no sentence")


def _sentence(where: str, text: str) -> tuple[str, list[tuple[str, tuple[int, int]]]]:
    """Return a sentence in plain words, and id and span of each of its phrases. Raises DataError for stray marks."""
    pieces: list[str] = []
    phrases: list[tuple[str, tuple[int, int]]] = []
    here = length = 0
    text = text.strip()
    for mark in _PHRASE.finditer(text):
        pieces += [text[here : mark.start()], mark[3]]
        length += mark.start() - here
        if mark[1] != NOT_VISUAL:
            phrases.append((mark[1], (length, length + len(mark[3]))))
        length += len(mark[3])
        here = mark.end()
    caption = "".join([*pieces, text[here:]])
    stray = _LEFT.search(caption)
    if stray is not None:
        raise DataError(f"{where}: '{stray.group()}' belongs to no phrase of the form [/EN#id/type words]")
    return caption, phrases


def _boxes(path: Path) -> tuple[tuple[int, int], dict[str, list[dict[str, Any]]]]:
    """Return an image's (height, width) and the boxes of each id, x, y, width and height in pixels."""
    try:
        top = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: is not XML ({error})") from error
    size_hw = (_whole(path, top, "size/height"), _whole(path, top, "size/width"))
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for thing in top.iterfind("object"):
        if thing.find("bndbox") is None:
            continue
        x0, y0, x1, y1 = (_whole(path, thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        for name in thing.iterfind("name"):
            found[(name.text or "").strip()].append({"bbox": [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]})
    return size_hw, found


def _whole(path: Path, element: ElementTree.Element, name: str) -> int:
    text = (element.findtext(name) or "").strip()
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise DataError(f"{path}: <{element.tag}>: '{name}' has to be a whole number, not '{text[:40]}'")
    return int(text)
