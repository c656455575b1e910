"""Frame sampling and pooled video tokens against what the original program gave."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ullava.data.frames import head_tail_frames, original_head_tail_frames, original_uniform_frames, uniform_frames

ROOT = Path(os.environ.get("ULLAVA_PARITY") or Path(__file__).resolve().parents[3].parent / "shared" / "parity")


def case_folder(name: str) -> Path:
    folder = ROOT / "ullava" / name
    if not (folder / "case.json").is_file():
        pytest.skip(f"the golden case ullava/{name} is not here (ULLAVA_PARITY)")
    return folder


@pytest.fixture(scope="module")
def sampling() -> dict[str, Any]:
    case: dict[str, Any] = json.loads((case_folder("video") / "case.json").read_text(encoding="utf-8"))
    return case


def uniform_goldens(case: dict[str, Any]) -> list[tuple[int, int, list[int]]]:
    """(frames asked for, length, what the original took)."""
    found = [(case["n_frm"], int(length), indices) for length, indices in case["uniform"].items()]
    for count, lengths in case["uniform_other_counts"].items():
        found += [(int(count), int(length), indices) for length, indices in lengths.items()]
    return found


def test_the_parity_switch_takes_the_original_frames(sampling: dict[str, Any]) -> None:
    goldens = uniform_goldens(sampling)
    assert len(goldens) > 40
    for count, length, indices in goldens:
        assert original_uniform_frames(length, count) == indices, (count, length)
    drawn = [(int(length), draw) for length, draws in sampling["headtail"].items() for draw in draws]
    assert len(drawn) > 40
    for length, draw in drawn:
        chosen = original_head_tail_frames(length, sampling["n_frm"], Random(draw["seed"]))
        assert chosen == draw["indices"], (length, draw["seed"])


def test_the_default_is_what_was_intended(sampling: dict[str, Any]) -> None:
    """Exactly as many as asked for, never past the end; the original's wherever those were right."""
    same = 0
    for count, length, indices in uniform_goldens(sampling):
        chosen = uniform_frames(length, count)
        assert len(chosen) == count and chosen == sorted(chosen) and chosen[-1] < length
        same += chosen == indices
        if count & (count - 1) == 0 and length >= count:
            assert chosen == indices, (count, length)
    assert same > 40
    count = sampling["n_frm"]
    for text, draws in sampling["headtail"].items():
        for draw in draws:
            chosen = head_tail_frames(int(text), count, Random(draw["seed"]))
            assert len(chosen) == count and chosen == sorted(chosen) and chosen[-1] < int(text)
            if len(draw["indices"]) == count and count % 2 == 0:
                assert chosen == draw["indices"], (text, draw["seed"])
