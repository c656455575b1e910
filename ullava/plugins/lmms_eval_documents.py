"""Documents of our tasks in lmms-eval: one expression about one image, with its true masks or box.

A document has ``id``, ``image``, ``question`` (without a marker), ``width``, ``height``, ``masks`` (COCO run-length
codes {"size": [H, W], "counts": str} of the true regions), ``boxes`` (their boxes, xyxy in pixels) and ``ignore``
(a run-length code of pixels that count nowhere, or an empty ``counts``). They come from one of our datasets
(``write_documents``), or from the RefCOCO sets on the Hub that lmms-eval itself uses (``referring_documents``).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ullava.data.readers.base import TaskDataset
from ullava.errors import DataError, SampleError, UserError
from ullava.geometry import rle_encode, segmentation_to_mask
from ullava.structures import BoxXYXY, Region, Sample, Turn
from ullava.text.tokens import IMAGE_MARKER
from ullava.text.wording import question_of

COLUMNS = ("id", "image", "question", "width", "height", "masks", "boxes", "ignore")
_PUBLISHED = ("image", "question_id", "answer", "segmentation", "bbox")
"""What lmms-eval's own RefCOCO sets have."""
NO_MASK: Mapping[str, Any] = {"size": [], "counts": ""}
_AT_ONCE = 16


def write_documents(dataset: TaskDataset, folder: Path) -> int:
    """Write all queries of one of our datasets as ``datasets`` saves them, one split; return how many.

    Raises DataError: a sample that cannot be read, one with several images, no queries at all.
    """
    import datasets

    rle = {"size": datasets.Sequence(datasets.Value("int64")), "counts": datasets.Value("string")}
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "width": datasets.Value("int64"),
            "height": datasets.Value("int64"),
            "masks": [rle],
            "boxes": [datasets.Sequence(datasets.Value("float64"))],
            "ignore": rle,
        }
    )
    rows = list(_rows(dataset))
    if not rows:
        raise DataError(f"{dataset.id}/{dataset.split}: holds no question")
    # Not from_generator, which would keep a second copy in the cache of the library.
    table = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({dataset.split: table}).save_to_disk(str(folder))
    return len(rows)


def _rows(dataset: TaskDataset) -> Iterator[dict[str, Any]]:
    for index in range(len(dataset)):
        for sample in dataset.queries(index):
            yield document_of(sample)


def document_of(sample: Sample) -> dict[str, Any]:
    """Return one query as a document. Raises SampleError: it shows several images, or a video."""
    if len(sample.images) != 1 or sample.videos or len(sample.turns) != 1:
        raise SampleError(sample.name, "a document has one image and one question")
    from PIL import Image

    with Image.open(sample.images[0]) as opened:
        width, height = opened.size
    (turn,) = sample.turns
    ignore = sample.truth.get("ignore_mask")
    return {
        "id": sample.name,
        "image": {"bytes": sample.images[0].read_bytes(), "path": None},
        "question": turn.question.replace(IMAGE_MARKER, "").strip(),
        "width": width,
        "height": height,
        "masks": [NO_MASK if region.mask is None else rle_encode(region.mask) for region in turn.regions],
        "boxes": [[] if region.box_xyxy_px is None else [*region.box_xyxy_px] for region in turn.regions],
        "ignore": NO_MASK if ignore is None else rle_encode(ignore),
    }


def sample_of(document: Mapping[str, Any]) -> Sample:
    """Return a document as the sample that our scorers read. Raises UserError for one that is none."""
    missing = [name for name in COLUMNS if name not in document and name != "image"]
    if missing:
        raise UserError(f"a document has no {', '.join(missing)}; has: {', '.join(document)}")
    height, width = int(document["height"]), int(document["width"])
    regions = []
    for code, box in zip(document["masks"], document["boxes"], strict=True):
        mask = segmentation_to_mask(code, height, width) if code["counts"] else None
        corners: BoxXYXY | None = tuple(map(float, box)) if box else None  # type: ignore[assignment]  # four of them
        regions.append(Region("", mask, corners))
    truth: dict[str, Any] = {"width": width, "height": height}
    if document["ignore"]["counts"]:
        truth["ignore_mask"] = segmentation_to_mask(document["ignore"], height, width)
    turn = Turn(str(document["question"]), "", tuple(regions))
    return Sample(str(document["id"]), "documents", "res", (), (turn,), truth)


def referring_segmentation(dataset: Any) -> Any:
    """``process_docs`` of tasks about masks: see ``referring_documents``."""
    return referring_documents(dataset, "segmentation")


def referring_detection(dataset: Any) -> Any:
    """``process_docs`` of tasks about boxes: see ``referring_documents``."""
    return referring_documents(dataset, "detection")


def referring_documents(dataset: Any, task: Any) -> Any:
    """Return a split (``datasets.Dataset``) as documents; one that holds documents is returned as it is.

    Rows of lmms-eval's own RefCOCO sets are objects with several expressions, of which each becomes a document. Their
    ``segmentation`` is one polygon, so an object in several parts is not whole there.
    Raises UserError for a form that is neither.
    """
    names = list(dataset.features)
    if set(COLUMNS) <= set(names):
        return dataset
    lacking = [name for name in _PUBLISHED if name not in names]
    if lacking:
        raise UserError(
            f"a dataset of columns {', '.join(names)} fits neither form: documents have {', '.join(COLUMNS)}; "
            f"lmms-eval's RefCOCO sets have {', '.join(_PUBLISHED)}"
        )
    import datasets

    plain = dataset.cast_column("image", datasets.Image(decode=False))
    made = plain.map(
        lambda rows: _expressions(rows, task), batched=True, batch_size=_AT_ONCE, remove_columns=names, desc="documents"
    )
    return made.cast_column("image", datasets.Image())


def _expressions(rows: Mapping[str, Sequence[Any]], task: Any) -> dict[str, list[Any]]:
    """Return documents, column by column, of some rows of the published form."""
    made: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for place, name in enumerate(rows["question_id"]):
        image = rows["image"][place]
        width, height = _size_of(image)
        x, y, wide, high = map(float, rows["bbox"][place])
        mask = rle_encode(segmentation_to_mask([list(rows["segmentation"][place])], height, width))
        for number, expression in enumerate(rows["answer"][place]):
            question = question_of(expression, task)
            values = (f"{name}/{number}", image, question, width, height, [mask], [[x, y, x + wide, y + high]])
            for column, value in zip(COLUMNS, (*values, dict(NO_MASK)), strict=True):
                made[column].append(value)
    return made


def _size_of(image: Mapping[str, Any]) -> tuple[int, int]:
    from PIL import Image

    source = image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])
    with Image.open(source) as opened:
        return opened.size
