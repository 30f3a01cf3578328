"""Reloading while many threads call: nothing fails, nothing is mixed, nothing is lost or left behind."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections import Counter
from pathlib import Path

import pytest

from client.reloads import PRICED, Filed, Gate, tier, toml
from tierllm import BudgetExceededError, TierLLMError
from tierllm.events import BudgetOverrun, CallSettled, ConfigReloaded
from tierllm.routing.decision_rows import read_decisions
from tierllm.testing import FakeProvider

FLIPS = 200
THREADS = 6


def setting(name: str, *, hard: int, size: int, seed: int = 0, store: str = "") -> str:
    """One of two configurations whose every setting tells which it is."""
    return toml(
        tier(
            "gold",
            f"max_tokens = {100 if name == 'one' else 200}",
            f'prompt = "{name}"',
            f"max_concurrency = {size}",
            "max_waiting = 100",
            models=(f"{name}-a", f"{name}-b"),
            deployment=f"{PRICED}\nrpm = 1_000_000",
        ),
        tier("silver", "max_concurrency = 2", models=("same",), deployment=PRICED),
        f'[[budgets]]\nhard_calls = {hard}\nname = "all"\n',
        f"[plans.{name}]\nmax_priority = 3",
        store,
    ).replace('kind = "fake"', f'kind = "fake"\nseed = {seed}', 1)


@pytest.mark.parametrize("kept_in", ["memory", "disk"])
def test_two_hundred_flips(tmp_path: Path, kept_in: str) -> None:
    store = "" if kept_in == "memory" else f'[store]\nkind = "disk"\ndirectory = "{tmp_path / "state"}"'
    flips = FLIPS if kept_in == "memory" else 40
    one = setting("one", hard=10**6, size=2, store=store)
    two = setting("two", hard=10**6 + 1, size=4, seed=7, store=store)
    filed = Filed(tmp_path / "tierllm.toml", one)
    client, failures, mixed, done = filed.client, [], [], Counter[str]()
    over = threading.Event()
    setups: list[weakref.ref[object]] = []
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()

    def calling(number: int) -> None:
        called = 0
        while not over.is_set():
            called += 1
            try:
                sla = "silver" if called % 5 == 0 else "gold"
                answer = client.complete(f"{number}/{called}", sla=sla, user=f"u{called % 7}")
            except TierLLMError as error:
                failures.append(error)
                continue
            trace = answer.trace
            assert trace is not None
            done[str(trace.config)] += 1
            model = str(answer.model)
            if sla == "gold" and hashes[model[:3]] != trace.config:
                mixed.append((model, trace.config))

    from tierllm.config import Config

    hashes: dict[str, str] = {}
    for text in (two, one):
        filed.write(text)
        hashes["one" if text is one else "two"] = Config.load(filed.path).digest
    workers = [threading.Thread(target=calling, args=(n,)) for n in range(THREADS)]
    for worker in workers:
        worker.start()
    for flip in range(flips):
        setups.append(weakref.ref(client._setup))
        filed.become(two if flip % 2 == 0 else one)
    over.set()
    for worker in workers:
        worker.join(30)
    assert not failures
    assert not mixed
    assert len(filed.heard(ConfigReloaded)) == flips
    assert set(done) == set(hashes.values())
    # money: each call is booked once
    called = sum(done.values())
    (left,) = client.remaining()
    assert (left.used, left.reserved) == (called, 0)
    assert len(filed.heard(CallSettled)) == called
    assert not filed.heard(BudgetOverrun)
    # permits: none is held
    for line in client._setup.lines.values():
        assert line.pool is not None
        assert (line.pool.in_use, line.pool.waiting) == (0, 0)
    assert len(client._ground.host.live) == 0
    # nothing is left of those that were
    gc.collect()
    assert sum(ref() is not None for ref in setups) <= 1
    origin = client._origin
    assert origin is not None
    until = time.monotonic() + 10
    while origin.retiring and time.monotonic() < until:
        threading.Event().wait(0.01)
        gc.collect()
    assert not origin.retiring
    assert threading.active_count() <= threads + 8  # those that do short I/O
    assert len(os.listdir("/proc/self/fd")) <= fds + 8
    client.close()


def everything(number: int) -> str:
    """A configuration of which nearly every table is there, and is another for another number."""
    return toml(
        tier(
            "gold",
            f"max_tokens = {100 + number}",
            f"max_concurrency = {2 + number}",
            "max_waiting = 100",
            "objective = {latency_p95_s = 3.0}",
            f"shift = {{burn = {6 + number}}}",
            f"hedge = {{min_samples = {5 + number}}}",
            f"admission = {{weights = {{acme = {1 + number}}}, age_s = {5 + number}}}",
            'choose = "cheapest"',
            models=("a", f"b{number}"),
            deployment=f"{PRICED}\nadaptive = {{start = {20 + number}}}\nrpm = {10**6 + number}",
        ),
        tier("silver", "max_concurrency = 4", models=("same",), deployment=PRICED),
        f'[[budgets]]\nhard_calls = {10**6 + number}\nname = "all"',
        f"[plans.free]\nhigh_priority = 5\nhigh_priority_quota = {100 + number}",
        f'[contracts.acme]\ntenants = ["acme"]\nrpm = {10**6 + number}',
        f'[[rules]]\nname = "r{number}"\nimportance = "high"\nmin_tier = "gold"',
        f'[router]\nscorer = "learned"\nbalance = 0.{3 + number}',
        f"[sessions]\nttl_s = {60 + number}",
        f'[cascade]\njudge = {{kind = "format", min_chars = {1 + number}}}',
        f'[shadow]\nto = "silver"\nshare = 0.1\nhard_usd = {1 + number}\njudge = "format"',
        f'[decisions]\npath = "d.jsonl"\nkeep = {3 + number}',
    )


def test_everything_at_once(tmp_path: Path) -> None:
    filed = Filed(tmp_path / "tierllm.toml", everything(0))
    client, failures, over = filed.client, [], threading.Event()
    answered = Counter[str]()
    rules = Counter[str]()

    def calling(number: int) -> None:
        called = 0
        while not over.is_set():
            called += 1
            important = called % 3 == 0
            try:
                answer = client.complete(
                    f"What is {called} and {number}?",
                    session=f"s{called % 11}",
                    tenant="acme" if called % 2 else None,
                    plan="free",
                    priority=called % 7,
                    importance="high" if important else None,
                )
            except BaseException as error:
                failures.append(error)
                continue
            trace = answer.trace
            assert trace is not None
            answered[str(trace.config)] += 1
            if important:
                rules[f"{trace.rule} {trace.config}"] += 1
            if called % 4 == 0:
                client.feedback(trace.id, 1.0)

    workers = [threading.Thread(target=calling, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for flip in range(24):
        filed.become(everything(1 - flip % 2))
        threading.Event().wait(0.005)
        client.status()
    over.set()
    for worker in workers:
        worker.join(30)
    assert not failures
    assert len(answered) == 2
    assert len(rules) == 2  # each rule goes with the configuration that it stands in
    for line in client._setup.lines.values():
        assert line.pool is not None
        assert (line.pool.in_use, line.pool.waiting) == (0, 0)
        for place in line.lines:
            assert place.adaptive is None or place.adaptive.in_flight == 0
    client.close()
    assert sum(1 for _ in read_decisions(tmp_path / "d.jsonl")) == sum(answered.values())


def test_a_pool_never_holds_more_than_the_largest_that_held(tmp_path: Path) -> None:
    """In flight stays within the size of the moment, or falls towards it."""
    gate = Gate()
    fake = FakeProvider(latency_s=0.002)

    def sized(size: int) -> str:
        return toml(tier("gold", f"max_concurrency = {size}", "max_waiting = 100"))

    filed = Filed(tmp_path / "tierllm.toml", sized(5), providers={"fake": fake})
    client, over = filed.client, threading.Event()
    failures: list[BaseException] = []

    def calling() -> None:
        while not over.is_set():
            try:
                client.complete("hi")
            except BaseException as error:
                failures.append(error)
                return

    workers = [threading.Thread(target=calling) for _ in range(8)]
    for worker in workers:
        worker.start()
    pool = client._setup.lines["gold"].pool
    assert pool is not None
    for size in (1, 4, 2, 5, 1, 3) * 4:
        filed.become(sized(size))
        before = pool.in_use
        assert client._setup.lines["gold"].pool is pool
        for _ in range(50):
            now = pool.in_use
            assert now <= max(before, size)
            before = max(now, size)
    over.set()
    for worker in workers:
        worker.join(30)
    assert not failures
    assert fake.peak_in_flight <= 5
    assert pool.in_use == 0
    gate.open()
    client.close()


def test_a_hard_limit_holds_exactly_while_it_moves(tmp_path: Path) -> None:
    """As many calls as the last limit allows, however often it was another one in between."""

    def limited(hard: int) -> str:
        budget = f'[[budgets]]\nhard_calls = {hard}\nname = "all"'
        return toml(tier("gold", deployment=PRICED), budget)

    filed = Filed(tmp_path / "tierllm.toml", limited(50))
    client, over = filed.client, threading.Event()
    answered = Counter[str]()

    def calling(name: str) -> None:
        while not over.is_set():
            try:
                client.complete("hi")
                answered[name] += 1
            except BudgetExceededError:
                threading.Event().wait(0.001)

    workers = [threading.Thread(target=calling, args=(str(n),)) for n in range(4)]
    for worker in workers:
        worker.start()
    for hard in (60, 50, 70, 40, 80, 120, 30, 120) * 3:
        filed.become(limited(hard))
    until = time.monotonic() + 20
    while sum(answered.values()) < 120 and time.monotonic() < until:
        threading.Event().wait(0.01)
    over.set()
    for worker in workers:
        worker.join(30)
    assert sum(answered.values()) == 120
    (left,) = client.remaining()
    assert (left.used, left.reserved, left.left) == (120, 0, 0)
    client.close()
