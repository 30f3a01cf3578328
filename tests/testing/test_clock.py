from __future__ import annotations

import threading

import pytest

from tierllm.errors import ConfigError
from tierllm.pipeline.clock import Clock, SteppedClock
from tierllm.testing import FakeClock


def test_time_passes_only_when_told_to() -> None:
    clock = FakeClock(start=100)
    assert clock() == 100.0
    clock.advance(2.5)
    clock.advance(0)
    assert clock() == 102.5
    assert repr(clock) == "FakeClock(102.5)"


def test_is_a_clock_that_drivers_step() -> None:
    clock: Clock = FakeClock()
    assert isinstance(clock, SteppedClock)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_refuses_steps_that_are_no_time(seconds: float) -> None:
    clock = FakeClock()
    with pytest.raises(ConfigError, match="advance"):
        clock.advance(seconds)
    assert clock() == 0.0


def test_threads_lose_no_time() -> None:
    clock = FakeClock()

    def work() -> None:
        for _ in range(2000):
            clock.advance(0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock() == 4000.0
