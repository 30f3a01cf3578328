"""What every store does alike."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.ground import FAR, eventually, line, standing, used
from tierllm.errors import ConfigError
from tierllm.events import Event, StoreTrouble
from tierllm.stores import Hold, Line, Settlement, Standing, Store

ODD_NAMES = ["", "a b", "naïve/ユーザ", "{x}:y", "\ud800", "a\nb\0c", "x" * 5000, "*", "%s'\""]


def settle(store: Store, hold: Hold, *amounts: int) -> None:
    store.apply([Settlement(hold, amounts, tuple(each.slot for each in hold.lines))])


def test_a_reservation_and_its_settlement(store: Store) -> None:
    hold = store.hold([line("u", 30, 100), line("all", 30, 1000)])
    verdict = store.reserve(hold)
    assert verdict == (True, (Standing(0, 0), Standing(0, 0)))
    assert standing(store, "u") == Standing(0, 30)
    settle(store, hold, 12, 13)
    assert standing(store, "u") == Standing(12, 0, 0)
    assert standing(store, "all") == Standing(13, 0, 0)
    assert store.reserve(store.hold([line("u", 1, 100)])).standings == (Standing(12, 0, 0),)


def test_a_limit_is_reached_but_not_passed(store: Store) -> None:
    used(store, [line("u", 40, 100)], [40])
    assert store.reserve(store.hold([line("u", 60, 100)])).ok
    refused = store.reserve(store.hold([line("u", 1, 100)]))
    assert refused == (False, (Standing(40, 60, 0),))
    assert store.reserve(store.hold([line("u", 0, 100)])).ok
    assert store.reserve(store.hold([line("u", 10**6, None)])).ok


def test_a_limit_of_zero_lets_nothing_pass(store: Store) -> None:
    assert not store.reserve(store.hold([line("u", 1, 0)])).ok
    assert store.reserve(store.hold([line("u", 0, 0)])).ok
    assert standing(store, "u") == Standing(0, 0)


def test_all_lines_or_none(store: Store) -> None:
    hold = store.hold([line("a", 5, 10), line("b", 5, 4), line("c", 5, 10)])
    assert not store.reserve(hold).ok
    assert store.standings(hold.lines) == (Standing(0, 0),) * 3
    settle(store, hold, 5, 5, 5)
    assert store.standings(hold.lines) == (Standing(0, 0),) * 3


def test_a_hold_without_lines(store: Store) -> None:
    hold = store.hold([])
    assert store.reserve(hold) == (True, ())
    settle(store, hold)


def test_more_may_be_used_than_was_reserved(store: Store) -> None:
    used(store, [line("u", 10, 10)], [25])
    assert standing(store, "u") == Standing(25, 0, 0)
    assert not store.reserve(store.hold([line("u", 0, 10)])).ok


def test_a_settlement_counts_once(store: Store) -> None:
    hold = store.hold([line("u", 10)])
    store.reserve(hold)
    for _ in range(3):
        settle(store, hold, 7)
    batch = [Settlement(hold, (7,), (0,))] * 2
    store.apply(batch)
    assert standing(store, "u") == Standing(7, 0, 0)


def test_a_reservation_counts_once(store: Store) -> None:
    hold = store.hold([line("u", 10, 15)])
    assert store.reserve(hold).ok
    assert store.reserve(hold).ok
    assert standing(store, "u") == Standing(0, 10)


@pytest.mark.parametrize("amount", [0, 5])
def test_what_was_never_reserved_is_not_settled(store: Store, amount: int) -> None:
    hold = store.hold([line("u", 10)])
    settle(store, hold, amount)
    assert standing(store, "u") == Standing(0, 0)
    assert not store.reserve(hold).ok  # it comes late: its end has overtaken it
    assert standing(store, "u") == Standing(0, 0)


def test_a_hold_given_back_twice(store: Store) -> None:
    hold = store.hold([line("u", 10)])
    store.reserve(hold)
    store.give_back(hold)
    store.give_back(hold)
    assert store.flush()
    store.give_back(hold)
    assert store.flush()
    assert standing(store, "u") == Standing(0, 0)
    assert not store.outbox


def test_slots_that_are_over_do_not_count(store: Store) -> None:
    for slot in (5, 6, 9):
        used(store, [line("u", 10, None, slot)], [slot])
    assert standing(store, "u", 0) == Standing(20, 0, 5)
    assert standing(store, "u", 6) == Standing(15, 0, 6)
    assert standing(store, "u", 7) == Standing(9, 0, 9)
    assert standing(store, "u", 10) == Standing(0, 0)
    assert standing(store, "u", 5) == Standing(20, 0, 5)  # a clock was set back
    assert not store.reserve(store.hold([line("u", 6, 20, 9, 6)])).ok
    assert store.reserve(store.hold([line("u", 5, 20, 9, 6)])).ok


def test_a_settlement_falls_into_its_own_slot(store: Store) -> None:
    hold = store.hold([line("u", 10, None, 3)])
    store.reserve(hold)
    store.apply([Settlement(hold, (10,), (4,))])
    assert standing(store, "u", 4) == Standing(10, 0, 4)


def test_old_slots_are_dropped_in_the_end(store: Store) -> None:
    many = [store.hold([line("u", 1, None, slot, max(0, slot - 5))]) for slot in range(600)]
    for hold in many:
        store.reserve(hold)
    store.apply([Settlement(hold, (1,), (hold.lines[0].slot,)) for hold in many])
    assert standing(store, "u", 595) == Standing(5, 0, 595)
    assert standing(store, "u").settled < 600


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name[:8]))
def test_any_name_will_do(store: Store, name: str) -> None:
    used(store, [line(name, 3), line(f"{name}x", 3)], [1, 2])
    assert (standing(store, name).settled, standing(store, f"{name}x").settled) == (1, 2)
    assert store.swap(name, b"x", None)
    assert store.load(name) == b"x"


def test_large_amounts_are_exact(store: Store) -> None:
    most = 2**53 - 1
    used(store, [line("u", most - 1, most)], [most - 1])
    assert standing(store, "u").settled == most - 1
    assert not store.reserve(store.hold([line("u", 2, most)])).ok
    assert not store.reserve(store.hold([line("u", most, most)])).ok
    assert store.reserve(store.hold([line("u", 1, most)])).ok
    assert standing(store, "u") == Standing(most - 1, 1, 0)


def test_amounts_beyond_exactness_are_refused(store: Store) -> None:
    if not store.shared:
        pytest.skip("Python's own integers have no end")
    for each in (line("u", 2**53), line("u", 1, 2**53), line("u", -1)):
        with pytest.raises(ConfigError, match="counts from 0"):
            store.reserve(store.hold([each]))
    used(store, [line("u", 1)], [2**60])
    assert standing(store, "u").settled == 2**53 - 1


@pytest.mark.parametrize(
    "wrong",
    [(1.5, None), (1, 1.5), (Decimal(1), None), ("1", None), (None, None), (1, "2"), (1, None, 0.5)],
    ids=str,
)
def test_only_whole_numbers_are_held(store: Store, wrong: tuple[Any, ...]) -> None:
    amount, limit, slot = (*wrong, 0)[:3]
    with pytest.raises(ConfigError, match="whole numbers"):
        store.hold([line("u", 1), Line("v", amount, limit, FAR, slot)])


WRONG_ENDS: list[tuple[Any, Any]] = [
    ((1,), (0, 0)),
    ((1, 2, 3), (0, 0, 0)),
    ((1.5, 2), (0, 0)),
    ((1, Decimal(2)), (0, 0)),
    (("1", 2), (0, 0)),
    ((None, 2), (0, 0)),
    ((1, 2), (0, 0.5)),
    (7, 0),
]


@pytest.mark.parametrize("wrong", WRONG_ENDS, ids=str)
def test_a_settlement_that_makes_no_sense_books_what_was_reserved(
    store: Store, wrong: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It must neither block the others nor make an account unreadable, nor be free."""
    used(store, [line("u", 100)], [100])
    good, bad = store.hold([line("u", 5)]), store.hold([line("u", 7), line("v", 8)])
    assert store.reserve(good).ok
    assert store.reserve(bad).ok
    store.post(Settlement(bad, *wrong))
    store.post(Settlement(good, (5,), (0,)))
    assert store.flush()
    assert not store.outbox
    assert standing(store, "u") == Standing(112, 0, 0)
    assert standing(store, "v") == Standing(8, 0, 0)
    assert "booked as what was reserved" in caplog.text


def test_a_settlement_that_cannot_be_applied_is_given_up_alone(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Event] = []
    store.listen(told.append)
    holds = [store.hold([line("u", 1)]) for _ in range(9)]
    for hold in holds:
        assert store.reserve(hold).ok
    apply = store.apply

    def picky(batch: Sequence[Settlement]) -> None:
        if any(each.hold is holds[4] for each in batch):
            raise ZeroDivisionError
        apply(batch)

    store.apply = picky  # type: ignore[method-assign]
    store.outbox.extend(Settlement(hold, (1,), (0,)) for hold in holds)
    assert Store.flush(store)
    assert not store.outbox
    assert standing(store, "u") == Standing(8, 1, 0)
    (event,) = told
    assert isinstance(event, StoreTrouble)
    assert holds[4].id in event.text
    assert store._alone == 0


def test_listeners_come_and_go_and_may_fail(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first: list[Event] = []
    second: list[Event] = []
    heard, also = first.append, second.append
    news = StoreTrouble(store="s", ok=False, text="t")

    def failing(_: Event) -> None:
        raise ZeroDivisionError

    for each in (failing, heard, heard, also):
        store.listen(each)
    store.tell(news)
    store.unlisten(also)
    store.tell(news)
    assert (first, second) == ([news] * 2, [news])
    assert caplog.text.count("a listener failed") == 2
    store.emit = also
    store.tell(news)
    assert store.emit == also
    store.emit = None
    store.tell(news)
    assert store.emit is None
    assert (len(first), len(second)) == (2, 2)


def test_accounts_without_an_end(store: Store) -> None:
    for account, expires_at in (("forever", math.inf), ("over", 0.0)):
        each = Line(account, 5, 10, expires_at)
        used(store, [each], [5])
        assert standing(store, account).settled == 5


def test_the_outbox_is_emptied_by_whoever_flushes(store: Store) -> None:
    holds = [store.hold([line("u", 1)]) for _ in range(1200)]
    for hold in holds:
        assert store.reserve(hold).ok
        store.post(Settlement(hold, (1,), (0,)))
    threads = [threading.Thread(target=store.flush) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.flush()
    assert standing(store, "u") == Standing(1200, 0, 0)


async def test_native_async_forms_do_the_same(store: Store) -> None:
    if store.areserve is None or store.aflush is None or store.astandings is None:
        assert store.inline or type(store).__name__ == "DiskStore"
        return
    lines = [line("u", 2, 100)]

    async def one() -> bool:
        assert store.areserve is not None
        hold = store.hold(lines)
        verdict = await store.areserve(hold)
        if verdict.ok:
            store.post(Settlement(hold, (2,), (0,)))
        return verdict.ok

    assert sum(await asyncio.gather(*(one() for _ in range(60)))) == 50
    assert await store.aflush()
    assert await store.aflush()
    assert await store.astandings(lines) == (Standing(100, 0, 0),)
    await store.aclose()


# -- documents -------------------------------------------------------------------


def test_a_document_is_changed_by_comparing_first(store: Store) -> None:
    assert store.load("d") is None
    assert not store.swap("d", b"1", b"0")
    assert store.swap("d", b"1", None)
    assert not store.swap("d", b"2", None)
    assert not store.swap("d", b"2", b"0")
    assert store.swap("d", b"\xff\x00" * 20_000, b"1")
    assert store.load("d") == b"\xff\x00" * 20_000
    assert store.swap("d", b"", store.load("d"))
    assert store.load("d") == b""
    assert not store.swap("d", b"x", None)


def test_a_document_lives_as_long_as_it_should(store: Store) -> None:
    assert store.swap("d", b"1", None, ttl_s=0.05)
    assert store.swap("e", b"1", None, ttl_s=3600)
    eventually(lambda: store.load("d") is None)
    assert store.swap("d", b"2", None)
    assert store.load("e") == b"1"


def test_documents_and_accounts_do_not_meet(store: Store) -> None:
    used(store, [line("x", 1)], [1])
    assert store.load("x") is None
    assert store.swap("x", b"1", None)
    assert standing(store, "x") == Standing(1, 0, 0)


# -- against a plain model -------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "settle", "again", "look"]),
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.sampled_from([None, 0, 50, 90])),
            min_size=1,
            max_size=3,
            unique_by=lambda each: each[0],
        ),
        st.integers(0, 2**30),
    ),
    max_size=40,
)


class Model:
    """Accounts as one would write them down: every settled amount with its slot, every open hold."""

    def __init__(self) -> None:
        self.settled: list[tuple[str, int, int]] = []
        self.open: dict[str, Hold] = {}

    def standing(self, account: str, oldest: int) -> Standing:
        live = [(slot, n) for name, slot, n in self.settled if name == account and slot >= oldest and n]
        reserved = sum(x.amount for hold in self.open.values() for x in hold.lines if x.account == account)
        return Standing(sum(n for _, n in live), reserved, min((slot for slot, _ in live), default=None))

    def reserve(self, hold: Hold) -> tuple[bool, tuple[Standing, ...]]:
        standings = tuple(self.standing(x.account, x.oldest) for x in hold.lines)
        ok = all(
            x.limit is None or s.settled + s.reserved + x.amount <= x.limit
            for x, s in zip(hold.lines, standings, strict=True)
        )
        if ok:
            self.open[hold.id] = hold
        return ok, standings

    def settle(self, settlement: Settlement) -> None:
        hold, amounts, slots = settlement
        if self.open.pop(hold.id, None) is not None:
            self.settled += zip((x.account for x in hold.lines), slots, amounts, strict=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS)
def test_any_history_agrees_with_the_model(
    store: Store, history: list[tuple[str, list[tuple[str, int, int | None]], int]]
) -> None:
    model, prefix, done = Model(), os.urandom(8).hex(), []  # one store for all, other accounts in each
    for action, draws, seed in history:
        slot = seed % 7
        if action == "reserve":
            hold = store.hold([Line(prefix + a, n, limit, FAR, slot, slot - 3) for a, n, limit in draws])
            verdict = store.reserve(hold)
            assert verdict == model.reserve(hold)
        elif action == "settle" and model.open:
            hold = model.open[sorted(model.open)[seed % len(model.open)]]
            amounts = tuple((seed >> 3) % (x.amount + 20) for x in hold.lines)
            done.append(Settlement(hold, amounts, (slot,) * len(amounts)))
            store.post(done[-1])
            assert store.flush()
            model.settle(done[-1])
        elif action == "again" and done:
            store.apply([done[seed % len(done)]])
        lines = [Line(prefix + a, 0, None, FAR, slot, slot - 3) for a in "abc"]
        assert store.standings(lines) == tuple(model.standing(x.account, x.oldest) for x in lines)
