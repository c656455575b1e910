"""``candidates`` of an evaluation, and ``--candidates`` of the command line: several masks, of which one is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from ullava.config.fields import at_least
from ullava.errors import UserError, did_you_mean
from ullava.structures import CandidateSource

SOURCES: tuple[CandidateSource, ...] = get_args(CandidateSource)
FEWEST, MOST = 2, 16
"""How many answers a search may keep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidatesConfig:
    """Several masks for each thing that is asked for, and a judge that takes one (docs/candidates.md).

    ``sources``: where they come from: ``beams``, the likeliest other answers; ``rephrased``, the answers to the
    question in other words; ``multimask``, the mask decoder's several masks; ``box``, the mask of the answer's own box.
    ``beams``: how many answers the search keeps. ``choose``: ``judge``, by the judge that lies beside the model;
    ``score``, by how likely the answer is and how good the mask head rates the mask.
    """

    sources: list[CandidateSource]
    beams: int = field(default=4, metadata=at_least(FEWEST, MOST))
    choose: Literal["judge", "score"] = "judge"

    def __post_init__(self) -> None:
        """Refuse a table that names no source, or one twice (ValueError)."""
        if not self.sources:
            raise ValueError(f"sources: names none; there are {', '.join(SOURCES)}")
        twice = sorted({name for name in self.sources if self.sources.count(name) > 1})
        if twice:
            raise ValueError(f"sources: names {twice[0]} twice")

    @classmethod
    def read(cls, text: str, choose: Literal["judge", "score"] = "judge") -> CandidatesConfig:
        """``4``, so many answers of the search, or sources: ``beams,multimask``. Raises UserError for anything else."""
        if text.lstrip("+-").isdigit():
            if not FEWEST <= int(text) <= MOST:
                raise UserError(f"--candidates {text}: expected {FEWEST} to {MOST} of them")
            return cls(sources=["beams"], beams=int(text), choose=choose)
        names = [name.strip() for name in text.split(",")]
        problems = [
            f"--candidates: unknown source '{name}'{did_you_mean(name, SOURCES)}"
            for name in names
            if name not in SOURCES
        ]
        if problems:
            raise UserError(problems)
        try:
            return cls(sources=cast(list[CandidateSource], names), choose=choose)
        except ValueError as error:
            raise UserError(f"--candidates: {error}") from error
