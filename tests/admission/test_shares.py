"""Shares between tenants: what is charged and settled, who is lifted, and the bound."""

from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.lining import place
from tierllm.admission.place import Place
from tierllm.admission.queue import FairQueue
from tierllm.admission.shares import TenantShares
from tierllm.errors import ConfigError


def counter(shares: TenantShares, tenant: str) -> float:
    return shares.account(tenant).counter


def granted(queue: FairQueue, tokens: int | None = None) -> Place:
    """The next one, let through."""
    following = queue.first(0.0)
    assert following is not None
    queue.remove(following)
    queue.shares.charge(following.tenant, following.tokens if tokens is None else tokens, following.weight)
    return following


# -- charging and settling --------------------------------------------------------


def test_a_charge_counts_by_weight_and_is_settled_exactly() -> None:
    shares = TenantShares({"gold": 4.0})
    shares.charge("gold", 1000, 2.0)  # its own weight goes before the call's
    assert counter(shares, "gold") == 250
    shares.settle("gold", 1000, 200, 2.0)
    assert counter(shares, "gold") == 50
    assert shares.account("gold").settled == 50
    shares.charge("other", 1000, 2.0)
    assert counter(shares, "other") == 550, "it passed without waiting: first lifted, then charged"


def test_a_call_that_was_never_made_costs_nothing() -> None:
    shares = TenantShares()
    shares.charge("a", 700)
    shares.settle("a", 700, 0)
    assert counter(shares, "a") == 0


def test_more_than_charged_is_a_debt() -> None:
    shares = TenantShares()
    shares.charge("a", 100)
    shares.settle("a", 100, 250)
    assert counter(shares, "a") == 250


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_weights_are_positive(weight: float) -> None:
    with pytest.raises(ConfigError, match="acme"):
        TenantShares({"acme": weight})


def test_at_least_one_is_remembered() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        TenantShares(most=0)


# -- lifting ----------------------------------------------------------------------


def test_who_comes_back_is_lifted_to_the_smallest_of_those_who_wait() -> None:
    shares = TenantShares()
    queue = FairQueue(shares)
    for n in range(3):
        queue.push(place(n, "busy"))
        queue.push(place(10 + n, "busier"))
    shares.charge("busy", 500)
    shares.settle("busy", 500, 500)
    shares.charge("busier", 900)
    shares.settle("busier", 900, 900)
    queue.push(place(20, "back"))
    assert counter(shares, "back") == 500


def test_what_is_only_estimated_does_not_lift() -> None:
    """Or whoever comes back would wait until the refunds of others are used up."""
    shares = TenantShares()
    queue = FairQueue(shares)
    queue.push(place(1, "busy"))
    shares.charge("busy", 5000)
    queue.push(place(2, "back"))
    assert counter(shares, "back") == 0
    shares.settle("busy", 5000, 1000)
    following = queue.first(0.0)
    assert following is not None
    assert following.tenant == "back"


def test_with_nobody_waiting_the_last_one_to_leave_counts() -> None:
    shares = TenantShares()
    queue = FairQueue(shares)
    queue.push(place(1, "last"))
    granted(queue, 800)
    shares.settle("last", 800, 800)
    queue.push(place(2, "back"))
    assert counter(shares, "back") == 800


def test_a_calm_night_is_no_credit() -> None:
    """What passes without waiting counts as it does in the paper, where all pass through the queue."""
    shares = TenantShares()
    queue = FairQueue(shares)
    for tenant, calls in (("quiet", 1), ("busy", 1000), ("quiet", 1)):
        for _ in range(calls):
            shares.charge(tenant, 100)
            shares.settle(tenant, 100, 100)
    queue.push(place(1, "quiet"))
    queue.push(place(2, "busy"))
    assert abs(counter(shares, "quiet") - counter(shares, "busy")) <= 100


def test_each_priority_has_its_own_floor() -> None:
    """One who starves at a low priority does not let newcomers pass at a high one."""
    shares = TenantShares()
    queue = FairQueue(shares, age_s=None)
    queue.push(place(1, "starved", priority=0))
    queue.push(place(2, "busy", priority=9))
    shares.charge("busy", 10_000)
    shares.settle("busy", 10_000, 10_000)
    queue.push(place(3, "new", priority=9))
    assert counter(shares, "new") == 10_000
    assert counter(shares, "starved") == 0


def test_what_waits_in_another_queue_saves_up_nothing_here() -> None:
    shares = TenantShares()
    line, later = FairQueue(shares), FairQueue(shares)
    later.push(place(1, "patient"))
    line.push(place(2, "busy"))
    shares.charge("busy", 10_000)
    shares.settle("busy", 10_000, 10_000)
    line.push(place(3, "patient"))
    assert counter(shares, "patient") == 10_000
    for queue in (line, later):
        while queue.first(0.0) is not None:
            granted(queue)
    assert shares._waiting == 0


def test_a_refund_brings_a_tenant_forward_at_every_priority() -> None:
    shares = TenantShares()
    queue = FairQueue(shares, age_s=None)
    for n, priority in enumerate((0, 1, 2)):
        queue.push(place(n, "refunded", priority=priority))
        queue.push(place(10 + n, "other", priority=priority))
    shares.charge("other", 100)
    shares.charge("refunded", 1000)
    assert queue.first(0.0) is not None  # its lines now stand where the charge put them
    shares.settle("refunded", 1000, 10)
    order = []
    while (following := queue.first(0.0)) is not None:
        order.append(following.tenant)
        queue.remove(following)
    assert order == ["refunded", "other"] * 3


# -- nobody starves -----------------------------------------------------------------


def test_a_crowd_of_newcomers_does_not_starve_one_who_had_more() -> None:
    shares = TenantShares()
    queue = FairQueue(shares)
    queue.push(place(0, "twice", arrived_at=0.0))
    queue.push(place(1, "twice", arrived_at=0.0))
    for n in range(2, 12):
        queue.push(place(n, f"new{n}"))
    seen: list[int] = []
    for n in range(12, 400):  # for each who goes, one who was never seen before comes
        going = granted(queue)
        shares.settle(going.tenant, going.tokens, going.tokens)
        seen.append(going.number)
        queue.push(place(n, f"new{n}"))
        if {0, 1} <= set(seen):
            break
    assert seen[0] == 0
    assert 1 in seen
    assert 20 < len(seen) < 8 * 11 + 30, "an eighth of an equal share among eleven"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 500)), min_size=4, max_size=60))
def test_in_a_priority_everyone_gets_a_turn(calls: list[tuple[str, int]]) -> None:
    """Between two turns of a tenant that waits, no other has had more than it by more than two calls."""
    shares = TenantShares()
    queue = FairQueue(shares)
    for n in range(40):
        for tenant in "abcd":
            queue.push(place(n, tenant, arrived_at=0.0))
    had = dict.fromkeys("abcd", 0)
    for _, tokens in calls:
        going = granted(queue, tokens)
        shares.settle(going.tenant, tokens, tokens)
        had[going.tenant] += tokens
        assert max(had.values()) - min(had.values()) <= max(t for _, t in calls)


# -- the bound ------------------------------------------------------------------------

CALLS = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 400)), min_size=20, max_size=160)


@settings(max_examples=200, deadline=None)
@given(
    CALLS,
    st.integers(1, 9),
    st.sampled_from([(1.0, 1.0), (1.0, 3.0), (0.5, 2.0)]),
    st.randoms(use_true_random=False),
)
def test_two_that_always_wait_differ_by_no_more_than_the_bound(
    calls: list[tuple[int, int]], size: int, weights: tuple[float, float], rng: object
) -> None:
    """Each call: what it is charged, and what it uses. They end in any order."""
    shares = TenantShares(dict(zip("fg", weights, strict=True)))
    queue = FairQueue(shares)
    for n in range(len(calls)):
        for tenant in "fg":
            queue.push(place(n, tenant, arrived_at=0.0))
    used_most = max(used / w for _, used in calls for w in weights)
    missed_most = max(abs(charged - used) / w for charged, used in calls for w in weights)
    bound = used_most + size * missed_most + 1e-6

    on_their_way: deque[tuple[str, int, int]] = deque()
    ahead = [0.0]
    for charged, used in calls:
        while len(on_their_way) >= size:
            on_their_way.rotate(rng.randrange(size))  # type: ignore[attr-defined]
            shares.settle(*on_their_way.popleft())
        tenant = granted(queue, charged).tenant
        on_their_way.append((tenant, charged, used))
        step = used / shares.weight_of(tenant)
        ahead.append(ahead[-1] + (step if tenant == "f" else -step))
        assert abs(ahead[-1]) <= bound
    assert max(ahead) - min(ahead) <= 2 * bound


def test_with_exact_estimates_they_differ_by_one_call() -> None:
    shares = TenantShares()
    queue = FairQueue(shares)
    for n in range(300):
        queue.push(place(n, "small", tokens=10))
        queue.push(place(n, "large", tokens=1000))
    had = {"small": 0, "large": 0}
    for _ in range(250):
        going = granted(queue)
        had[going.tenant] += going.tokens
        assert abs(had["small"] - had["large"]) <= 1000
    assert had["large"] >= 2000


def test_weights_divide_what_is_served() -> None:
    shares = TenantShares({"three": 3.0})
    queue = FairQueue(shares)
    for n in range(400):
        queue.push(place(n, "one"))
        queue.push(place(n, "three"))
    going = [granted(queue).tenant for _ in range(400)]
    assert going.count("three") == pytest.approx(300, abs=2)


# -- bounded ----------------------------------------------------------------------------


def test_those_who_had_least_are_forgotten() -> None:
    shares = TenantShares(most=100)
    shares.charge("debtor", 1_000_000)
    shares.settle("debtor", 1_000_000, 1_000_000)
    queue = FairQueue(shares)
    queue.push(place(0, "waits"))
    for n in range(5_000):
        shares.account(f"t{n}").counter = n
    assert len(shares.status()) <= 102
    assert {"debtor", "waits", "t4999"} <= set(shares.status())
    assert shares.status()["debtor"] > 900_000


def test_all_who_wait_are_remembered_and_then_forgotten() -> None:
    shares = TenantShares(most=10)
    queue = FairQueue(shares)
    for n in range(1_000):
        queue.push(place(n, f"t{n}"))
    assert len(shares.status()) == 1_000
    while queue.first(0.0) is not None:
        granted(queue)
    assert len(shares.status()) <= 11


def test_settling_for_one_who_was_forgotten() -> None:
    shares = TenantShares(most=1)
    shares.charge("gone", 100)
    for n in range(10):
        shares.charge(f"t{n}", 100)
        shares.settle(f"t{n}", 100, 100)
    assert "gone" not in shares.status()
    shares.settle("gone", 100, 50)  # a refund is worth nothing any more
    assert "gone" not in shares.status()
    shares.settle("gone", 100, 400)  # a debt is
    assert counter(shares, "gone") >= 300


def test_after_a_fork_nothing_is_on_its_way() -> None:
    shares = TenantShares()
    shares.charge("a", 100)
    shares.settle("a", 100, 100)
    shares.charge("a", 900)
    shares.renew()
    assert counter(shares, "a") == 100
