"""``ullava bench cache``: epochs with maps made and with maps read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ullava.benchmarks import mask_cache


def test_the_command_tells_both_epochs(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path))
    monkeypatch.setattr(mask_cache, "SIDE", 64)
    small = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "global_attn_indexes": [1]}
    monkeypatch.setattr(mask_cache, "ENCODER", {**small, "mlp_dim": 64})
    code, out, err = command("bench", "cache", "--repeats", "1", "--json")
    assert code == 0, err
    first, later = json.loads(out)["results"]
    assert first["what"].startswith("epoch 1") and later["what"].startswith("epoch 2")
    assert first["cpu"] > 0 and later["times_as_fast"] == pytest.approx(first["cpu"] / later["cpu"], abs=0.01)
    assert later["bytes_kept_per_image"] == pytest.approx(256 * 4 * 4 * 4, abs=1000)
    assert later["largest_difference_of_losses"] == 0
