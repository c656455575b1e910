"""Trains the judge of candidates on questions whose masks are known, while the model rests.

The model answers each question once and its candidates are read (ullava.inference.candidates); what they are judged by
is kept, and the judge learns from that alone: of the candidates of a thing to prefer those that overlap the truth most.
Questions of every fifth image are held back, to choose the epoch by and to tell what was gained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from ullava.config.schema import EvalRecipe
from ullava.data.readers.base import TaskDataset
from ullava.errors import UserError
from ullava.evaluation.batching import Query, image_groups, pack
from ullava.evaluation.metrics.overlap import iou_of, overlap
from ullava.evaluation.scoring import family_of, ignored_pixels, true_mask
from ullava.inference.candidates import Candidates, Offer, judged_by, judged_tensors
from ullava.modeling.heads.judge import CandidateJudge, JudgeConfig

HELD_BACK = 5
"""Of so many images one is held back."""
FEWEST = 20
"""Questions with several candidates that a judge can be trained on."""
EPOCHS, BATCH, RATE, DECAY = 60, 64, 3e-3, 0.05
SHARP = 10.0
"""Candidates are preferred as a softmax of so many times their IoU."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One question: its candidates, the IoU [n] of each with the truth, and whether it is held back."""

    offers: Sequence[Offer]
    ious: np.ndarray
    held: bool


def collect(
    candidates: Candidates, datasets: Mapping[str, TaskDataset], recipe: EvalRecipe, *, progress: bool = True
) -> list[Judged]:
    """Answer the questions of ``datasets`` and read their candidates; those without a choice are left out.

    Raises UserError for a row that does not ask for the mask of one thing.
    """
    for label, dataset in datasets.items():
        if family_of(dataset) != "res":
            raise UserError(
                f"{label}: task {family_of(dataset)} is not res, where a question means one thing; choose a row with "
                "--dataset"
            )
    made: list[Judged] = []
    for dataset in datasets.values():
        groups = image_groups(dataset)
        read = (
            [Query(item, place, 0, sample) for item in group for place, sample in enumerate(dataset.queries(item))]
            for group in groups
        )
        where = {item: number for number, group in enumerate(groups) for item in group}
        bar = tqdm(total=len(where), desc="candidates", unit="item", disable=None if progress else True)
        with bar:
            for batch in pack(read, recipe.batch_size):
                queries = [query for group in batch for query in group]
                samples = [query.sample for query in queries]
                answers = candidates.predictor.answer_samples(samples, max_new_tokens=recipe.max_new_tokens)
                offers = candidates.offers(samples, answers, max_new_tokens=recipe.max_new_tokens)
                made += [
                    Judged(found, ious_of(found, query), where[query.item] % HELD_BACK == 0)
                    for query, found in zip(queries, offers, strict=True)
                    if len(found) > 1
                ]
                bar.update(len({query.item for query in queries}))
    return made


def ious_of(offers: Sequence[Offer], query: Query) -> np.ndarray:
    """IoU [n] of the candidates of a question with its true mask."""
    truth, ignore = true_mask(query.sample), ignored_pixels(query.sample)
    return np.asarray([iou_of(*overlap(one.mask, truth, ignore)) for one in offers])


def fit(judged: Sequence[Judged], widths: tuple[int, int], *, seed: int = 0) -> CandidateJudge:
    """Train a judge and keep the epoch whose choices overlap most in the questions held back.

    ``widths``: of states and of the mask head's map. Raises UserError for too few questions.
    """
    learnt = [one for one in judged if not one.held]
    held = [one for one in judged if one.held]
    if len(learnt) < FEWEST or not held:
        raise UserError(
            f"{len(learnt)} questions with a choice to learn from and {len(held)} held back: a judge needs {FEWEST} "
            "and one; give more data, or more sources of candidates"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = CandidateJudge(JudgeConfig(state_width=widths[0], map_width=widths[1]))
        optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=DECAY)
        steps = EPOCHS * -(-len(learnt) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        best, most = deepcopy(judge.state_dict()), figures(held, judge)["gIoU"]
        for _ in range(EPOCHS):
            judge.train()
            for part in torch.randperm(len(learnt)).split(BATCH):
                loss = preference_loss(judge, [learnt[place] for place in part.tolist()])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            now = figures(held, judge.eval())["gIoU"]
            if now > most:
                best, most = deepcopy(judge.state_dict()), now
    judge.load_state_dict(best)
    return judge.eval()


def preference_loss(judge: CandidateJudge, judged: Sequence[Judged]) -> torch.Tensor:
    """Mean over questions of the cross-entropy of the judge's choice to the softmax of ``SHARP`` times the IoU."""
    logits = judge(*judged_tensors([one.offers for one in judged])).split([len(one.offers) for one in judged])
    wanted = [torch.softmax(SHARP * torch.from_numpy(one.ious).float(), dim=0) for one in judged]
    losses = [functional.cross_entropy(said, want) for said, want in zip(logits, wanted, strict=True)]
    return torch.stack(losses).mean()


def figures(judged: Sequence[Judged], judge: CandidateJudge | None) -> dict[str, float]:
    """``gIoU`` and ``P@0.5`` in percent of what a judge, or without one the rule, chooses."""
    ious = [float(one.ious[int(np.argmax(judged_by(judge, one.offers)))]) for one in judged]
    return _told(ious)


def bounds(judged: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """The same of the model's own masks (``single``) and of the best candidates (``oracle``)."""
    return {
        "single": _told([float(one.ious[0]) for one in judged]),
        "oracle": _told([float(one.ious.max()) for one in judged]),
    }


def _told(ious: Sequence[float]) -> dict[str, float]:
    return {"gIoU": 100 * float(np.mean(ious)), "P@0.5": 100 * float(np.mean(np.asarray(ious) > 0.5))}
