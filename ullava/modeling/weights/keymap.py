"""Renaming the tensors of another program's state dict by a table of patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """Keys that ``pattern`` (a regular expression) matches in full are called each of ``names`` (``re`` templates).

    Several names copy one tensor to several places; no name drops it on purpose.
    """

    pattern: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renamed:
    """What a table made of a state dict: tensors by new name, keys dropped on purpose, keys that no rule knows."""

    tensors: dict[str, Tensor]
    dropped: list[str]
    unknown: list[str]


def rename_keys(state_dict: Mapping[str, Tensor], rules: Sequence[Rule]) -> Renamed:
    """Apply to every key the first rule that matches it.

    Raises:
        ValueError: two keys get the same new name (a fault of the table).
    """
    compiled = [(re.compile(rule.pattern), rule.names) for rule in rules]
    renamed = Renamed({}, [], [])
    for key, tensor in state_dict.items():
        for pattern, names in compiled:
            match = pattern.fullmatch(key)
            if match is None:
                continue
            if not names:
                renamed.dropped.append(key)
            for name in map(match.expand, names):
                if name in renamed.tensors:
                    raise ValueError(f"two keys become {name}, the second is {key}")
                renamed.tensors[name] = tensor
            break
        else:
            renamed.unknown.append(key)
    return renamed
