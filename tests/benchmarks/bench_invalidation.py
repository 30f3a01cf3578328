"""Invalidation against a model: 10,000 answers, each resting on 1 to 5 of 500 documents; some change.

Run: ``python tests/benchmarks/bench_invalidation.py [QUESTIONS] [DOCUMENTS]``. For memory, disk and Redis
(a server of its own), alone and stacked, in one process and in four: a document's content changes, as
presented by the calls, as told by ``cache.changed`` and as named by ``cache.invalidate``, the last two in
another process. Each time all answers are asked for, in every process: it ends with an error unless
exactly those miss that the model says. Prints how many missed, and the seconds that each took. Takes minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from caching.dependents import PROCESSES, in_one_process, in_processes
from stores.ground import Server

STACKS = ("memory", "disk", "redis", "memory disk", "memory redis", "memory redis disk")


def main() -> None:
    given = [int(each) for each in sys.argv[1:3]]
    questions, documents = given + [10_000, 500][len(given) :]
    print(f"{questions} answers that rest on {documents} documents; missed after a document was")
    for stack in STACKS:
        for processes in (1, PROCESSES):
            if stack == "memory" and processes > 1:
                continue  # each has its own
            with (
                tempfile.TemporaryDirectory(prefix="redis-") as directory,
                tempfile.TemporaryDirectory() as disk,
            ):
                server = Server(Path(directory))
                places = {"memory": "memory", "disk": f"{disk}/cache", "redis": server.url}
                begun = time.perf_counter()
                try:
                    run = in_one_process if processes == 1 else in_processes
                    told = run([places[kind] for kind in stack.split()], questions, documents)
                finally:
                    server.stop()
            what = ", ".join(
                f"{how} {told[how]}" for how in ("presented", "changed", "invalidated") if told[how]
            )
            took_s = time.perf_counter() - begun
            print(f"{stack:18} in {processes}: {what}; as the model says. {took_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
