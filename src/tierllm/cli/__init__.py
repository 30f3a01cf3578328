"""The command line: one module for each command, from ``tierllm demo`` to ``tierllm train-router``.

Each command is a module with ``add(commands)``, which describes its arguments, and a function that
runs it and gives the exit code. What goes wrong is told on stderr, without a traceback.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ..errors import TierLLMError
from . import (
    cache,
    check,
    complete,
    demo,
    drill,
    emergency,
    estimate,
    explain,
    prices,
    tiers,
    train_router,
    usage,
)

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Raises ``SystemExit`` for arguments that make no sense."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as we run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign is no reason to fail
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        if not isinstance(error, BrokenPipeError):  # whoever read our output has seen enough
            print(f"tierllm: {error.strerror or error}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except TierLLMError as error:
        told = str(error).replace("see .detail", "see --trace")  # attributes are for programs
        print(f"tierllm {arguments.command}: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tierllm", description="Service levels for LLM calls, inside your own process."
    )
    parser.add_argument("--version", action="version", version=f"tierllm {version('tierllm')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (
        demo,
        complete,
        estimate,
        check,
        drill,
        prices,
        usage,
        cache,
        emergency,
        explain,
        train_router,
        tiers,
    ):
        command.add(commands)
    return parser
