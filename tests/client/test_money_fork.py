"""A fork must not double what may be spent."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tierllm import Budget, Deployment, Price, Tier, TieredClient, UsageLedger
from tierllm.stores import DiskStore, MemoryStore
from tierllm.testing import FakeProvider

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def client(*budgets: Budget, **settings: Any) -> TieredClient:
    return TieredClient(
        [Tier("gold", [Deployment("g", FakeProvider(), price=PRICE)])], budgets=budgets, **settings
    )


def in_child(what: Callable[[], object]) -> str:
    """What came of ``what`` in a forked child: ``repr`` of its answer or of its error."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests
        pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        try:
            said = repr(what())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        said = told.read()
    os.waitpid(pid, 0)
    return said


def test_a_hard_budget_in_memory_is_refused_in_the_child() -> None:
    made = client(Budget(hard_calls=2))
    made.complete("Hi")
    said = in_child(lambda: made.complete("Hi"))
    assert said.startswith(
        "UsageError: this process was forked, and a hard budget in memory would count twice"
    )
    assert 'give the client a DiskStore or a RedisStore, or the budget scope="process"' in said
    made.complete("Hi")  # the parent goes on


@pytest.mark.parametrize(
    "budget",
    [
        Budget(hard_calls=2, scope="process"),
        Budget(soft_calls=1),
        Budget(hard_calls=1, mode="observe"),
        Budget(hard_calls=1, per="call"),
    ],
    ids=["scope", "soft", "observe", "call"],
)
def test_others_go_on(budget: Budget) -> None:
    made = client(budget)
    assert in_child(lambda: made.complete("Hi").tier) == "'gold'"


def test_a_child_goes_on_from_what_the_parent_had_spent_and_holds_nothing_of_its() -> None:
    made = client(Budget(hard_calls=3, scope="process"))
    made.complete("Hi")
    with made.stream("Hi") as stream:
        next(iter(stream))
        assert [left.reserved for left in made.remaining()] == [1]

        def child() -> list[int]:
            made.complete("Hi")
            [left] = made.remaining()
            return [int(left.used), int(left.reserved)]

        assert in_child(child) == "[2, 0]"
    assert [(int(left.used), int(left.reserved)) for left in made.remaining()] == [(2, 0)]


def test_a_store_of_its_own_is_what_counts(tmp_path: Path) -> None:
    mixed = client(
        Budget(hard_calls=9, store=DiskStore(tmp_path / "a"), name="shared"),
        Budget(hard_calls=9, store=MemoryStore(), name="own"),
    )
    assert in_child(lambda: mixed.complete("Hi")).startswith("UsageError")
    shared = client(Budget(hard_calls=9), store=DiskStore(tmp_path / "b"))
    shared.complete("Hi")
    assert in_child(lambda: shared.complete("Hi").tier) == "'gold'"
    assert [int(left.used) for left in shared.remaining()] == [2]
    shared.close()
    mixed.close()


def test_rows_of_parent_and_child_have_ids_of_their_own(tmp_path: Path) -> None:
    ledger = UsageLedger(tmp_path / "usage.db")
    made = client(Budget(soft_calls=99), ledger=ledger)
    made.complete("Hi")

    def child() -> None:
        for _ in range(3):
            made.complete("Hi")
        made.close()

    assert in_child(child) == "None"
    for _ in range(2):
        made.complete("Hi")
    ledger.flush()
    assert ledger.total().calls == 6
    made.close()


def test_a_runs_limits_are_not_the_childs_too() -> None:
    made = client()
    with made.run(hard_calls=2):
        made.complete("Hi")
        said = in_child(lambda: made.complete("Hi").tier)
        assert said.startswith("UsageError: this process was forked inside a run")

        def child() -> str:
            with made.run(hard_calls=1):
                return str(made.complete("Hi").tier)

        assert in_child(child).startswith("UsageError")  # it is still inside the parent's
        made.complete("Hi")
    with made.run():
        assert in_child(lambda: made.complete("Hi").tier) == "'gold'"
