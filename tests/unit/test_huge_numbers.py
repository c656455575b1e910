"""Whole numbers that no float holds: JSON and YAML can say them, and ``math.isfinite`` fails on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ullava.errors import DataError, UserError
from ullava.exports.results import read_results
from ullava.inference.generation import decoding_of
from ullava.modeling.construction.part_configs import _range_problem
from ullava.modeling.construction.saved_folder import _is_above
from ullava.training.loop.arguments import _out_of_bounds

HUGE = 10**400


@pytest.mark.parametrize("option", ["temperature", "top_p", "seed"])
def test_options_of_a_draw(option: str) -> None:
    for value in (HUGE, -HUGE, float("inf"), float("nan")):
        with pytest.raises(UserError, match=f"{option}: expected"):
            decoding_of({"top_k": 5, option: value})


@pytest.mark.parametrize(("field", "value"), [("score", HUGE), ("box_xyxy_px", [0, 0, 1, HUGE])])
def test_answers_that_are_exported(tmp_path: Path, field: str, value: object) -> None:
    thing = {"phrase": "cat", "span": [0, 3], "image": 0, "score": 0.5, "box_xyxy_px": None, "mask": None}
    answer = {"id": "a", "images": ["a.png"], "prompt": "?", "text": "cat", "objects": [{**thing, field: value}]}
    (tmp_path / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    with pytest.raises(DataError, match=rf"answer\.json: objects\[0\]: {field}: expected"):
        read_results(tmp_path)


def test_keys_of_recipes_and_models() -> None:
    for value in (HUGE, float("nan"), float("-inf")):
        assert "finite" in _out_of_bounds("learning_rate", value)
        assert "finite" in _range_problem("hidden_size", value, None)
        assert not _is_above(value, 0.0)
    assert not _out_of_bounds("learning_rate", 1e-4) and _is_above(-3.0, float("-inf"))
