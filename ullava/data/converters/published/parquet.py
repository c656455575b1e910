"""Records of Parquet files, as data sets of the Hugging Face Hub have them, with images inside or beside them.

The Hub names the files of a split ``SPLIT-00000-of-00002.parquet``; an image is a pair of ``bytes`` (the encoded file)
and ``path``. Readers of ours open image files, so the bytes are written out once, below the descriptor's folder of
images, under the hash of what they hold: an image that many records show is one file, and no name is trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ullava.atomic_write import make_folder, write_whole
from ullava.data.converters.published.source import OriginalSource, Skipped, image_size_wh
from ullava.data.readers.record import are_numbers
from ullava.errors import DataError, did_you_mean
from ullava.text.phrases import expression_fault

ROWS_AT_ONCE = 16
"""Records with images of several megabytes each are read so many at a time."""


def parquet_records(source: OriginalSource, columns: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, record with ``columns``) of the files of the split, in the order of their names.

    ``annotations`` is a file, or a folder whose files of the split begin with ``part`` and a hyphen. Raises DataError
    for no such file, one that is no Parquet, and a column that is not there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in _shards(source):
        try:
            with pq.ParquetFile(path) as file:
                held = file.schema_arrow.names
                for name in columns:
                    if name not in held:
                        raise DataError(f"{path}: no column '{name}'{did_you_mean(name, held)}")
                number = 0
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns)):
                    for record in batch.to_pylist():
                        yield f"{path.name}: record {number}", record
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


@contextmanager
def fields_of(where: str) -> Iterator[None]:
    """Raise DataError that names the record for a field that is not there or holds another kind of value."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{where}: a field is missing or has the wrong kind of value ({error})") from error


def _shards(source: OriginalSource) -> list[Path]:
    if source.annotations.is_file():
        return [source.annotations]
    held = sorted(source.annotations.glob("*.parquet"))
    found = [path for path in held if source.part is None or path.name.startswith(f"{source.part}-")]
    if not found:
        wanted = "*.parquet" if source.part is None else f"{source.part}-*.parquet"
        others = f" (there are: {', '.join(path.name for path in held[:3])})" if held else ""
        source.fail(f"holds no {wanted}{others}")
    return found


def unpacked_image(source: OriginalSource, image: Any) -> tuple[str, tuple[int, int]]:
    """Write the bytes of an image out where they are not yet; return its name below ``root`` and (height, width).

    Raises DataError for what holds no bytes, or no image that can be read.
    """
    data = image.get("bytes") if isinstance(image, Mapping) else None
    if not isinstance(data, bytes) or not data:
        raise DataError("the image holds no bytes")
    suffix = ".jpg" if data.startswith(b"\xff\xd8\xff") else ".webp" if data[8:12] == b"WEBP" else ".png"
    name = source.image(hashlib.sha256(data).hexdigest()[:24] + suffix)
    path = source.root / name
    if not path.is_file() or path.stat().st_size != len(data):
        make_folder(path.parent)
        write_whole(path, data)
    try:
        width, height = image_size_wh(path)
    except DataError as error:
        path.unlink()
        raise DataError(str(error).removeprefix(f"{path}: ")) from error
    return name, (height, width)


def said_of(where: str, text: Any) -> str | Skipped:
    """Return an expression without white space at its ends, or why it cannot be asked."""
    if not isinstance(text, str) or not text.strip():
        return Skipped(where, "a blank expression")
    fault = expression_fault(text.strip())
    return Skipped(where, f"an expression {fault}") if fault else text.strip()


def run_lengths(where: str, mask: Any, size_hw: tuple[int, int]) -> dict[str, Any] | Skipped:
    """Return COCO's run-length code ``{"size": [H, W], "counts"}`` of a mask, or why it is none of this image."""
    if not isinstance(mask, Mapping) or not isinstance(mask.get("counts"), str):
        return Skipped(where, "a mask without run lengths")
    size: Any = mask.get("size")
    if not are_numbers(size, 2) or tuple(size) != tuple(size_hw):
        return Skipped(where, "mask and image have different sizes")
    return {"size": [int(side) for side in size], "counts": mask["counts"]}
