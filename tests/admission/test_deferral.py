"""Calls that may be late wait for a calmer time, and no longer than they may."""

from __future__ import annotations

import pytest

from client.forms import World
from tierllm import Admission, Deployment, ResultCache, Tier
from tierllm.events import CallDeferred
from tierllm.testing import FakeProvider


def crowded(size: int = 4, *, call_s: float = 1.0, **settings: object) -> World:
    fake = FakeProvider(latency_s=call_s)
    more = {name: settings.pop(name) for name in tuple(settings) if name in ("cache",)}
    admission = Admission(max_concurrency=size, **settings)  # type: ignore[arg-type]
    return World(
        [Tier("gold", [Deployment("m", fake)], admission=admission)], fake=fake, timeouts=None, **more
    )


def busy(world: World, until_s: float, per_s: float = 3.5) -> None:
    """So many calls of a second each begin in each second until then, evenly."""
    for number in range(int(until_s * per_s)):
        world.time.at(number / per_s, lambda n=number: world.begin(f"other {n}", cache="off"))  # type: ignore[misc]
    world.pass_s(1.0)


def test_a_call_that_may_be_late_waits_for_calm() -> None:
    world = crowded()
    busy(world, 5.0)
    job = world.begin("job", defer_ok=True)
    quick = world.begin("quick", cache="off")
    world.pass_s(9.0)
    assert quick.took_s < 1.5
    assert job.ok.text
    assert job.took_s >= 4.0
    assert [type(e) for e in world.told(CallDeferred)] == [CallDeferred]
    assert job.ok.trace is not None
    assert [w.kind for w in job.ok.trace.waits] == ["deferred"]


def test_where_it_is_calm_nothing_is_put_off() -> None:
    world = crowded()
    assert world.call("job", defer_ok=True).took_s == 1.0


def test_a_deferred_call_stands_in_line_before_its_deadline() -> None:
    world = crowded(size=2)
    busy(world, 60.0, per_s=1.9)
    job = world.begin("job", defer_ok=True, deadline_s=20)
    world.pass_s(65.0)
    assert job.error is None
    assert 5 < job.took_s < 20
    assert job.ok.trace is not None
    assert {w.kind for w in job.ok.trace.waits} <= {"deferred", "pool"}


def test_without_a_deadline_it_is_put_off_for_so_long_at_most() -> None:
    world = crowded(size=2, max_defer_s=10)
    busy(world, 40.0, per_s=1.9)
    job = world.begin("job", defer_ok=True)
    world.pass_s(45.0)
    assert job.error is None
    assert 10 <= job.took_s < 15


def test_those_put_off_are_bounded_like_those_in_line() -> None:
    world = crowded(size=1, max_waiting=2)
    world.begin("first")
    jobs = [world.begin(f"job {n}", defer_ok=True) for n in range(5)]
    assert [job.kind for job in jobs if job.ends] == ["ThrottledError"] * 3
    assert all(job.error.retry_after_s for job in jobs if job.error is not None)  # type: ignore[attr-defined]
    world.pass_s(20)
    assert all(job.ends == 1 for job in jobs)


@pytest.mark.parametrize("hasty", [False, True])
def test_somebody_in_a_hurry_does_not_wait_with_an_identical_call(hasty: bool) -> None:
    world = crowded(size=4, cache=ResultCache(ttl_s=60))
    busy(world, 8.0)
    job = world.begin("same", defer_ok=True)
    world.pass_s(0.5)
    twin = world.begin("same", defer_ok=not hasty, priority=5)
    world.pass_s(15.0)
    assert (twin.took_s < 2.0) == hasty
    assert job.ok.text == twin.ok.text


def test_a_handle_tells_when_it_will_probably_begin() -> None:
    world = crowded(size=2)
    busy(world, 10.0, per_s=1.9)
    world.begin("job", defer_ok=True, deadline_s=100)
    [listed] = [each for each in world.client.queued() if each.deferred]
    assert listed.eta_s is not None
    assert 0 <= listed.eta_s <= 100
    listed.cancel()
    world.pass_s(15.0)
    assert world.client.queued() == []
