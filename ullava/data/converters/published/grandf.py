"""GranD-f, GLaMM's captions with masks (Rasheed et al., 2311.03356), in the four forms of its annotation files.

The fields are those that the authors' programs read (github.com/mbzuai-oryx/groundingLMM,
dataset/gcg_datasets/GranDf_gcg_ds.py and eval/gcg/evaluate.py). Each of a phrase's masks stays one of its own; the
authors unite them. A phrase that lies within another one, or has no mask with a pixel, is left out and named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from ullava.data.annotations.json_stream import iter_object_lists, iter_records
from ullava.data.converters.published.parquet import fields_of, run_lengths, said_of
from ullava.data.converters.published.source import Converted, OriginalSource, Skipped, image_size_wh, row
from ullava.errors import DataError

Spanned = tuple[int, int, list[dict[str, Any]]]
"""First character of a phrase, the one behind its last, and its annotations."""


def grandf_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield a record for each ``{file_name, caption, groundings: {phrase: {token_positives, rle_masks}}}``.

    ``token_positives``: first character and the one behind the last, in the caption without quotation marks around it.
    """
    for number, line, _, value in iter_records(source.annotations, on_read):
        where = f"record {number}"
        with fields_of(f"{source.annotations}:{line}: {where}"):
            caption = caption_of(where, value["caption"])
            if isinstance(caption, Skipped):
                yield caption
                continue
            found, size, faults = list[Spanned](), None, list[Skipped]()
            for words, told in value["groundings"].items():
                start, end = told["token_positives"]
                masks = [rle[0] if isinstance(rle, list) else rle for rle in told["rle_masks"]]
                size = size or (tuple(masks[0]["size"]) if masks else None)
                kept = [coded(f"{where}: {words}", mask, size or (0, 0)) for mask in masks]
                faults += [mask for mask in kept if isinstance(mask, Skipped)]
                found.append((start, end, [{"segmentation": mask} for mask in kept if isinstance(mask, dict)]))
            yield from _row(source, where, line, value["file_name"], caption, found, size, faults)


def grandf_refcocog_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield a record for each caption of ``[{id: {img_file_name, caption, refs: [{sentence, segmentation}]}}]``.

    A sentence is looked for in the caption, whatever its capitals. Where the next phrase begins within one, the one
    ends there, as the authors cut it.
    """
    for number, line, _, value in iter_records(source.annotations, on_read):
        where = f"record {number}"
        with fields_of(f"{source.annotations}:{line}: {where}"):
            ((_, told),) = value.items()
            caption, faults, name = caption_of(where, told["caption"]), list[Skipped](), told["img_file_name"]
            if isinstance(caption, Skipped):
                yield caption
                continue
            try:
                width, height = image_size_wh(source.root / source.image(name))
            except DataError:
                yield Skipped(where, "an image that cannot be read")
                continue
            found: list[Spanned] = []
            for ref in told["refs"]:
                start = caption.lower().find(ref["sentence"].lower().strip())
                if start < 0 or not ref["sentence"].strip() or not ref["segmentation"]:
                    faults.append(Skipped(where, "a phrase without outline, or one that the caption does not hold"))
                    continue
                span = start, start + len(ref["sentence"].strip())
                found.append((*span, [{"segmentation": ref["segmentation"]}]))
            yield from _row(source, where, line, name, caption, _cut(caption, found), (height, width), faults)


def grandf_flickr_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield a record for each "image" of COCO's form: it has a ``caption``, its annotations ``tokens_positive`` (of
    which the first span counts) and ``sam_mask`` (run lengths).
    """
    images: dict[int, tuple[str, str | Skipped, tuple[int, int], int]] = {}
    found: dict[int, list[Spanned]] = defaultdict(list)
    faults: dict[int, list[Skipped]] = defaultdict(list)
    for key, record in iter_object_lists(source.annotations, ("images", "annotations"), on_read):
        value = record.value
        with fields_of(f"{source.annotations}:{record.line}: {key}[{record.number}]"):
            if key == "images":
                size = (int(value["height"]), int(value["width"]))
                caption = caption_of(f"image {value['id']}", value["caption"])
                images[value["id"]] = (value["file_name"], caption, size, record.line)
                continue
            number = value["image_id"]
            if value.get("ignore", False):
                continue
            (start, end), mask = value["tokens_positive"][0], value["sam_mask"]
            made = coded(f"image {number}", mask, tuple(mask["size"]))
            if isinstance(made, Skipped):
                faults[number].append(made)
            else:
                found[number].append((start, end, [{"segmentation": made}]))
    for number in sorted(found.keys() - images.keys())[:1]:
        source.fail(f"annotations of image {number}, which 'images' does not have")
    for number, (name, caption, size, line) in images.items():
        if isinstance(caption, Skipped):
            yield caption
            continue
        yield from _row(source, f"image {number}", line, name, caption, found[number], size, faults[number])


def grandf_eval_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield a record for each image of ``*_gcg_coco_caption_gt.json`` with the masks of ``*_mask_gt.json`` (companion).

    The k-th of an image's ``labels`` belongs to its k-th mask. Labels have no places, so they are looked for in the
    caption, one behind the other; one that is not found has its words alone. All captions of an image are references.
    """
    masks: dict[Any, list[Any]] = defaultdict(list)
    for _, record in iter_object_lists(source.other(), ("annotations",), on_read):
        with fields_of(f"{source.companion}:{record.line}: annotations[{record.number}]"):
            masks[record.value["image_id"]].append(record.value["segmentation"])
    names: dict[Any, str] = {}
    told: dict[Any, list[tuple[str, list[str], int]]] = defaultdict(list)
    number: Any
    for key, record in iter_object_lists(source.annotations, ("images", "annotations"), on_read):
        value = record.value
        with fields_of(f"{source.annotations}:{record.line}: {key}[{record.number}]"):
            if key == "images":
                names[value["id"]] = value.get("file_name") or f"{value['id']}.jpg"
            else:
                number, labels = value["image_id"], [str(label).strip() for label in value["labels"]]
                caption = caption_of(f"image {number}", value["caption"])
                if isinstance(caption, Skipped):
                    yield caption
                else:
                    told[number].append((caption, labels, record.line))
    for number, name in names.items():
        where = f"image {number}"
        if not told[number]:
            yield Skipped(where, "no caption")
            continue
        caption, labels, line = told[number][0]
        if len(labels) != len(masks[number]) or not labels:
            yield Skipped(where, "not as many labels as masks, or none")
            continue
        with fields_of(f"{source.companion}: {where}"):
            size = tuple(masks[number][0]["size"])
            made = [coded(where, mask, size) for mask in masks[number]]
        if any(isinstance(mask, Skipped) for mask in made):  # without it the question would have another answer
            yield next(mask for mask in made if isinstance(mask, Skipped))
            continue
        shown = source.image(name)
        phrases = [{**place, "annotations": [{"segmentation": mask}]} for place, mask in zip(
            _looked_for(caption, labels), made, strict=True)]  # fmt: skip
        record_ = {"image_path": shown, "height": size[0], "width": size[1], "caption": caption, "phrases": phrases}
        yield row(record_ | {"references": [words for words, _, _ in told[number]]}, shown, line)


def caption_of(where: str, text: Any) -> str | Skipped:
    """Return a caption as the authors count its characters: without quotation marks and white space at its ends.

    Line breaks within it become blanks. A caption that no answer can be made of is left out.
    """
    if not isinstance(text, str):
        return Skipped(where, "a caption that is no text")
    return said_of(where, "".join(" " if sign in "\r\n\t" else sign for sign in text.strip('"').strip()))


def coded(where: str, mask: Any, size_hw: Sequence[int]) -> dict[str, Any] | Skipped:
    """Return the run lengths of a mask that has a pixel, or why there are none."""
    made = run_lengths(where, mask, (size_hw[0], size_hw[1]))
    if isinstance(made, dict) and not int(coco_mask.area(made)):
        return Skipped(where, "a mask without a pixel")
    return made


def _row(
    source: OriginalSource,
    where: str,
    line: int,
    name: str,
    caption: str,
    found: Iterable[Spanned],
    size_hw: Sequence[int] | None,
    faults: Iterable[Skipped],
) -> Converted:
    """Yield the record of a caption, and what of it is left out; no record where no phrase is left."""
    yield from faults
    phrases: list[dict[str, Any]] = []
    for start, end, things in sorted(found, key=lambda one: (one[0], one[1])):
        words = caption[start:end]
        if not things:
            continue
        if phrases and phrases[-1]["span"] == [start, end]:  # a further object of the same phrase
            phrases[-1]["annotations"] += things
        elif phrases and start < phrases[-1]["span"][1]:
            yield Skipped(f"{where}: {words}", "a phrase that begins within another one")
        elif not 0 <= start < end <= len(caption) or not words.strip():
            yield Skipped(f"{where}: characters {start} to {end}", "a phrase that is blank or not in the caption")
        else:
            phrases.append({"span": [start, end], "annotations": things})
    if not phrases or size_hw is None:
        yield Skipped(where, "no phrase with a mask")
        return
    shown = source.image(name)
    record = {"image_path": shown, "height": size_hw[0], "width": size_hw[1], "caption": caption, "phrases": phrases}
    yield row(record, shown, line)


def _cut(caption: str, found: list[Spanned]) -> list[Spanned]:
    """Return phrases in order, each ended where the next one that begins behind its start begins."""
    ordered = sorted(found, key=lambda one: (one[0], one[1]))
    starts = sorted({start for start, _, _ in ordered})
    cut: list[Spanned] = []
    for start, end, things in ordered:
        behind = next((other for other in starts if start < other < end), end)
        cut.append((start, start + len(caption[start:behind].rstrip()), things))
    return cut


def _looked_for(caption: str, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return ``span`` or ``words`` of each label; each is looked for behind the one that was found before it."""
    places: list[dict[str, Any]] = []
    here = 0
    for label in labels:
        start = caption.lower().find(label.lower(), here) if label else -1
        if start < 0 or len(caption.lower()) != len(caption):
            places.append({"words": label})
        else:
            here = start + len(label)
            places.append({"span": [start, here]})
    return places
