"""Loading weights that must fit: every missing, unexpected and mis-shaped key is reported, all at once.

Every pretrained part (language model, tower, pyramid, SAM, detector) and every saved model comes in through here, so
that nothing of a network that was named begins at random.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ullava.errors import WeightsError
from ullava.modeling.loading.pretrained import read_network

MAX_CANDIDATES = 64


def read_part(
    kind: Any, folder: Path, *, beside: Sequence[str] = (), unread: Sequence[str] = (), **options: Any
) -> dict[str, Tensor]:
    """The weights of a network of class ``kind`` in ``folder``, in that class's names, in the dtype they have there.

    ``beside``: patterns (``*`` matches anything) of keys that the files may hold beside the network; ``unread``: of the
    network's own that nobody reads, which are left out whatever they are. Tied and computed tensors may be absent.
    ``options``: see ``read_network``.

    Raises WeightsError with a line for each other key that is missing, unexpected or of another shape; UserError for
    damaged files (ullava.modeling.loading.pretrained).
    """
    network, info = read_network(kind, folder, **options)
    refuse_misfits(info, folder, beside=(*beside, *unread), unread=unread)
    return {name: value for name, value in network.state_dict().items() if not _is_one_of(name, unread)}


def load_part(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Put ``weights`` (of ``read_part``) in the place of those of ``module``, or change nothing and say why not.

    They take the module's types: a part that is stored in half precision is trained as the rest is.

    Raises WeightsError, which names ``folder``, for every key that does not fit: sizes may have been changed on top of
    the folder's own config.
    """
    problems = find_misfits(module, weights)
    if problems:
        raise WeightsError([f"{folder}: {problem}" for problem in problems])
    own = module.state_dict()
    same = {name: value.to(own[name].dtype) if name in own else value for name, value in weights.items()}
    module.load_state_dict(same, strict=False, assign=True)


def refuse_misfits(
    info: Mapping[str, Any], folder: Path, *, beside: Sequence[str] = (), unread: Sequence[str] = ()
) -> None:
    """Raise WeightsError for all that transformers' account of a loading (``read_network``) says is wrong.

    ``beside`` and ``unread`` as in ``read_part``.
    """
    shapes = {str(key): (list(found), list(wanted)) for key, found, wanted in info["mismatched_keys"]}
    missing = [key for key in sorted(info["missing_keys"]) if not _is_one_of(key, unread) and key not in shapes]
    unexpected = [key for key in sorted(info["unexpected_keys"]) if not _is_one_of(key, beside)]
    problems = [f"{folder}: missing weight {key}{_nearest(key, unexpected)}" for key in missing]
    problems += [f"{folder}: unexpected weight {key}{_nearest(key, missing)}" for key in unexpected]
    problems += [
        f"{folder}: weight of another shape {key}: {found} in the file and {wanted} in the model"
        for key, (found, wanted) in sorted(shapes.items())
        if not _is_one_of(key, unread)
    ]
    problems += [f"{folder}: {' '.join(str(message).split())}" for message in info.get("error_msgs", ())]
    if problems:
        raise WeightsError(problems)


def _is_one_of(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


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
    unexpected = [name for name in state_dict if name not in own and not _is_one_of(name, ignorable)]
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
