"""``loss.base_kl``: a run with adapters keeps to the words of its language model wherever no image is in question.

Adapters that learn to see also change what the model says of words alone. The same network without its adapters is at
hand all the time, so each row without image or video is judged by KL(base || adapted) at every supervised token, the
whole distribution and not the one word that the row happens to have (distillation, Hinton et al. 2015; from the model
itself against forgetting, as in Li & Hoiem 2016). It costs one more pass of those rows, without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ullava.config.load import place
from ullava.config.schema import TrainRecipe
from ullava.examples import ModelInputs
from ullava.text.tokens import IGNORE_LABEL


def check_base_kl(recipe: TrainRecipe, weight: float, values: Mapping[str, Any], recipe_path: Any) -> list[str]:
    """Return one line for each thing that ``loss.base_kl`` does not go together with; ``values``: its ``training``."""
    if not weight:
        return []
    where = f"{place(recipe_path, 'loss')}: loss.base_kl"
    problems = []
    if recipe.lora is None:
        problems.append(f"{where} compares with the model without its adapters: give lora, or leave it out")
    if recipe.passes != "one":
        problems.append(f"{where} and passes: {recipe.passes}, whose rows differ from pass to pass; keep one")
    if recipe.sharding != "none" or values.get("deepspeed"):
        problems.append(f"{where} needs the whole language model in each process: leave sharding and deepspeed out")
    return problems


def plain_rows(inputs: ModelInputs, placeholder_ids: Sequence[int]) -> torch.Tensor:
    """Return which rows [B] have a token, and none that stands for an image or a video."""
    if inputs.input_ids is None:
        raise ValueError("which rows are words alone is told by their ids")
    ids = inputs.input_ids
    visual = torch.isin(ids, torch.tensor(list(placeholder_ids), dtype=ids.dtype, device=ids.device))
    return ~visual.any(dim=1)


@dataclass(frozen=True, slots=True)
class BaseWords:
    """How far a batch's words are from those of the base. ``adapters``: peft's handle on the language model."""

    adapters: Any
    placeholder_ids: tuple[int, ...]

    def __call__(self, model: Any, inputs: ModelInputs, output: Any) -> torch.Tensor | None:
        """Return KL(base || adapted) in nats, float32 [n], of the n supervised tokens in rows of words alone.

        ``model``: unwrapped. ``output``: what it returned for ``inputs``. None without such a token.
        """
        labels, ids = inputs.labels, inputs.input_ids
        if labels is None or ids is None:
            raise ValueError("base_kl is of a batch with labels")
        plain = plain_rows(inputs, self.placeholder_ids)
        supervised = labels[:, 1:] != IGNORE_LABEL
        wanted = supervised & plain[:, None]
        if not bool(wanted.any()):
            return None
        mask, dialogues = inputs.attention_mask, inputs.dialogues
        rows = ModelInputs(
            input_ids=ids[plain],
            attention_mask=None if mask is None else mask[plain],
            labels=labels[plain],
            dialogues=None if dialogues is None else dialogues[plain],
        )
        with torch.no_grad(), self._without_adapters():
            prepared = model.core.prepare(rows, left_pad=False)
            hidden = model.core.decode(prepared, use_cache=False).last_hidden_state
            base = model.core.logits(hidden[:, :-1][supervised[plain]]).float().log_softmax(dim=-1)
        # The output lists supervised tokens row after row; an image that grows a row adds none of them.
        adapted = output.supervised_logits[wanted[supervised]].float().log_softmax(dim=-1)
        return torch.nn.functional.kl_div(adapted, base, reduction="none", log_target=True).sum(dim=-1)

    @contextmanager
    def _without_adapters(self) -> Iterator[None]:
        """Leave the adapters out; peft would let all of them train afterwards, whatever the stage says."""
        trains = {parameter: parameter.requires_grad for parameter in self.adapters.parameters()}
        try:
            with self.adapters.disable_adapter():
                yield
        finally:
            for parameter, wanted in trains.items():
                parameter.requires_grad_(wanted)
