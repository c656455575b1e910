"""Learning rates of single parts: ``optimizer.learning_rates`` of a recipe (a projector slower than adapters); what
decays.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from ullava.errors import ConfigError, did_you_mean
from ullava.training.optim.stages import assign_parts

LEARNED_POSITIONS = ("pos_embed", "rel_pos_h", "rel_pos_w", "class_embedding")


def decaying(model: nn.Module) -> list[str]:
    """Return the names of matrices and kernels: no norms, biases, embedding tables, learned positions."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and id(parameter) not in tables and not name.endswith(LEARNED_POSITIONS)
    ]


def set_learning_rates(optimizer: Optimizer, model: nn.Module, rates: Mapping[str, float]) -> None:
    """Move the weights of the parts that ``rates`` names into groups with a learning rate of their own.

    To be called before the schedule is made, which then scales every rate alike. Raises ConfigError for a part that
    does not exist or does not train.
    """
    weights = dict(model.named_parameters())
    part_of = {id(weights[name]): part for name, part in assign_parts(model).items()}
    trained = {part_of[id(weight)] for group in optimizer.param_groups for weight in group["params"]}
    wrong = [
        f"optimizer.learning_rates: no part '{part}' trains{did_you_mean(part, trained)}"
        for part in rates
        if part not in trained
    ]
    if wrong:
        raise ConfigError(wrong)
    for group in list(optimizer.param_groups):
        for part, rate in rates.items():
            mine = [weight for weight in group["params"] if part_of[id(weight)] == part]
            if not mine:
                continue
            taken = {id(weight) for weight in mine}
            group["params"] = [weight for weight in group["params"] if id(weight) not in taken]
            optimizer.add_param_group({**group, "params": mine, "lr": rate})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
