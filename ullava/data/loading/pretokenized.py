"""Words that are tokenized once: ids and labels of every sample of a mixture in Arrow files, for training to read.

MG-LLaVA tokenizes offline (arXiv 2406.17770, released code). Here the files are a cache of Hugging Face ``datasets``
beside the converted annotations, under a name made of all that the ids depend on: tokenizer, chat template, settings,
annotations. Whatever of that changes, they are made anew under another name, never used wrongly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from ullava import __version__
from ullava.data.readers.base import Reader
from ullava.data.readers.boxes import reader_of
from ullava.data.sampling.mixture import Mixture
from ullava.errors import ConfigError, DataError, SampleError, UserError
from ullava.structures import Sample

FORMAT = 1
FOLDER = "pretokenized"

Row = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]
"""Ids [L], labels [L] and, for vision encoders that read the question, its ids [t]; every image is one placeholder."""
Tokenize = Callable[[Sample], Row]


class TokenizedMixture:
    """The rows of a mixture by position. Pickles as its tables, which every worker maps itself."""

    def __init__(self, mixture: Mixture, tables: list[Any]) -> None:
        self.mixture = mixture
        self._tables = tables

    def __call__(self, position: int) -> Row | None:
        """Return the row at ``position``; None for a sample that cannot be used, so that making it says why."""
        number, index, _ = self.mixture.locate(position)
        entry = self._tables[number][index]
        if entry["input_ids"] is None:
            return None
        ids, labels = (np.asarray(entry[key], dtype=np.int64) for key in ("input_ids", "labels"))
        asked = entry["instruction_ids"]
        return ids, labels, None if asked is None else np.asarray(asked, dtype=np.int64)


def pretokenized(mixture: Mixture, tokenize: Tokenize, tokenizer_fingerprint: str) -> TokenizedMixture:
    """Return the rows of every sample of ``mixture``, made where they are not there yet; says which of both it did.

    ``tokenize`` is the processor's; ``words_key`` names all that it depends on. Raises ConfigError for a dataset whose
    words are drawn anew each time it is gone through, DataError where the files cannot be written.
    """
    readers = [reader_of(dataset) for dataset in mixture.datasets]
    unknown = [dataset.id for dataset in readers if not isinstance(dataset, Reader)]
    if unknown:
        raise ConfigError(f"pretokenized: dataset {unknown[0]} has no annotation file to keep its words beside")
    return TokenizedMixture(
        mixture, [_table(cast(Reader, reader), tokenize, tokenizer_fingerprint) for reader in readers]
    )


def _table(reader: Reader, tokenize: Tokenize, tokenizer_fingerprint: str) -> Any:
    """The rows of one dataset as a ``datasets.Dataset``, row i of sample i."""
    from datasets import Dataset, Features, List, Value
    from datasets.exceptions import DatasetGenerationError

    folder = reader.origin.store.arrow.parent / FOLDER
    key = _key(reader, tokenizer_fingerprint)
    made: list[int] = []
    numbers = List(Value("int32"))

    def rows() -> Iterator[dict[str, Any]]:
        made.append(1)
        return (_row(reader, index, tokenize) for index in range(len(reader)))

    try:
        table = Dataset.from_generator(
            rows,
            features=Features({name: numbers for name in ("input_ids", "labels", "instruction_ids")}),
            cache_dir=str(folder),
            fingerprint=key,
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise DataError(f"{folder}: the tokenized words cannot be written ({error.__cause__ or error})") from error
    except OSError as error:
        raise DataError(f"{folder}: the tokenized words cannot be kept here ({error})") from error
    print(
        f"words of {reader.id}: {len(table):,} rows {'tokenized into' if made else 'taken from'} {folder} ({key[:12]})"
    )
    return table


def _row(reader: Reader, index: int, tokenize: Tokenize) -> dict[str, Any]:
    """One row; nothing in it where the sample cannot be used."""
    draws = _NoDraws(reader, index)
    try:
        ids, labels, asked = tokenize(reader.sample(index, cast(np.random.Generator, draws)))
    except SampleError:
        return {"input_ids": None, "labels": None, "instruction_ids": None}
    return {"input_ids": ids, "labels": labels, "instruction_ids": asked}


def _key(reader: Reader, tokenizer_fingerprint: str) -> str:
    """All that the rows of a dataset depend on, as a short name."""
    origin = reader.origin
    plain = {
        entry.name: str(getattr(origin, entry.name))
        for entry in fields(origin)
        if entry.name not in ("store", "image_root", "templates", "classes")
    }
    told = {
        "format": FORMAT,
        "version": __version__,
        "words": tokenizer_fingerprint,
        "reader": type(reader).__name__,
        "annotations": origin.store.arrow.name,
        "templates": None if origin.templates is None else origin.templates.texts,
        "classes": sorted(origin.classes),
        **plain,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


class _NoDraws:
    """Stands for the random numbers of a sample that has to come out the same each time: one way is no choice."""

    def __init__(self, reader: Reader, index: int) -> None:
        self._reader = reader
        self._index = index

    def integers(self, low: int, high: int | None = None) -> int:
        """Return the only number there is."""
        first, end = (0, low) if high is None else (low, high)
        return first if end - first == 1 else self._refuse()

    def permutation(self, count: int) -> NDArray[np.int64]:
        """Return the only order there is."""
        return np.arange(count) if count < 2 else self._refuse()

    def __getattr__(self, name: str) -> Any:
        return self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"pretokenized: the samples of {self._reader.id} are drawn anew each time (templates, order or choice of "
            f"questions, frames), at the latest in {self._reader.sources(self._index)}; tokenize them as they come"
        )
