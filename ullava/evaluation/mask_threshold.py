"""Where a model's masks have to end to overlap the truth most, by a rule and its threshold, on held-out questions.

A mask head trained by cross-entropy on masks that are small, or made from boxes, is rather too careful: its best masks
often begin below probability one half, and the less sure it is the further below (ullava.modeling.mask_cut).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from ullava.config.schema import EvalRecipe
from ullava.data.readers.base import TaskDataset
from ullava.errors import UserError
from ullava.evaluation.scoring import ResScorer, family_of
from ullava.modeling.mask_cut import MaskCut
from ullava.structures import Answer, Sample

GAPS = (None, 1.0, 1.5, 2.0, 3.0)
"""How far below a mask's highest logit a component's may lie."""
GRID = tuple(
    cut
    for gap in GAPS
    for cut in (
        *(MaskCut("fixed", number / 4, gap) for number in range(-16, 9)),
        *(MaskCut("expected_iou", number / 4, gap) for number in range(-4, 5)),
    )
)
"""What is tried: as one threshold, probabilities from 0.02 to 0.88."""
FAMILIES = ("res", "gres")
"""What is judged: questions about the mask of something, those about absent things aside."""
FIGURE = "gIoU"
"""What the best threshold has most of: the mean IoU over questions."""

AnswerAt = Callable[[Sequence[Sample], Sequence[MaskCut]], Sequence[Sequence[Answer]]]
"""Answers of samples under each of several rules (ullava.inference.mask_cuts)."""


@dataclass(frozen=True, slots=True)
class Tried:
    """Figures in percent by rule, in order, over ``questions`` of things that are in the image."""

    figures: Mapping[MaskCut, Mapping[str, float]]
    questions: int

    @property
    def best(self) -> MaskCut:
        """The one of the highest mean IoU; of equal ones all components, a fixed threshold, and the nearest to 0."""
        return max(
            self.figures,
            key=lambda at: (
                self.figures[at][FIGURE], at.peak_gap is None, at.rule == "fixed", -abs(at.threshold)
            ),
        )  # fmt: skip


def try_thresholds(
    answer_at: AnswerAt,
    datasets: Mapping[str, TaskDataset],
    recipe: EvalRecipe,
    *,
    grid: Sequence[MaskCut] = GRID,
    progress: bool = True,
) -> Tried:
    """Answer the questions of ``datasets`` once and judge their masks by each rule of ``grid``.

    Raises UserError for a row that asks for no mask, and where no question has one for its truth.
    """
    for label, dataset in datasets.items():
        if family_of(dataset) not in FAMILIES:
            raise UserError(
                f"{label}: task {dataset.task} does not ask for one mask a question; choose a row with --dataset"
            )
    scorers = {at: ResScorer() for at in grid}
    for samples in _batches(datasets, recipe.batch_size, progress):
        for at, answers in zip(grid, answer_at(samples, grid), strict=True):
            for sample, answer in zip(samples, answers, strict=True):
                scorers[at].score(sample, answer)
    questions = len(scorers[grid[0]].metric.rows)
    if not questions:
        raise UserError("no question has a mask for its truth")
    return Tried({at: scorer.metric.compute() for at, scorer in scorers.items()}, questions)


def _batches(datasets: Mapping[str, TaskDataset], size: int, progress: bool) -> Iterator[list[Sample]]:
    """Yield the questions with a mask for their truth, up to ``size`` and those of one image together."""
    total = sum(map(len, datasets.values()))
    held: list[Sample] = []
    with tqdm(total=total, desc="masks", unit="item", disable=None if progress else True) as bar:
        for dataset in datasets.values():
            for item in range(len(dataset)):
                asked = [sample for sample in dataset.queries(item) if _is_there(sample)]
                if held and len(held) + len(asked) > size:
                    yield held
                    held = []
                held += asked
                bar.update()
    if held:
        yield held


def _is_there(sample: Sample) -> bool:
    regions = sample.turns[0].regions
    return bool(regions) and all(region.mask is not None for region in regions)
