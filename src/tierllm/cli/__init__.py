"""The command line: ``tierllm demo``, ``complete``, ``check`` and ``drill``.

Each command is a module with ``add(commands)``, which describes its arguments, and a function that
runs it and gives the exit code. Errors are one line on stderr.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ..errors import TierLLMError
from . import check, complete, demo, drill

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Raises ``SystemExit`` for arguments that make no sense."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign is no reason to fail
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except TierLLMError as error:
        print(f"tierllm {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tierllm", description="Service levels for LLM calls, inside your own process."
    )
    parser.add_argument("--version", action="version", version=f"tierllm {version('tierllm')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (demo, complete, check, drill):
        command.add(commands)
    return parser
