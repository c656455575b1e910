"""Loading a state dict that must fit: every missing, unexpected and mis-shaped key is reported, all at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ullava.errors import WeightsError

MAX_CANDIDATES = 64


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], ignorable: Sequence[str] = ()) -> None:
    """Copy ``state_dict`` into ``module`` (cast to the module's dtype), or change nothing and say why not.

    Args:
        module: where the weights go. Parameters on the meta device take the given tensors themselves.
        state_dict: name -> tensor, in the module's own layout.
        ignorable: patterns (``*`` matches anything) of keys that may be there although the module has no such tensor,
            e.g. ``*.rotary_emb.inv_freq`` of older files.

    A key may be absent if the module ties it to another that is there (an output head that shares the embedding).

    Raises:
        WeightsError: one line for each key that is missing, unexpected or of another shape.
    """
    problems = find_misfits(module, state_dict, ignorable)
    if problems:
        raise WeightsError(problems)
    own = module.state_dict(keep_vars=True)
    fitting = {name: tensor for name, tensor in state_dict.items() if name in own}
    module.load_state_dict(fitting, strict=False, assign=any(tensor.is_meta for tensor in own.values()))


def find_misfits(
    module: nn.Module, state_dict: Mapping[str, Tensor], ignorable: Sequence[str] = (), optional: Sequence[str] = ()
) -> list[str]:
    """Return one line for every key that keeps ``state_dict`` from fitting ``module``; empty if it fits.

    ``ignorable``: patterns of keys that the module need not have; ``optional``: its own names that may be missing.
    """
    own = module.state_dict(keep_vars=True)
    supplied = {id(tensor) for name, tensor in own.items() if name in state_dict}
    missing = [
        name for name in own if name not in state_dict and id(own[name]) not in supplied and name not in optional
    ]
    unexpected = [
        name for name in state_dict if name not in own and not any(fnmatchcase(name, pattern) for pattern in ignorable)
    ]
    problems = [f"missing: {name} {_shape(own[name])}{_nearest(name, unexpected)}" for name in missing]
    problems += [f"unexpected: {name} {_shape(state_dict[name])}{_nearest(name, missing)}" for name in unexpected]
    problems += [
        f"shape: {name} is {_shape(state_dict[name])} in the file and {_shape(own[name])} in the model"
        for name in own
        if name in state_dict and own[name].shape != state_dict[name].shape
    ]
    return problems


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _nearest(name: str, others: Iterable[str]) -> str:
    """Name the most similar of ``others``; among many, only those with the same last two parts are compared."""
    candidates = list(others)
    if len(candidates) > MAX_CANDIDATES:
        ending = "." + ".".join(name.split(".")[-2:])
        candidates = [other for other in candidates if f".{other}".endswith(ending)][:MAX_CANDIDATES]
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
