"""The layers one below the other: read down, filled up, written through or behind, whatever one does."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from caching.kept import DAY_S, FarLayer, boards_on, client_on, entry_of
from client.forms import Form, every_form
from tierllm.caching import stack as module
from tierllm.caching.entry import Entry
from tierllm.caching.layer import Layer
from tierllm.caching.memory_layer import MemoryLayer
from tierllm.caching.notices import name_of
from tierllm.caching.stack import Found, Stack
from tierllm.events import CacheDamaged, Event
from tierllm.pipeline.effects import Blocking
from tierllm.testing import FakeProvider

SLOT = b"s" * 32


class Here(FarLayer):
    """A layer of the application's own that does no I/O and belongs to this process."""

    inline = True
    shared = False


def run(flow: Any) -> Any:
    """Drive a coroutine whose only effect is blocking work."""
    step: Callable[[], object] = functools.partial(flow.send, None)
    while True:
        try:
            effect = step()
        except StopIteration as done:
            return done.value
        assert isinstance(effect, Blocking)
        try:
            value = effect.fn() if effect.afn is None else asyncio.run(effect.afn())  # type: ignore[arg-type]
        except Exception as error:
            step = functools.partial(flow.throw, error)
        else:
            step = functools.partial(flow.send, value)


class Ground:
    def __init__(self, *layers: Layer, write: Any = "through") -> None:
        self.layers = layers
        self.boards = boards_on(*layers)
        self.stack = Stack(layers, self.boards, write=write)
        self.later: list[Callable[[], object]] = []
        self.events: list[Event] = []
        self.stack.emit = self.events.append

    def keep(self, entry: Entry, slot: bytes = SLOT) -> None:
        run(self.stack.keep(slot, entry, 0.0, self.later.append))

    def peek(self, entry: Entry, slot: bytes = SLOT) -> Found | None:
        return self.stack.peek(slot, entry.canonical, 0.0)

    def find(self, entry: Entry, slot: bytes = SLOT) -> Found | None:
        found: Found | None = run(self.stack.find(slot, entry.canonical, 0.0, self.later.append))
        return found

    def do_later(self) -> None:
        while self.later:
            self.later.pop(0)()


def held(layer: Layer) -> bool:
    return layer.get(SLOT) is not None if not isinstance(layer, MemoryLayer) else layer.find(SLOT) is not None


def named(name: str, layer: Layer) -> Layer:
    layer.name = name
    return layer


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [MemoryLayer()],
        lambda: [FarLayer()],
        lambda: [Here()],
        lambda: [MemoryLayer(), FarLayer()],
        lambda: [FarLayer(), MemoryLayer()],
        lambda: [MemoryLayer(), Here("here"), FarLayer()],
        lambda: [FarLayer("a"), FarLayer("b")],
        lambda: [FarLayer("a"), MemoryLayer(), FarLayer("b")],
    ],
    ids=range(8),
)
def test_what_is_kept_is_found_in_any_order_of_layers(layers: Callable[[], Sequence[Layer]]) -> None:
    ground = Ground(*layers())
    entry = entry_of()
    assert ground.peek(entry) is None
    assert ground.find(entry) is None
    ground.keep(entry)
    assert all(held(layer) for layer in ground.layers)
    found = ground.peek(entry) or ground.find(entry)
    assert found is not None
    assert found.entry == entry
    assert found.layer == ground.layers[0].name
    assert ground.stack.is_deep is (not all(layer.inline for layer in ground.layers))


def test_what_is_found_below_is_put_above() -> None:
    top, middle, bottom = MemoryLayer(), FarLayer("middle"), FarLayer("bottom")
    ground = Ground(top, middle, bottom)
    entry = entry_of()
    bottom.set(SLOT, entry.encode(), ttl_s=60)
    found = ground.find(entry)
    assert found is not None
    assert found.layer == "bottom"
    assert held(top), "at once where that takes no waiting"
    assert not held(middle)
    ground.do_later()
    assert held(middle)
    assert ground.peek(entry) == Found(entry, "memory")


def test_an_entry_of_another_request_is_a_miss_and_stays() -> None:
    """Their hashes are the same."""
    for layer in (MemoryLayer(), FarLayer(), Here()):
        ground = Ground(layer)
        mine, theirs = entry_of("mine", "one"), entry_of("theirs", "two")
        ground.keep(theirs)
        assert ground.peek(mine) is None
        assert ground.find(mine) is None
        assert ground.peek(theirs) or ground.find(theirs)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00" * 100_000, b"[]"], ids=range(4))
def test_what_is_damaged_is_a_miss_told_and_taken_out(data: bytes) -> None:
    far = FarLayer()
    ground = Ground(MemoryLayer(), far)
    far.set(SLOT, data, ttl_s=60)
    assert ground.find(entry_of()) is None
    assert not held(far)
    assert [type(event) for event in ground.events] == [CacheDamaged]
    ground.keep(entry_of())
    assert ground.find(entry_of()) is not None


@pytest.mark.parametrize("kind", ["big", "small"])
@pytest.mark.parametrize("native", [False, True])
def test_native_async_layers_are_read_as_others_are(native: bool, kind: str) -> None:
    far = FarLayer()

    async def aget(slot: bytes) -> bytes | None:
        return FarLayer.get(far, slot)

    if native:
        found: Callable[[bytes], Awaitable[bytes | None]] = aget
        far.aget = found
    ground = Ground(far)
    entry = entry_of("x" * (200_000 if kind == "big" else 10))
    ground.keep(entry)
    assert ground.find(entry) == Found(entry, "far")
    far.entries[SLOT] = b"y" * (200_000 if kind == "big" else 10)
    assert ground.find(entry) is None
    assert len(ground.events) == 1


def test_what_was_invalidated_is_found_in_no_layer() -> None:
    for layer in (MemoryLayer(), FarLayer(), Here()):
        ground = Ground(layer)
        entry = entry_of(tags=("t",))
        ground.keep(entry)
        ground.boards.post([(name_of("tag", "t"), None)])
        ground.boards.catch_up()
        assert ground.peek(entry) is None
        assert ground.find(entry) is None
        new = entry._replace(generation=ground.boards.notices.number)
        ground.keep(new)
        assert ground.peek(new) or ground.find(new)


def test_what_was_invalidated_while_it_was_read_is_not_given() -> None:
    class Slow(FarLayer):
        def get(self, slot: bytes) -> bytes | None:
            data = super().get(slot)
            boards_on(self).post([(name_of("tag", "t"), None)])
            return data

    ground = Ground(Slow())
    entry = entry_of(tags=("t",))
    ground.keep(entry)
    assert ground.find(entry) is None


class Broken(FarLayer):
    """Breaks its contract: raises anything."""

    def get(self, slot: bytes) -> bytes | None:
        raise KeyError("broken")

    def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
        raise TypeError("broken")

    def delete(self, slot: bytes) -> None:
        raise ZeroDivisionError

    def claim(self, slot: bytes, owner: bytes, lease_s: float) -> bool:
        raise AttributeError("broken")

    def release(self, slot: bytes, owner: bytes) -> None:
        raise LookupError


@pytest.mark.parametrize("inline", [False, True])
def test_a_broken_layer_is_passed_over(inline: bool, caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken("broken")
    broken.inline = inline
    below = FarLayer("below")
    ground = Ground(broken, below)
    entry = entry_of()
    ground.keep(entry)
    assert held(below)
    assert ground.peek(entry) is None
    assert ground.find(entry) == Found(entry, "below")
    ground.do_later()
    ground.stack.forget(SLOT)
    assert not held(below)
    assert "broken failed" in caplog.text


def test_a_layer_out_of_reach_is_passed_over_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    above, below = FarLayer("above"), FarLayer("below")
    ground = Ground(above, below)
    above.away = True
    entry = entry_of()
    ground.keep(entry)
    assert ground.find(entry) == Found(entry, "below")
    ground.do_later()
    assert not caplog.text, "the layer itself tells of its trouble"


def test_writing_behind_leaves_the_deep_layers_for_later() -> None:
    top, far = MemoryLayer(), FarLayer()
    ground = Ground(top, far, write="behind")
    ground.keep(entry_of())
    assert held(top)
    assert not held(far)
    ground.do_later()
    assert held(far)


def test_too_much_behind_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BEHIND", 3)
    far = FarLayer()
    ground = Ground(far, write="behind")
    for n in range(5):
        ground.keep(entry_of(), slot=bytes([n]) * 32)
    assert len(ground.later) == 3
    assert ground.stack.left_out == 2
    ground.do_later()
    assert len(far.entries) == 3
    ground.keep(entry_of())
    ground.do_later()
    assert held(far)


def test_work_that_cannot_be_left_for_later_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BEHIND", 1)
    stack = Stack([FarLayer()], boards_on(FarLayer()), write="behind")

    def refuse(work: Callable[[], object]) -> None:
        raise RuntimeError("no threads")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            run(stack.keep(SLOT, entry_of(), 0.0, refuse))
    assert stack.left_out == 0


def test_a_child_process_can_write_behind_though_its_parent_was_at_it() -> None:
    ground = Ground(FarLayer(), write="behind")
    with ground.stack._done:
        ground.stack.renew()
        done = threading.Thread(target=lambda: ground.keep(entry_of()), daemon=True)
        done.start()
        done.join(5)
        assert not done.is_alive()


@pytest.mark.parametrize(
    ("quotas", "tenant", "group"),
    [
        ({}, "acme", "gold"),
        ({"gold": 0.5}, "acme", "gold"),
        ({"gold/acme": 0.5}, "acme", "gold/acme"),
        ({"*/acme": 0.5}, "acme", "*/acme"),
        ({"*/acme": 0.2, "gold/acme": 0.2}, "acme", "gold/acme"),
        ({"gold/acme": 0.2}, "other", "gold"),
        ({"gold/acme": 0.2}, None, "gold"),
    ],
    ids=range(7),
)
def test_on_whose_share_an_entry_draws(quotas: dict[str, float], tenant: str | None, group: str) -> None:
    drawn: list[str] = []

    class Layered(FarLayer):
        def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
            drawn.append(group)
            return True

    layer = Layered()
    layer.quotas = quotas
    Ground(layer).keep(entry_of(tenant=tenant))
    assert drawn == [group]


@pytest.mark.parametrize(
    ("fresh_until", "stale_until", "layer_s", "kept_s"),
    [
        (100.0, 150.0, None, 150.0),
        (100.0, 0.0, None, 100.0),
        (100.0, 150.0, 20.0, 20.0),
        (100.0, 150.0, 1000.0, 150.0),
    ],
)
def test_for_how_long(fresh_until: float, stale_until: float, layer_s: float | None, kept_s: float) -> None:
    told: list[float] = []

    class Timed(FarLayer):
        def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
            told.append(ttl_s)
            return True

    layer = Timed()
    layer.ttl_s = layer_s
    Ground(layer).keep(entry_of(fresh_until=fresh_until, stale_until=stale_until))
    assert told == [kept_s]
    assert kept_s < DAY_S


# -- through the client ----------------------------------------------------------------


@every_form
def test_a_client_with_a_broken_layer_answers(form: Form, caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeProvider()
    with client_on([Broken("broken"), FarLayer("below")], fake) as client:
        assert [form(client).cached for _ in range(3)] == [False, True, True]
    assert fake.calls == 1


def test_on_an_event_loop_layers_that_wait_do_so_elsewhere() -> None:
    class Watched(FarLayer):
        threads: set[str] = set()  # noqa: RUF012

        def get(self, slot: bytes) -> bytes | None:
            self.threads.add(threading.current_thread().name)
            return super().get(slot)

        def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
            self.threads.add(threading.current_thread().name)
            return super().set(slot, data, ttl_s=ttl_s, group=group)

        def board(self, since: int = 0) -> Any:
            self.threads.add(threading.current_thread().name)
            return super().board(since)

        def claim(self, slot: bytes, owner: bytes, lease_s: float) -> bool:
            self.threads.add(threading.current_thread().name)
            return super().claim(slot, owner, lease_s)

        def release(self, slot: bytes, owner: bytes) -> None:
            self.threads.add(threading.current_thread().name)
            super().release(slot, owner)

    layer = Watched()
    with client_on([MemoryLayer(), layer]) as client:
        client.cache.invalidate(tag="t")
        layer.threads.clear()

        async def main() -> None:
            await client.acomplete("Hello")
            await client.acomplete("Hello")
            await client.acomplete("other", cache="refresh")

        asyncio.run(main())
    assert layer.threads
    assert threading.current_thread().name not in layer.threads
