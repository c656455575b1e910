"""``ullava bench packing``: the share of real tokens, and steps with and without."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ullava.benchmarks import packing


def test_the_command_tells_both_layouts(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BATCH", 4), ("BATCHES", 2), ("WORDS_MOST", 60)):
        monkeypatch.setattr(packing, name, value)
    code, out, err = command("bench", "packing", "--repeats", "1", "--json")
    assert code == 0, err
    apart, packed = json.loads(out)["results"]
    assert apart["rows"] == [4, 4] and max(packed["rows"]) < 4
    assert 0.2 < apart["real_tokens"] < packed["real_tokens"] <= 1
    assert packed["difference_of_losses"] < 1e-3
    assert len(packed["tokens_of_a_dialogue"]) == 5
