"""The clock of an answer's stages: exclusive seconds, nothing without a clock."""

from __future__ import annotations

import time

import pytest

from ullava.stage_clock import STAGES, measured_stages, stage


def test_a_stage_within_another_is_taken_out_of_it() -> None:
    began = time.perf_counter()
    with measured_stages() as clock:
        with stage("decode"):
            time.sleep(0.02)
            for _ in range(2):
                with stage("prefill"):
                    time.sleep(0.03)
        with stage("read"):
            time.sleep(0.01)
    whole = time.perf_counter() - began
    assert clock.entered == {"prefill": 2, "decode": 1, "read": 1} and set(clock.entered) <= set(STAGES)
    assert 0.02 <= clock.seconds["decode"] < 0.05 <= clock.seconds["prefill"]
    assert sum(clock.seconds.values()) == pytest.approx(whole, rel=0.1)


def test_without_a_clock_and_after_an_error_nothing_is_kept() -> None:
    with stage("read"):
        pass
    with measured_stages() as clock, pytest.raises(ValueError, match="broken"), stage("read"):
        raise ValueError("broken")
    with stage("decode"):
        pass
    assert set(clock.entered) == {"read"}


def test_an_accelerator_is_waited_for_before_a_stage_ends() -> None:
    waited = []
    with measured_stages(lambda: waited.append(time.sleep(0.02))) as clock, stage("vision encoder"):
        pass
    assert len(waited) == 1 and clock.seconds["vision encoder"] >= 0.02
