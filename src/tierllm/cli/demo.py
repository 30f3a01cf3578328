"""``tierllm demo``: a scripted minute of outages, and what service levels make of it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .arguments import above_zero

if TYPE_CHECKING:
    from ..pipeline.provider import Provider
    from .arguments import Commands
    from .stage import Stage

__all__ = ["add"]

FAST = "On fake models in virtual time, as --fast asks for."


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="watch tiers fail and recover, on a real model in this process",
        description="A scripted minute. Exit code 0 only if gold was seen to recover and no call was lost.",
    )
    parser.add_argument("--seconds", type=above_zero, default=60.0, metavar="N", help="default: 60")
    parser.add_argument("--fake", action="store_true", help="fake models: nothing is downloaded")
    parser.add_argument("--fast", action="store_true", help="fake models in virtual time: over at once")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..testing import FakeClock, FakeProvider, Latency
    from .stage import plain_stage, rich_stage
    from .story import Story

    stage: Stage | None = rich_stage() if sys.stdout.isatty() else None
    stage = stage or plain_stage()
    model: Provider = FakeProvider(latency_s=Latency(first_token_s=0.2, tokens_per_s=60, sigma=0.3))
    name, why = "fake-model", "On fake models, as --fake asks for."
    if arguments.fast:
        clock = FakeClock()
        with stage:
            return Story(model, name, FAST, arguments.seconds, stage, clock, clock.advance).tell()
    if not arguments.fake:
        try:
            model, name, why = _real()
        except ConfigError as error:
            why = f"On fake models, since the real one cannot be had: {error}"
    with stage:
        return Story(model, name, why, arguments.seconds, stage, time.monotonic, time.sleep).tell()


def _real() -> tuple[Provider, str, str]:
    """The local model, loaded. Raises ``ConfigError`` where it cannot be had."""
    from ..providers.local import Local

    print("Loading the model (the first time, 98 MB of weights are downloaded) …", file=sys.stderr)
    local = Local(n_ctx=512)
    local.load()
    return local, "smollm2-135m", "On a real model in this process: SmolLM2-135M."
