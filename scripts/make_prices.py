"""Make the bundled price list anew: ``python scripts/make_prices.py [--fetch]``.

From the installed genai-prices, or with ``--fetch`` from its newest data. Then run ``pytest tests/cost``
and read the difference: a price list is one model a line.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from tierllm.cost.prices import making

BUNDLED = Path(making.__file__).with_name("prices.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bundled price list anew.")
    parser.add_argument("--fetch", action="store_true", help="the newest data instead of the installed")
    today = datetime.datetime.now(datetime.UTC).date()
    made = making.fetched(today) if parser.parse_args().fetch else making.installed(today)
    making.write(made, BUNDLED)
    print(f"{BUNDLED}: {len(made.encode()):,} bytes")


if __name__ == "__main__":
    main()
