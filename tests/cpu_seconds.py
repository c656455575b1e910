"""What tests cost, in seconds of CPU: ``python -m pytest -p tests.cpu_seconds tests/recipes`` (without ``-n``).

pytest's ``--durations`` counts what else the machine does, and no fixture apart from the first test that asks for it;
here the processes that a test has started and waited for count, nothing else does.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

import pytest

SHOWN = 40
LEAST_SECONDS = 0.3

_spent: defaultdict[str, float] = defaultdict(float)


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """Count a fixture that tests share by itself, with those that it asks for first."""
    begun = _cpu_seconds()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            _spent[f"{fixturedef.baseid} fixture {fixturedef.argname}"] += _cpu_seconds() - begun


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Count a test with its fixtures."""
    begun = _cpu_seconds()
    try:
        return (yield)
    finally:
        _spent[item.nodeid] += _cpu_seconds() - begun


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the dearest; a shared fixture is in the first test that asks for it once more."""
    tests = sum(seconds for name, seconds in _spent.items() if " fixture " not in name)
    terminalreporter.section(f"{tests:.1f} s of CPU in tests, {_cpu_seconds():.1f} s with imports")
    for name, seconds in sorted(_spent.items(), key=lambda pair: -pair[1])[:SHOWN]:
        if seconds >= LEAST_SECONDS:
            terminalreporter.write_line(f"{seconds:7.1f} s  {name}")
