"""``tierllm explain``: where a call went and why, from the decision log."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .arguments import HERE, decisions_of

if TYPE_CHECKING:
    from .arguments import Commands

__all__ = ["add", "plain"]


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "explain",
        help="say where a call went and why, from the decision log",
        description="The id is that of the call's trace, response.trace.id. Exit code 1 where the log does "
        "not have it.",
    )
    parser.add_argument("id", help="the id of a call")
    parser.add_argument(
        "--log",
        metavar="FILE",
        help="the decision log; older files beside it count; default: that of the configuration",
    )
    parser.add_argument("--config", metavar="FILE", default=HERE, help=f"default: {HERE}")
    parser.add_argument("--json", action="store_true", help="all that the log has of the call")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..routing.decision_rows import find_decision
    from ..routing.explanation import explained

    log = arguments.log or _configured(arguments.config)
    row = find_decision(log, arguments.id)
    if row is None:
        told = f"tierllm explain: {log} has no call {arguments.id!r}: "
        hint = "give a response.trace.id; older calls may have been rotated away"
        print(plain(told + hint), file=sys.stderr)
        return 1
    told = explained(row)
    if arguments.json:
        data = {**row.to_dict(), "explained": told}
        print(plain(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)))
        return 0
    print(plain(told))
    if row.quality is not None:
        print(f"feedback: {row.quality:g} ({plain(row.quality_source or '')})")
    return 0


def _configured(file: str) -> str:
    from ..config import Config

    if not os.path.exists(file):
        raise ConfigError(f"{file}: there is no such file; name the decision log with --log")
    path = decisions_of(Config.load(file))
    if path is None:
        raise ConfigError(f"{file} has no [decisions]; name the decision log with --log")
    return str(path)


def plain(text: str) -> str:
    """Names come from users: what a terminal would obey is escaped, all else can be read as it is."""
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)
