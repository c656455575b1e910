"""Whether a model's rows may hold several dialogues."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch

from ullava.errors import ConfigError
from ullava.examples import ModelInputs
from ullava.training.loop.packing_ullava_v1 import packing_problems

ATTENTION = ("sdpa", "eager")
"""Kernels of transformers that tell dialogues apart by positions in rows of any number, and were tried here."""
TRIED = (5, 4)
"""Tokens of two dialogues on which it is tried whether the language model keeps them apart."""
TOLERANCE = 1e-3
"""Of their states, of about unit size."""


def check_packing(attn_implementation: str, model: Any, processor: Any) -> None:
    """Raise ConfigError, with a line for each reason, where dialogues cannot share rows."""
    problems = []
    if model.core.kind != "spliced":
        problems.append(f"core {model.core.kind} counts positions by itself")
    if processor.vision.reads_text:
        problems.append(f"vision strategy {processor.strategy} reads the question of a row")
    problems += packing_problems(model, processor)
    if attn_implementation not in ATTENTION:
        problems.append(f"attn_implementation {attn_implementation} was not tried; use {' or '.join(ATTENTION)}")
    if not problems and not keeps_apart(model):
        problems.append(f"the language model ({model.config.text_config.model_type}) mixes what shares a row")
    if problems:
        raise ConfigError([f"packing: {problem}" for problem in problems])


@torch.no_grad()
def keeps_apart(model: Any) -> bool:
    """Whether the language model gives two dialogues in a row the states that each has in a row of its own."""
    training = model.training
    model.eval()
    vocabulary = range(int(model.config.text_config.vocab_size))
    words = (number for number in vocabulary if number not in model.core.placeholder_ids)
    ids = torch.tensor([list(islice(words, sum(TRIED)))], device=model.device)
    dialogues = torch.tensor([1] * TRIED[0] + [2] * TRIED[1], device=model.device)[None]
    together = _states(model, ids, dialogues)
    alone = [_states(model, part, torch.ones_like(part)) for part in ids.split(TRIED, dim=1)]
    model.train(training)
    apart = torch.cat(alone, dim=1)
    return bool(((together - apart).abs() <= TOLERANCE * (1 + apart.abs())).all())


def _states(model: Any, ids: torch.Tensor, dialogues: torch.Tensor) -> torch.Tensor:
    inputs = ModelInputs(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, dialogues=dialogues)
    prepared = model.core.prepare(inputs, left_pad=False)
    states: torch.Tensor = model.core.decode(prepared, use_cache=False).last_hidden_state
    return states.float()
