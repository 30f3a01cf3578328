"""The table of who is bound where, and the bound on how often one moves."""

from __future__ import annotations

import gc
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.routing.bindings import HOUR_S, MOST_MOVES, Binding, Bindings, Returns

A, B, C = ("gold", "a"), ("gold", "b"), ("silver", "c")
LEVEL = {"gold": 0, "silver": 1, "bronze": 2}
RETURNS = Returns(after_s=300, up_after_s=30, cache_s=300)


def away(place: tuple[str, str], at: float = 100.0, home: tuple[str, str] = A) -> Binding:
    binding = Binding(home, 0.0)
    assert binding.move(place, "breaker", at, at + RETURNS.wait_s(home, place, LEVEL))
    return binding


# -- the table -------------------------------------------------------------------


def test_who_came_first_is_bound_where_it_was() -> None:
    table = Bindings(10, 60)
    first = table.bind("s1", A, 0)
    assert table.bind("s1", B, 1) is first
    assert table.get("s1", 2) is first
    assert first.place == first.home == A
    assert table.get("s2", 2) is None


def test_a_binding_ends_when_it_was_not_used_for_its_time() -> None:
    table = Bindings(10, 60)
    binding = table.bind("s1", A, 0)
    binding.used_at = 50
    assert table.get("s1", 109.9) is binding
    assert table.get("s1", 110) is None
    assert len(table) == 0
    assert table.bind("s1", B, 110).place == B


def test_a_new_call_binds_anew_where_the_old_time_is_over() -> None:
    table = Bindings(10, 60)
    table.bind("s1", A, 0)
    assert table.bind("s1", B, 60).place == B


def test_those_used_last_are_kept() -> None:
    table = Bindings(3, 1000)
    for number in range(3):
        table.bind(f"s{number}", A, number)
    assert table.get("s0", 5) is not None
    table.bind("s3", A, 6)
    assert table.get("s1", 7) is None
    assert [table.get(f"s{n}", 7) is not None for n in (0, 2, 3)] == [True, True, True]
    assert (len(table), table.evicted) == (3, 1)


def test_what_is_over_goes_without_being_asked_for() -> None:
    table = Bindings(100, 60)
    for number in range(20):
        table.bind(f"old{number}", A, 0)
    for number in range(10):
        table.bind(f"new{number}", A, 100)
    assert len(table) == 10
    assert table.evicted == 0


def test_memory_is_bounded() -> None:
    most = 4_000
    table = Bindings(most, 1e6)
    table.bind("warm", A, 0)
    gc.collect()
    tracemalloc.start()
    seen = []
    for number in range(6 * most):
        table.bind(f"s:tenant\0session-{number:012d}", ("gold", f"place-{number % 7}"), float(number))
        if (number + 1) % most == 0:
            seen.append(tracemalloc.get_traced_memory()[0] / most)
    tracemalloc.stop()
    assert len(table) == most
    assert max(seen) < 400
    assert seen[-1] < 1.05 * seen[2]


def test_names_are_not_kept() -> None:
    table = Bindings(10, 60)
    table.bind("u:acme\0somebody@example.org", A, 0)
    assert not any("somebody" in str(referred) for referred in gc.get_referents(table._rows))


def test_where_they_are() -> None:
    table = Bindings(10, 60)
    table.bind("s1", A, 0)
    table.bind("s2", C, 50)
    table.bind("s3", C, 50)
    assert table.counts(55) == {"gold/a": 1, "silver/c": 2}
    assert table.counts(61) == {"silver/c": 2}


def test_other_bounds_hold_from_then_on() -> None:
    table = Bindings(20, 60)
    for number in range(20):
        table.bind(f"s{number}", A, 0)
    table.resize(4, 10)
    for number in range(20, 26):
        table.bind(f"s{number}", A, 5)
    assert len(table) == 4
    assert table.get("s25", 14) is not None
    assert table.get("s25", 15) is None


def test_threads_agree_on_where_a_session_is() -> None:
    table = Bindings(1000, 60)
    found: list[list[Binding]] = [[] for _ in range(4)]

    def bind(number: int) -> None:
        for session in range(500):
            found[number].append(table.bind(f"s{session}", ("gold", str(number)), 0))

    threads = [threading.Thread(target=bind, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len({id(each) for each in same}) == 1 for same in zip(*found, strict=True))


def test_forgetting() -> None:
    table = Bindings(10, 60)
    table.bind("s1", A, 0)
    assert table.forget("s1")
    assert not table.forget("s1")


def test_in_a_fork_the_table_has_a_lock_of_its_own() -> None:
    table = Bindings(10, 60)
    table.bind("s1", A, 0)
    table._lock.acquire()
    table.renew()
    assert table.get("s1", 1) is not None


# -- what a store told -------------------------------------------------------------


def test_the_one_that_moved_last_holds() -> None:
    table = Bindings(10, 600)
    mine = table.bind("s1", A, 0)
    theirs = away(B, at=40)
    assert table.put("s1", theirs, 50) is mine  # those who hold it hold the news
    assert (mine.place, mine.home, mine.since, mine.why) == (B, A, 40, "breaker")
    assert table.put("s1", away(C, at=30), 60) is mine
    assert mine.place == B
    assert mine.moves == (40,)


def test_moves_of_both_count() -> None:
    table = Bindings(10, 10_000)
    mine = table.bind("s1", A, 0)
    assert table.move(mine, B, "breaker", 10, 10)
    table.put("s1", away(C, at=20), 30)
    assert mine.moves == (10, 20)
    assert not mine.room(3, 30)


def test_what_is_over_already_is_not_taken_in() -> None:
    table = Bindings(10, 60)
    assert table.put("s1", Binding(A, 0.0), 1000) is None
    assert len(table) == 0
    kept = Binding(A, 950.0)
    assert table.put("s1", kept, 1000) is kept


def test_a_new_one_never_drives_itself_out() -> None:
    table = Bindings(1, 60)
    for number in range(3):
        table.bind(f"s{number}", A, number)
        assert table.get(f"s{number}", number) is not None
    over = Binding(A, 0.0)
    assert table.add("late", over, 1000) is over  # and is not looked for in an empty table


# -- bound anew ------------------------------------------------------------------------


def test_bound_anew_is_a_move_like_any_other() -> None:
    binding = Binding(C, 0)
    assert binding.found(A, A, "gold", "", 1, 1)
    assert (binding.home, binding.place, binding.granted, binding.since, binding.moves) == (
        A,
        A,
        "gold",
        1,
        (1,),
    )
    assert binding.found(A, B, "gold", "breaker", 2, 302)  # where it is: nobody has moved
    assert (binding.away, binding.why, binding.back_at, binding.moves) == (True, "breaker", 302, (1,))
    for at in (3, 4, 5):
        assert binding.found([A, B][at % 2], [A, B][at % 2], "gold", "", at, at)
    assert not binding.found(C, C, "gold", "", 6, 6)
    assert binding.place == B


def test_a_home_without_a_name_is_the_place_that_answered() -> None:
    table = Bindings(10, 60)
    binding = Binding(C, 0)
    binding.home = ("gold", "")
    assert table.add("s1", binding, 0) is binding
    table.name_home(binding, A)
    table.name_home(binding, B)
    assert binding.home == A


# -- when one goes home --------------------------------------------------------------


@pytest.mark.parametrize(
    ("home", "place", "used_after_s", "after_s", "due"),
    [
        pytest.param(A, C, 0, 29, False, id="from a lower tier not at once"),
        pytest.param(A, C, 29, 30, True, id="from a lower tier though it is warm"),
        pytest.param(C, A, 0, 299, False, id="from a higher tier later"),
        pytest.param(C, A, 299, 300, True, id="from a higher tier though it is warm"),
        pytest.param(A, B, 0, 299, False, id="in its tier later"),
        pytest.param(A, B, 1, 300, False, id="in its tier not while it is warm"),
        pytest.param(A, B, 0, 300, True, id="in its tier once it is cold"),
        pytest.param(A, B, 2000, 2299, False, id="in its tier never while it is warm"),
    ],
)
def test_the_way_home(
    home: tuple[str, str], place: tuple[str, str], used_after_s: float, after_s: float, due: bool
) -> None:
    binding = away(place, at=100, home=home)
    binding.used_at = 100 + used_after_s
    assert RETURNS.due(binding, 100 + after_s) is due


# -- how often one moves -----------------------------------------------------------------


def test_leaving_takes_the_room_for_coming_home() -> None:
    binding = Binding(A, 0)
    for at in (1, 2):
        assert binding.move(B, "breaker", 10 * at, 0)
        assert binding.move(A, "home", 10 * at + 5, 0)
    assert not binding.move(B, "breaker", 30, 0)
    assert binding.place == A
    assert binding.move(B, "breaker", 25 + HOUR_S - 10, 0)  # the first two are over


def test_home_is_told_without_a_cause() -> None:
    binding = away(B)
    assert (binding.away, binding.why) == (True, "breaker")
    assert binding.move(A, "home", 200, 200)
    assert (binding.away, binding.why, binding.since) == (False, "", 200)


steps = st.lists(
    st.tuples(st.sampled_from(["move", "settle"]), st.sampled_from([A, B, C]), st.floats(0, 2000)),
    max_size=60,
)


@given(steps)
def test_whatever_happens_nobody_moves_more_often_than_that(
    told: list[tuple[str, tuple[str, str], float]],
) -> None:
    table = Bindings(10, 1e9)
    binding = table.bind("s1", A, 0)
    now, moved = 0.0, []
    for what, place, wait_s in told:
        now += wait_s
        before = binding.place
        if what == "move":
            table.move(binding, place, "breaker", now, now)
        else:
            table.settle(binding, place, now)
        if binding.place != before:
            moved.append(now)
        assert not binding.away or binding.room(1, now)  # who may move no more is at home
    for first, at in enumerate(moved):
        assert sum(1 for other in moved[first:] if other - at < HOUR_S) <= MOST_MOVES
