"""What all readers share: where records come from, how questions are chosen, what a sample is called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from ullava.data.annotations.file_names import find_below
from ullava.data.annotations.store import AnnotationStore, Kind
from ullava.data.annotations.text_lengths import RecordLengths, TextLengths, record_lengths
from ullava.data.readers.record import Record
from ullava.data.readers.templates import Templates
from ullava.errors import DataError
from ullava.media.images import FOREGROUND_ABOVE
from ullava.structures import FrameSampling, Region, RegionPrompt, Sample, Task, Turn
from ullava.text.answers import grounded_answer, no_target_answer
from ullava.text.tokens import IMAGE_MARKER, REGION_MARKER


class TaskDataset(Protocol):
    """One split of one dataset, seen as samples for training and as queries for evaluation."""

    id: str
    split: str
    task: Task

    def __len__(self) -> int:
        """Return the number of samples: annotations, or images where annotations are grouped by image."""
        ...

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a training sample: some turns, drawn templates. Raises SampleError."""
        ...

    def queries(self, index: int) -> list[Sample]:
        """Return one single-turn sample for each question of this index, worded by the first template."""
        ...

    def sources(self, index: int) -> str:
        """Return file, line and record number of what the index is made of."""
        ...

    def text_lengths(self) -> TextLengths:
        """Return what every sample shows and about how many characters it has, without making it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """All that a reader has to know. ``turns``: questions per training sample at most, 0 for all of them.

    ``classes``: the names that may occur (empty: any). A class of number c is stored in a label image as
    ``c - label_offset``; ``ignore_label`` is the stored value of pixels that belong to no class. Gray values above
    ``foreground_above`` are the object of a foreground image. ``frames``: which frames of a video training sees.
    ``exhaustive``: the annotations list every object of their classes.
    ``class_names``, ``min_area``, ``absent``, ``absent_as``: for questions that name a class
    (class_questions.py): the names in the descriptor's order without those that nobody asks for, the least share of the
    image that a class has to cover, the share of questions about one that is not there, and how training answers these.
    """

    id: str
    split: str
    task: Task
    store: AnnotationStore
    image_root: Path
    templates: Templates | None = None
    turns: int = 3
    by_image: bool = False
    limit: int | None = None
    classes: frozenset[str] = field(default_factory=frozenset)
    label_offset: int = 0
    exhaustive: bool = True
    ignore_label: int | None = None
    foreground_above: int = FOREGROUND_ABOVE
    frames: FrameSampling = "uniform"
    class_names: tuple[str, ...] = ()
    min_area: float = 0.0
    absent: float = 0.0
    absent_as: Literal["words", "empty_mask"] = "words"


@dataclass(frozen=True, slots=True)
class QAPair:
    """One question that could be put about an image: the words in it, the answer's regions, what metrics need."""

    phrase: str
    regions: tuple[Region, ...]
    truth: Mapping[str, Any]
    closing: str = ""
    absent: str = ""

    @property
    def answer(self) -> str:
        """The answer in words; ``absent`` names a thing that is not in the image."""
        return no_target_answer(self.absent) if self.absent else grounded_answer(self.regions, self.closing)


class Reader(ABC):
    """Base of the readers: indices, names and records. ``origin.limit`` keeps the first records only.

    What is particular to an annotation layout, its reader says; ``ullava.data.readers.layouts`` has the table of them.
    """

    layout: ClassVar[str]
    """Its name in ``dataset.yaml``."""
    tasks: ClassVar[tuple[Task, ...]]
    """The tasks that it serves."""
    default_template: ClassVar[str | None] = None
    """The file of question templates where nobody names another one; None: the records have questions of their own."""
    has_phrase: ClassVar[bool] = True
    """Whether a question names something (``<class>`` in the templates)."""
    grouped: ClassVar[bool] = False
    """Whether questions of several records of an image may be put together (``group: image`` in a recipe)."""
    image_field: ClassVar[str] = "image_path"
    """Which field of a record names its image."""
    store_kind: ClassVar[Kind] = "records"
    """How the annotation file becomes records (ullava.data.annotations.store)."""
    speaks_of_absent: ClassVar[bool] = False
    """Whether a question may be about something that is not in the image (``absent_as`` in a recipe)."""
    points: ClassVar[bool] = False
    """Whether every question is about one thing with a box, which ``<region>`` of a template may point at."""
    names_classes: ClassVar[bool] = False
    """Whether a question names a class and asks for all of it (``min_area`` and ``absent`` in a recipe)."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.id = origin.id
        self.split = origin.split
        self.task: Task = origin.task
        self._count = len(origin.store) if origin.limit is None else min(origin.limit, len(origin.store))

    def __len__(self) -> int:
        """Return the number of records in use."""
        return self._count

    @property
    def whole_images(self) -> bool:
        """Whether an index is an image with all its questions, and no number of a record."""
        return self.origin.by_image

    @property
    def may_lack_targets(self) -> bool:
        """Whether a question may be about something that is not in the image."""
        return False

    def told(self) -> list[str]:
        """Return what is worth telling about the questions beyond their number, a line each."""
        return []

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a training sample; see TaskDataset."""

    @abstractmethod
    def queries(self, index: int) -> list[Sample]:
        """Return evaluation queries; see TaskDataset."""

    @abstractmethod
    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the words of each question, with its answer's own, that a record could put; unchecked."""

    def text_lengths(self) -> TextLengths:
        """Return what samples show and say; see TaskDataset."""
        return self.record_lengths().capped(self.origin.turns)

    def record_lengths(self) -> RecordLengths:
        """Return what the records in use show and say."""
        sizes = record_lengths(self.origin.store, type(self).__name__, self.texts)
        count = self._count
        return RecordLengths(sizes.kinds[:count], sizes.characters[:count], sizes.questions[:count])

    def sources(self, index: int) -> str:
        """Return ``file:line: record n``."""
        return self.origin.store.where(index)

    def name(self, index: int) -> str:
        """Return the sample's name, ``dataset/split/index``."""
        return f"{self.id}/{self.split}/{index}"

    def answered_absent(self, ask: QAPair, size_hw: tuple[int, int]) -> QAPair:
        """Return a question about something that is not there with the answer that ``absent_as`` wants."""
        if self.origin.absent_as == "words":
            return ask
        return replace(ask, regions=(Region(ask.phrase, np.zeros(size_hw, dtype=np.bool_)),), absent="")

    def record(self, number: int, sample: str) -> Record:
        """Read record ``number``; ``sample`` is the name that its errors carry."""
        return Record(self.origin.store.record(number), sample, partial(self.origin.store.where, number))

    def image(self, record: Record, key: str = "image_path") -> Path:
        """Return the image's path, which has to stay below the folder of the images."""
        name = record.text(key)
        try:
            return find_below(self.origin.image_root, name, key)
        except DataError as error:
            record.fail(str(error))

    def templates(self) -> Templates:
        """Return the question templates; readers that word their own questions never ask."""
        if self.origin.templates is None:
            raise ValueError(f"dataset {self.id} was built without templates")
        return self.origin.templates


def draw(rng: np.random.Generator, available: int, turns: int) -> list[int]:
    """Draw ``turns`` of ``available`` places without replacement, in random order (0: all of them)."""
    count = available if turns == 0 else min(turns, available)
    if available == 1:
        return [0]
    chosen: list[int] = rng.permutation(available)[:count].tolist()
    return chosen


def clip_sampling(ways: FrameSampling, rng: np.random.Generator | None) -> tuple[FrameSampling, int]:
    """Return how frames of a clip are chosen and with which seed: in training by ``rng``, else at equal steps."""
    if rng is None:
        return ("original_uniform" if ways.startswith("original_") else "uniform"), 0
    return ways, int(rng.integers(2**31)) if ways.endswith("head_tail") else 0


def training_turns(asks: Sequence[QAPair], templates: Templates, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Word the questions with drawn templates; only the first keeps the image's marker."""
    turns = []
    for place, ask in enumerate(asks):
        turn = _turn(templates.pick(rng), ask)
        if place:
            turn = replace(turn, question=turn.question.replace(IMAGE_MARKER, "", 1).lstrip())
        turns.append(turn)
    return tuple(turns)


def query(reader: Reader, name: str, image: Path, ask: QAPair) -> Sample:
    """Word one question with the fixed template of evaluation."""
    turn = _turn(reader.templates().first, ask)
    return Sample(name, reader.id, reader.task, (image,), (turn,), ask.truth)


def _turn(template: str, ask: QAPair) -> Turn:
    """Word one question; where the template points, it points at the box of what is asked for."""
    prompts: tuple[RegionPrompt, ...] = ()
    if REGION_MARKER in template:
        prompts = tuple(RegionPrompt(region.box_xyxy_px) for region in ask.regions if region.box_xyxy_px is not None)
    return Turn(Templates.fill(template, ask.phrase), ask.answer, ask.regions, prompts)
