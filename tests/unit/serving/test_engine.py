"""Rows are made in several threads while another one answers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_rows_of_several_models_are_made_while_words_are_read_back(tiny: Any, restless: None) -> None:
    from ullava.serving.engine import Asked, Engine
    from ullava.serving.limits import Limits

    engines = [Engine(name, tiny, Limits(), row_processor=deepcopy(tiny.processor)) for name in ("one", "two")]
    image = np.zeros((32, 32, 3), np.uint8)
    done = threading.Event()

    def read_back() -> int:
        times = 0
        while not done.is_set():
            tiny.processor.decode_text(list(range(20, 80)))
            tiny.processor.tokenizer("the red circle left of the square", add_special_tokens=False)
            times += 1
        return times

    def make(number: int) -> list[int]:
        row = engines[number % 2].row(Asked(f"Segment the {number} circles. " * 4, images=(("a", image),)), 16)
        return list(row.input_ids)

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read_back)
        try:
            rows = list(pool.map(make, range(300)))
        finally:
            done.set()
        assert reader.result(60) > 0
    assert rows[7] == make(7) and len(rows) == 300
    for engine in engines:
        engine.close()
