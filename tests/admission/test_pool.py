"""The pool's promise: never more in use than its size, and everything back in the end."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from admission.interrupts import interrupted_at
from tierllm.admission import line as line_module
from tierllm.admission import pool as pool_module
from tierllm.admission.pool import Permit, Pool
from tierllm.errors import ConfigError
from tierllm.pipeline import effects as effects_module
from tierllm.pipeline.effects import Ticket


def waiter(pool: Pool, woken: list[int] | None = None, alive: bool = True) -> Ticket:
    def wake() -> bool:
        if woken is not None:
            woken.append(1)
        return alive

    ticket = Ticket(wake)
    pool.enter(ticket)
    return ticket


def taken(pool: Pool) -> Permit:
    permit = pool.take([])
    assert permit is not None
    return permit


def test_a_pool_needs_room_for_one() -> None:
    with pytest.raises(ConfigError):
        Pool(0)


def test_permits_are_counted_and_released_once() -> None:
    pool = Pool(2)
    first, second = taken(pool), taken(pool)
    assert pool.take([]) is None
    assert (pool.in_use, pool.peak) == (2, 2)
    first.release()
    first.release()
    assert pool.in_use == 1
    with second:
        pass
    assert pool.in_use == 0


def test_a_released_permit_goes_to_who_came_first() -> None:
    pool = Pool(1)
    permit = taken(pool)
    tickets = [waiter(pool) for _ in range(3)]
    for ticket in tickets:
        assert ticket.grant is None
        permit.release()
        assert isinstance(ticket.grant, Permit)
        permit = ticket.grant
    permit.release()
    assert (pool.in_use, pool.waiting, pool.peak) == (0, 0, 1)


def test_a_newcomer_does_not_overtake() -> None:
    pool = Pool(1)
    permit = taken(pool)
    waiter(pool)
    permit.release()
    assert pool.take([]) is None


def test_an_empty_pool_grants_at_once() -> None:
    pool = Pool(1)
    ticket = Ticket(lambda: True)
    assert pool.enter(ticket)
    assert pool.in_use == 1


def test_whoever_leaves_passes_on_what_came_in_the_same_moment() -> None:
    pool = Pool(1)
    permit = taken(pool)
    leaver, stayer = waiter(pool), waiter(pool)
    permit.release()
    pool.leave(leaver)
    assert stayer.grant is not None
    pool.leave(leaver)  # twice is harmless
    assert pool.in_use == 1


def test_whoever_leaves_the_queue_is_not_served() -> None:
    pool = Pool(1)
    permit = taken(pool)
    leaver, stayer = waiter(pool), waiter(pool)
    pool.leave(leaver)
    permit.release()
    assert leaver.grant is None
    assert stayer.grant is not None


def test_a_waiter_nobody_can_wake_is_skipped() -> None:
    pool = Pool(1)
    permit = taken(pool)
    dead, living = waiter(pool, alive=False), waiter(pool)
    permit.release()
    assert dead.grant is None
    assert living.grant is not None
    assert (pool.in_use, pool.waiting) == (1, 0)


def test_full_says_whether_a_newcomer_would_be_refused() -> None:
    pool = Pool(1, max_waiting=1)
    assert not pool.full
    taken(pool)
    assert not pool.full
    waiter(pool)
    assert pool.full


def test_after_a_fork_the_pool_is_empty() -> None:
    pool = Pool(1)
    taken(pool)
    waiter(pool)
    pool.renew()
    assert (pool.in_use, pool.waiting) == (0, 0)
    assert taken(pool)


def test_a_flow_that_the_collector_ends_inside_the_pool_does_not_deadlock() -> None:
    """Garbage collection may run anywhere, also while this thread holds the pool's lock."""
    pool = Pool(1)
    permit = taken(pool)

    def wake() -> bool:
        pool.leave(other)
        return True

    ticket = Ticket(wake)
    pool.enter(ticket)
    other = waiter(pool)
    thread = threading.Thread(target=permit.release, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert ticket.grant is not None
    assert (pool.in_use, pool.waiting) == (1, 0)


FILES = {pool_module.__file__, line_module.__file__, effects_module.__file__}


def unlocked(pool: Pool) -> None:
    """No signal is taken between the end of a ``with`` and the release of its lock; the tracer does."""
    while pool._lock.lock._is_owned():  # type: ignore[attr-defined]
        pool._lock.lock.release()


def test_an_interrupt_at_any_bytecode_of_a_release_loses_nobody() -> None:
    for alive in (True, False):
        step, struck = 0, True
        while struck:
            pool, woken = Pool(1), list[int]()
            permit = taken(pool)
            first, second = waiter(pool, alive=alive), waiter(pool, woken)
            struck = interrupted_at(step, permit.release, FILES)
            unlocked(pool)
            permit.release()  # as each run does at its end
            if alive:
                assert first.grant is not None, step
                first.grant.release()
            assert second.grant is not None, step
            assert woken, step
            second.grant.release()
            assert (pool.in_use, pool.waiting, pool.peak) == (0, 0, 1), step
            step += 1
        assert step > 20


def test_an_interrupt_at_any_bytecode_of_taking_admits_nobody_too_many() -> None:
    step, struck = 0, True
    while struck:
        pool, owner = Pool(1), list[Any]()
        struck = interrupted_at(step, lambda pool=pool, owner=owner: pool.take(owner), FILES)  # type: ignore[misc]
        unlocked(pool)
        for permit in owner:
            permit.release()
        assert pool.in_use == 0, step
        step += 1
    assert step > 10


def test_an_interrupt_at_any_bytecode_of_queueing_is_cleaned_up_by_leaving() -> None:
    for free in (True, False):
        step, struck = 0, True
        while struck:
            pool = Pool(1)
            permit = taken(pool)
            if free:
                permit.release()
            ticket = Ticket(lambda: True)
            struck = interrupted_at(step, lambda p=pool, t=ticket: p.enter(t), FILES)  # type: ignore[misc]
            unlocked(pool)
            pool.leave(ticket)
            permit.release()
            assert (pool.in_use, pool.waiting) == (0, 0), step
            step += 1


def test_many_threads_never_exceed_the_size() -> None:
    pool, over = Pool(3), []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(150):
            event = threading.Event()
            ticket = Ticket(lambda event=event: event.set() or True)  # type: ignore[misc]
            permit = pool.take([])
            if permit is None:
                if not pool.enter(ticket) and not event.wait(rng.choice([0.0, 0.0005, 5])):
                    pool.leave(ticket)
                    continue
                permit = ticket.grant
            if pool.in_use > 3:
                over.append(pool.in_use)
            permit.release()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not over
    assert (pool.in_use, pool.waiting) == (0, 0)
    assert pool.peak <= 3
