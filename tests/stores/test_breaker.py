"""Breakers of several processes that meet in a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stores.ground import SPAWN, opened
from tierllm.errors import CircuitOpenError
from tierllm.resilience.breaker import CircuitBreaker
from tierllm.resilience.breaker_store import BreakerSnapshot, DocumentBreakerStore
from tierllm.stores import MemoryStore, Store

WRONG_TYPES = json.dumps({"generation": "1", "state": 2, "reason": None, "open_for_s": []}).encode()


ENDLESS = [
    f'{{"generation":1,"state":"open","reason":"","open_for_s":{open_for},"open_until_unix_s":{until}}}'.encode()
    for open_for, until in (("NaN", "2e9"), ("1", "NaN"), ("1", "Infinity"), ("1", "1e400"), ("1", "9" * 400))
]


def breaker(store: Store) -> CircuitBreaker:
    return CircuitBreaker("gpt-eu", consecutive_failures=1, open_s=300, store=store, store_refresh_s=1e-9)


def fails(where: str) -> None:
    store = opened(where)
    with pytest.raises(ConnectionError), breaker(store):
        raise ConnectionError("down")
    store.close()


def test_another_process_finds_it_open(where: str) -> None:
    store = opened(where)
    waiting = breaker(store)
    assert waiting.call(int) == 0
    other = SPAWN.Process(target=fails, args=(where,))
    other.start()
    other.join()
    assert other.exitcode == 0
    with pytest.raises(CircuitOpenError, match="shared: 1 consecutive failure"):
        waiting.call(int)
    store.close()
    again = opened(where)  # as after a restart
    with pytest.raises(CircuitOpenError, match="shared"):
        breaker(again).call(int)
    breaker(again).reset()
    again.close()


def test_a_store_of_one_process_will_do() -> None:
    store = MemoryStore()
    one, two = breaker(store), breaker(store)
    one.force_open()
    with pytest.raises(CircuitOpenError):
        two.call(int)
    two.reset()
    assert one.call(int) == 0


@pytest.mark.parametrize(
    "found",
    [b"", b"{", b"\xff", b"[]", b"7", b'{"generation": 1}', b"[" * 100_000, WRONG_TYPES, *ENDLESS],
    ids=range(8 + len(ENDLESS)),
)
def test_what_is_no_breakers_state_is_ignored_and_replaced(
    found: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    assert store.swap("breaker:gpt-eu", found, None)
    one = breaker(store)
    assert one.call(int) == 0
    assert "no breaker's state" in caplog.text
    one.force_open()
    with pytest.raises(CircuitOpenError):
        breaker(store).call(int)


def test_a_snapshot_comes_back_as_it_was(where: str) -> None:
    store = opened(where)
    meeting = DocumentBreakerStore(store)
    first = BreakerSnapshot(generation=1, state="open", reason="ü", open_for_s=30.0, open_until_unix_s=1.5e9)
    assert meeting.load("m") is None
    assert meeting.publish("m", first, 0)
    assert meeting.load("m") == first
    assert not meeting.publish("m", first, 0)
    assert meeting.publish("m", BreakerSnapshot(generation=2, state="closed"), 1)
    store.close()


def test_a_store_out_of_reach_fails_no_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "store").write_text("x")
    store = opened(str(tmp_path / "store"))
    assert breaker(store).call(int) == 0
    assert "without its store" in caplog.text
    store.close()
