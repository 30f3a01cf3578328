"""Budgets on real shared stores that fail: a Redis that hangs or dies, a disk that is not there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.forms import Form, every_form
from stores.ground import Server
from tierllm import Budget, Call, Deployment, Price, Tier, TieredClient
from tierllm.errors import BudgetExceededError
from tierllm.events import Event, StoreTrouble
from tierllm.stores import DiskStore, RedisStore, Store
from tierllm.testing import FakeProvider

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)
WARNING = "a budget's store could not be reached; the call went on without it"


@pytest.fixture
def redis() -> Iterator[Server]:
    """A server of the test's own, to be hurt."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = Server(Path(directory))
        yield server
        server.thaw()
        server.stop()


def client(store: Store, fake: FakeProvider, *budgets: Budget, heard: list[Event]) -> TieredClient:
    return TieredClient(
        [Tier("gold", [Deployment("g", fake, price=PRICE)])],
        budgets=budgets,
        store=store,
        listeners=[heard.append],
    )


@every_form
def test_a_redis_that_hangs_while_a_call_is_under_way(form: Form, redis: Server) -> None:
    fake, heard = FakeProvider(), []
    store = RedisStore(redis.url, timeout_s=0.2, retry_s=0.0)
    made = client(store, fake, Budget(hard_usd=1, hard_calls=9, window="day"), heard=heard)
    form(made)

    def freezing(call: Call) -> str:
        redis.freeze()
        return "fine"

    fake._answer = freezing
    assert form(made).text == "fine"  # what was answered is not lost
    assert len(store.outbox) == 1
    with pytest.raises(BudgetExceededError, match="its store cannot be reached, and it fails closed"):
        form(made)
    assert fake.calls == 2
    assert [e.ok for e in heard if isinstance(e, StoreTrouble)] == [False]
    redis.thaw()
    fake._answer = None
    form(made)
    usd, calls = made.remaining()
    assert (calls.used, calls.reserved, usd.reserved) == (3, 0, 0)
    ledger = made._setup.treasury.ledger
    assert ledger is not None
    assert ledger.total().cost_usd == usd.used
    assert [e.ok for e in heard if isinstance(e, StoreTrouble)] == [False, True]
    made.close()


@every_form
def test_a_redis_that_is_gone_lets_go_where_it_fails_open(form: Form, redis: Server) -> None:
    fake, heard = FakeProvider(), []
    store = RedisStore(redis.url, timeout_s=0.5, retry_s=0.0)
    made = client(store, fake, Budget(hard_calls=9, fail="open"), heard=heard)
    redis.stop()
    assert form(made).warnings == (WARNING,)
    assert form(made).warnings == (WARNING,)
    redis.start()
    assert form(made).warnings == ()
    [calls] = made.remaining()
    assert (calls.used, calls.reserved) == (3, 0)  # what was used meanwhile is booked, once
    made.close()


@every_form
def test_a_disk_that_is_not_there(form: Form, tmp_path: Path) -> None:
    in_the_way = tmp_path / "place"
    in_the_way.write_text("a file where a directory should be")
    fake, heard = FakeProvider(), []
    closed = client(DiskStore(in_the_way / "a"), fake, Budget(hard_calls=9), heard=heard)
    with pytest.raises(BudgetExceededError, match="it fails closed"):
        form(closed)
    opened = client(DiskStore(in_the_way / "b"), fake, Budget(hard_calls=9, fail="open"), heard=heard)
    assert form(opened).warnings == (WARNING,)
    assert fake.calls == 1
    in_the_way.unlink()
    form(closed)
    assert form(opened).warnings == ()
    assert [int(left.used) for left in closed.remaining()] == [1]
    assert [int(left.used) for left in opened.remaining()] == [2]
    assert {left.reserved for made in (closed, opened) for left in made.remaining()} == {0}
    closed.close()
    opened.close()
