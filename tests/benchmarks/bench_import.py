"""`import tierllm` beside `from pydantic import BaseModel`: medians of fresh processes, taken in turn.

python tests/benchmarks/bench_import.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "import tierllm": "import tierllm",
    "from tierllm import TieredClient": "from tierllm import TieredClient",
    "from pydantic import BaseModel": "from pydantic import BaseModel",
    "(nothing)": "pass",
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            taken[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    yardstick = medians["from pydantic import BaseModel"]
    for name, seconds in medians.items():
        print(f"{name:36}{seconds * 1e3:8.1f} ms{seconds / yardstick:8.2f} x")


if __name__ == "__main__":
    main()
