"""Adaptive concurrency under load: it finds a backend's capacity, and follows it."""

from __future__ import annotations

import threading

import pytest

from admission.crowd import Crowd
from tierllm.admission.adaptive import AdaptiveConcurrency
from tierllm.errors import ThrottledError

CHANGES = ((0.0, 20), (300.0, 5), (600.0, 20))
"""A backend that serves 20 calls at once, then 5, then 20 again."""


@pytest.mark.parametrize("refuse_s", [0.05, 2.0], ids=["refuses at once", "refuses late"])
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_capacity_and_follows_it(seed: int, refuse_s: float) -> None:
    crowd = Crowd(AdaptiveConcurrency(), CHANGES, seed=seed, refuse_s=refuse_s)
    crowd.run(1200)
    assert crowd.use >= 0.9
    assert crowd.refused() <= 0.025
    assert crowd.refused(200, 300) <= 0.01
    assert crowd.refused(400, 600) <= 0.06
    down, up = crowd.settled_s(300, range(1, 7)), crowd.settled_s(600, range(18, 24))
    assert down is not None
    assert down <= 30
    assert up is not None
    assert up <= 120
    assert all(17 <= size <= 22 for at, size in crowd.sizes if 150 <= at < 300 or at >= 800)


def test_without_caution_it_is_refused_more_often() -> None:
    """Plain AIMD works too, but it keeps running into the limit it was just shown."""
    refused = []
    for caution in (1, 10):
        crowd = Crowd(AdaptiveConcurrency(caution=caution), CHANGES)
        crowd.run(1200)
        assert crowd.use >= 0.85
        refused.append(crowd.refused(350, 600))
    assert refused[1] < refused[0] / 2


def test_demand_below_half_of_the_limit_leaves_it_where_it_is() -> None:
    crowd = Crowd(AdaptiveConcurrency(start=30, most=40), [(0.0, 1000)], demand=14)
    crowd.run(600)
    assert len(crowd.backend.ends) > 1000
    assert crowd.policy.size == 30


def test_demand_above_half_of_it_raises_it_to_twice_the_demand() -> None:
    crowd = Crowd(AdaptiveConcurrency(start=10, most=40), [(0.0, 1000)], demand=14)
    crowd.run(600)
    assert crowd.policy.size == 29


def test_threads_never_exceed_it() -> None:
    policy = AdaptiveConcurrency(start=3, most=3)
    lock, now, peak = threading.Lock(), 0, 0
    served, refused = [], []

    def work(number: int) -> int:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        for _ in range(50):
            pass
        with lock:
            now -= 1
        if number % 7 == 0:
            raise ValueError
        return number

    wrapped = policy.wrap(work)

    def many(seed: int) -> None:
        for number in range(300):
            try:
                served.append(wrapped(number))
            except ValueError:
                served.append(number)
            except ThrottledError:
                refused.append(number)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(served) + len(refused) == 8 * 300
    assert served
    assert peak <= 3
    assert policy.in_flight == 0
    assert policy.status()["refused"] == len(refused)
