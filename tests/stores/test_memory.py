"""What is memory's own: nothing is kept for ever."""

from __future__ import annotations

import threading

from stores.ground import line
from tierllm.stores import MemoryStore
from tierllm.stores.memory import LOOK_EVERY


def test_dropping_waits_for_the_lock() -> None:
    """Or an account may go while the expired ones are looked for."""
    store = MemoryStore()
    store.reserve(store.hold([line("x", 5)]))
    dropping = threading.Thread(target=store.drop, args=("x",))
    with store._lock:
        dropping.start()
        dropping.join(0.05)
        assert "x" in store._accounts
    dropping.join()
    assert "x" not in store._accounts


def test_documents_that_nobody_asks_for_again_are_forgotten() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    for n in range(500):
        store.swap(f"d{n}", b"x", None, ttl_s=1)
    now[0] = 2.0
    for n in range(LOOK_EVERY):
        store.swap("e", b"%d" % n, None if n == 0 else b"%d" % (n - 1))
    assert set(store._documents) == {"e"}
