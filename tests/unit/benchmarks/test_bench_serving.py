"""``ullava bench serve``: a load on the real server, small."""

from __future__ import annotations

import json
from typing import Any

import pytest

for package in ("fastapi", "uvicorn", "httpcore", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="the server needs the extra: pip install 'ullava[serve]'")


def test_a_small_load_is_answered_without_errors(command: Any) -> None:
    code, out, _ = command("bench", "serve", "--clients", "4", "--requests", "16", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["batched"]["answered"], told["one_by_one"]["answered"]) == (16, 4)
    assert told["batched"]["errors"] == told["one_by_one"]["errors"] == {}
    assert told["gain"] > 0 and all(size > 100 for size in told["batched"]["memory_mib"])


def test_a_report_can_be_read() -> None:
    from ullava.benchmarks.serving import table

    part = {
        "requests_per_s": 10.0, "median_ms": 90.0, "p99_ms": 120.0, "answered": 15, "errors": {"status 500": 1},
        "memory_mib": [800.0, 801.0],
    }  # fmt: skip
    lines = table({"batched": part, "one_by_one": part, "gain": 2.5}).splitlines()
    assert "15 answered   1 errors   memory 800 -> 801 MiB" in lines[0] and "2.5 times" in lines[2]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("data", "--clients", "3"), "--clients belongs to 'ullava bench serve'"),
        (("serve", "--model", "tyni"), "'ullava serve' does not start: "),
    ],
)
def test_what_it_cannot_do_is_said(command: Any, argv: tuple[str, ...], said: str) -> None:
    code, _, err = command("bench", *argv)
    assert code == 2 and said in err and len(err.splitlines()) == 1
