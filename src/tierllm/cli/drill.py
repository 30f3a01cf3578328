"""``tierllm drill``: an outage rehearsed against one's own configuration, in virtual time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .arguments import above_zero, count

if TYPE_CHECKING:
    from .arguments import Commands
    from .rehearsal import Rehearsal

__all__ = ["add"]

FAULTS = ("5xx", "429", "hang", "slow", "cut")


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "drill",
        help="rehearse an outage with your own configuration",
        description="Lets tiers fail, with fakes for providers and in virtual time: nothing is called. "
        "Exit code 1 where a call ended without an answer, or a tier did not come back.",
    )
    parser.add_argument("config", nargs="?", default="tierllm.toml", help="default: tierllm.toml")
    parser.add_argument(
        "--down",
        action="append",
        required=True,
        metavar="TIER",
        help="a tier (or tier/deployment) that fails; may be repeated",
    )
    parser.add_argument("--with", dest="fault", choices=FAULTS, default="5xx", help="how (default: 5xx)")
    parser.add_argument(
        "--sla", action="append", metavar="TIER", help="what calls ask for; default: what is down"
    )
    parser.add_argument("--calls", type=count, default=60, metavar="N", help="calls a phase (default: 60)")
    parser.add_argument(
        "--every", type=above_zero, default=1.0, metavar="SECONDS", help="between calls (default: 1)"
    )
    parser.add_argument("--stream", action="store_true", help="let the calls be streams")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..config import Config
    from .rehearsal import Rehearsal

    rehearsal = Rehearsal(
        Config.load(arguments.config),
        down=arguments.down,
        fault=arguments.fault,
        asks=arguments.sla,
        calls=arguments.calls,
        every_s=arguments.every,
        streaming=arguments.stream,
    )
    rehearsal.run()
    if arguments.json:
        print(json.dumps(rehearsal.to_dict(), indent=2))
    else:
        for line in _told(rehearsal, arguments):
            print(line)
    return 0 if rehearsal.passed else 1


def _told(rehearsal: Rehearsal, arguments: argparse.Namespace) -> Iterator[str]:
    kind = "streams" if arguments.stream else "calls"
    yield (
        f"{' and '.join(arguments.down)} down ({arguments.fault}); {kind} to {' and '.join(rehearsal.asks)}, "
        f"one every {arguments.every:g} s, in virtual time"
    )
    yield ""
    rows: list[Sequence[str]] = [("phase", "calls", "answered by", "no answer", "p50", "p95")]
    for phase in rehearsal.phases():
        answered = ", ".join(f"{tier} {n}" for tier, n in phase.answered.items()) or "nobody"
        times = ("-" if s is None else f"{s:.1f} s" for s in (phase.latency_s(0.5), phase.latency_s(0.95)))
        rows.append((phase.name, str(phase.calls), answered, str(phase.lost or "-"), *times))
    yield from _aligned(rows)
    yield ""
    for phase in rehearsal.phases():
        for reason, number in phase.reasons.most_common():
            yield f"{phase.name}: {reason}, {number} times"
    yield ""
    for moment in rehearsal.timeline:
        yield f"{moment.at_s:>8.1f} s  {moment.text}"
    yield ""
    yield from _verdict(rehearsal)


def _verdict(rehearsal: Rehearsal) -> Iterator[str]:
    for tier, after_s in rehearsal.recovered_s.items():
        if after_s is None:
            yield f"{tier} did not come back within {rehearsal.patience_s / 60:g} minutes"
        else:
            yield f"{tier} answered again {after_s:.1f} s after its outage ended"
    lost, all_calls = sum(rehearsal.errors.values()), len(rehearsal.calls)
    if lost:
        kinds = ", ".join(f"{error} {n}" for error, n in rehearsal.errors.most_common())
        yield f"{lost} of {all_calls} calls ended without an answer: {kinds}"
    else:
        yield f"every one of {all_calls} calls was answered"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
