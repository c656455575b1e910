"""Trains the judge of candidates on questions whose masks are known, while the model rests.

The model answers each question once and its candidates are read (ullava.inference.candidates); what they are judged by
is kept, and the judge learns from that alone: of the candidates of a thing to prefer those that overlap the truth most.
Questions of every fifth image are held back, to choose the epoch by and to tell what was gained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean

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
    """One question: what its n candidates are judged by, and how right each is. Masks are not kept.

    ``states`` [n, D], ``pooled`` [n, C] and ``facts`` [n, F] as ``CandidateJudge`` reads them; ``rule`` [n]: what the
    rule says of them; ``ious`` [n]: with the truth; ``held``: it is held back.
    """

    states: torch.Tensor
    pooled: torch.Tensor
    facts: torch.Tensor
    rule: list[float]
    ious: torch.Tensor
    held: bool

    @classmethod
    def of(cls, offers: Sequence[Offer], ious: Sequence[float], held: bool) -> Judged:
        """Take what is needed of the candidates of a question."""
        states, pooled, facts, _ = judged_tensors([offers])
        return cls(states, pooled, facts, judged_by(None, offers), torch.tensor(ious), held)


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
                    Judged.of(found, ious_of(found, query), where[query.item] % HELD_BACK == 0)
                    for query, found in zip(queries, offers, strict=True)
                    if len(found) > 1
                ]
                bar.update(len({query.item for query in queries}))
    return made


def ious_of(offers: Sequence[Offer], query: Query) -> list[float]:
    """IoU [n] of the candidates of a question with its true mask."""
    truth, ignore = true_mask(query.sample), ignored_pixels(query.sample)
    return [iou_of(*overlap(one.mask, truth, ignore)) for one in offers]


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
    wanted = [torch.softmax(SHARP * one.ious, dim=0) for one in judged]
    losses = [functional.cross_entropy(said, want) for said, want in zip(_logits(judge, judged), wanted, strict=True)]
    return torch.stack(losses).mean()


@torch.no_grad()
def figures(judged: Sequence[Judged], judge: CandidateJudge | None) -> dict[str, float]:
    """``gIoU`` and ``P@0.5`` in percent of what a judge, or without one the rule, chooses."""
    said = [one.rule for one in judged] if judge is None else [values.tolist() for values in _logits(judge, judged)]
    chosen = [values.index(max(values)) for values in said]  # of equal ones the first, as in answers
    return _told([float(one.ious[place]) for one, place in zip(judged, chosen, strict=True)])


def bounds(judged: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """The same of the model's own masks (``single``) and of the best candidates (``oracle``)."""
    return {
        "single": _told([float(one.ious[0]) for one in judged]),
        "oracle": _told([float(one.ious.max()) for one in judged]),
    }


def _logits(judge: CandidateJudge, judged: Sequence[Judged]) -> list[torch.Tensor]:
    """What a judge says of the candidates of each question, from one pass."""
    counts = [len(one.ious) for one in judged]
    thing = torch.arange(len(judged)).repeat_interleave(torch.tensor(counts))
    read = (torch.cat([getattr(one, name) for one in judged]) for name in ("states", "pooled", "facts"))
    return list(judge(*read, thing).split(counts))


def _told(ious: Sequence[float]) -> dict[str, float]:
    return {"gIoU": 100 * fmean(ious), "P@0.5": 100 * fmean(iou > 0.5 for iou in ious)}
