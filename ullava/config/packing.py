"""``packing`` of a training recipe: several dialogues in a row of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ullava.config.fields import at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingConfig:
    """The dialogues of a batch are put one after another into as few rows as they need, instead of a row each.

    ``tokens``: the most of a row, visual ones included; where a dialogue is longer, as many as that one has.
    """

    tokens: int = field(metadata=at_least(1, 1 << 24))
