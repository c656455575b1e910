"""Sizes of a foreign checkpoint, read off its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ullava.errors import WeightsError


def refuse_missing(state_dict: Mapping[str, Tensor], keys: Iterable[str], what: str) -> None:
    """Raise WeightsError with a line for each of ``keys`` that is missing, all at once."""
    problems = [f"missing: {key}; is this {what}?" for key in keys if key not in state_dict]
    if problems:
        raise WeightsError(problems)


def shape_of(state_dict: Mapping[str, Tensor], key: str, rank: int, what: str) -> tuple[int, ...]:
    """The shape of a tensor that has to be there with ``rank`` dimensions; ``what`` is asked about in the error.

    Raises:
        WeightsError: it is missing, or has another rank or an empty dimension.
    """
    if key not in state_dict:
        raise WeightsError(f"missing: {key}; is this {what}?")
    shape = tuple(state_dict[key].shape)
    if len(shape) != rank or min(shape) < 1:
        raise WeightsError(f"shape: {key} is {list(shape)}, {rank} dimensions were expected")
    return shape


def count_layers(keys: Iterable[str], pattern: str, what: str) -> int:
    """How many layers there are: one more than the highest number that group 1 of ``pattern`` finds.

    Raises:
        WeightsError: no key fits the pattern.
    """
    numbers = [int(match.group(1)) for key in keys if (match := re.fullmatch(pattern, key))]
    if not numbers:
        raise WeightsError(f"missing: keys like {pattern}; is this {what}?")
    return max(numbers) + 1
