"""Which of several masks is the thing that was asked for: a small network beside a model, trained while that rests.

It reads of each candidate the state that prompted its mask, the mean of the mask head's coarsest map under the mask,
and a few facts (``FACTS``); then what it made of all candidates of the same thing, so that each is judged among them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ullava.atomic_write import whole_folder
from ullava.errors import UserError
from ullava.modeling.loading.pretrained import read_config, read_network
from ullava.modeling.loading.strict_loading import refuse_misfits
from ullava.structures import CandidateSource

FOLDER = "judge"
"""Beside the weights of the model that it was trained for."""
NATS = 10.0
PROVENANCES = ("single", *get_args(CandidateSource))
FACTS = (
    "answer", "likeliest", "expected", "score", "area", "agreement", "own box",
    *(f"from {name}" for name in PROVENANCES),
)  # fmt: skip
"""What is told of a candidate in numbers.

``answer``: log probability of the words that it comes from, divided by ``NATS``; ``likeliest``: how far that is below
the likeliest candidate's; ``expected``: its mean IoU with all candidates, weighed by how likely their words are (the
choice of least Bayes risk takes the highest); ``score``: of the mask; ``area``: root of its share of the image;
``agreement``: mean IoU with the other candidates; ``own box``: IoU of the mask's box with the box of its answer; then
where it comes from.
"""


class JudgeConfig(PreTrainedConfig):
    """``state_width`` and ``map_width``: of the model's states and of its mask head's map; ``width``: of the judge."""

    model_type = "ullava_judge"

    def __init__(self, state_width: int = 128, map_width: int = 64, width: int = 16, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.state_width, self.map_width, self.width = state_width, map_width, width


class CandidateJudge(PreTrainedModel):
    """State, map and facts of a candidate -> a logit, to be compared with those of the same thing's candidates."""

    config_class = JudgeConfig
    base_model_prefix = ""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__(config)
        width = config.width
        self.state = nn.Sequential(nn.LayerNorm(config.state_width), nn.Linear(config.state_width, width))
        self.map = nn.Sequential(nn.LayerNorm(config.map_width), nn.Linear(config.map_width, width))
        self.facts = nn.Linear(len(FACTS), width)
        self.among = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 1, bias=False)
        self.sure = nn.Linear(len(FACTS), 1, bias=False)
        self.post_init()
        with torch.no_grad():  # it begins by the log probability of the words alone
            self.out.weight.zero_()
            self.sure.weight.zero_()
            self.sure.weight[0, FACTS.index("answer")] = NATS

    def _init_weights(self, module: nn.Module) -> None:
        """What the layers and ``__init__`` set stays."""

    def forward(
        self, states: torch.Tensor, pooled: torch.Tensor, facts: torch.Tensor, thing: torch.Tensor
    ) -> torch.Tensor:
        """Logits [n] of n candidates, fp32.

        ``states`` [n, D]; ``pooled`` [n, C]; ``facts`` [n, F] as in ``FACTS``; ``thing`` [n]: which thing each is a
        candidate for, from 0.
        """
        own = nn.functional.gelu(self.state(states) + self.map(pooled) + self.facts(facts))
        count = int(thing.max()) + 1 if len(thing) else 0
        sums = own.new_zeros(count, own.shape[1]).index_add(0, thing, own)
        number = own.new_zeros(count).index_add(0, thing, own.new_ones(len(thing)))
        others = (sums / number[:, None].clamp(min=1))[thing]
        seen = nn.functional.gelu(self.among(torch.cat([own, own - others], dim=1)))
        judged: torch.Tensor = (self.out(seen) + self.sure(facts))[:, 0]
        return judged


def judge_folder(model_folder: Path) -> Path:
    """Where the judge of the model in ``model_folder`` lies."""
    return model_folder / FOLDER


def read_judge(model_folder: Path, state_width: int, map_width: int) -> CandidateJudge:
    """The judge that lies beside a model whose states and map have these widths, in float32.

    Raises UserError where there is none or one for another model, WeightsError for weights that are missing, unexpected
    or of another shape.
    """
    folder = judge_folder(model_folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no judge of candidates beside this model: train one with `ullava calibrate --judge RECIPE`, or "
            "choose by score (--choose score; candidates.choose: score)"
        )
    config = read_config(folder, (JudgeConfig,))
    assert isinstance(config, JudgeConfig)
    found, wanted = (config.state_width, config.map_width), (state_width, map_width)
    if found != wanted:
        raise UserError(f"{folder}: judges states and maps of width {found}, the model's are {wanted}: train it again")
    judge, info = read_network(CandidateJudge, folder, config=config, dtype=torch.float32, use_safetensors=True)
    refuse_misfits(info, folder)
    network: CandidateJudge = judge
    return network.eval()


def write_judge(judge: CandidateJudge, model_folder: Path) -> Path:
    """Put it beside the weights of the model in ``model_folder``, in the place of another; return its folder."""
    folder = judge_folder(model_folder)
    with whole_folder(folder) as draft:
        judge.save_pretrained(draft)
    return folder


def remove_judge(model_folder: Path) -> None:
    """Take away the judge of the model in ``model_folder``, where there is one."""
    folder = judge_folder(model_folder)
    if folder.is_dir():
        shutil.rmtree(folder)
