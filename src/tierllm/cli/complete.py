"""``tierllm complete``: one question, one answer."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TierLLMError
from .arguments import above_zero, count

if TYPE_CHECKING:
    from ..client import TieredClient
    from ..types import Response
    from .arguments import Commands

__all__ = ["add"]

HERE = "tierllm.toml"


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "complete",
        help="ask a question",
        description=f"Asks the tiers of {HERE} in the working directory, or else the local model.",
    )
    parser.add_argument("prompt", help="the question; - reads it from stdin")
    parser.add_argument("--sla", metavar="TIER", help="the tier to ask; default: the first")
    parser.add_argument("--config", metavar="FILE", help=f"default: {HERE}, where there is one")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the question")
    parser.add_argument("--stream", action="store_true", help="print the answer as it arrives")
    parser.add_argument("--max-tokens", type=count, metavar="N")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument("--deadline", type=above_zero, metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="the answer with usage, cost and place as JSON")
    parser.add_argument(
        "--trace", action="store_true", help="the call's trace as JSON, on stderr without --json"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with _client(arguments.config) as client:
        try:
            response = _ask(client, arguments)
        except TierLLMError as error:
            if arguments.trace:
                _explain(error)
            raise
    if arguments.json:
        print(json.dumps(_told(response, arguments.trace), ensure_ascii=False, indent=2))
    elif arguments.trace and response.trace is not None:
        print(json.dumps(response.trace.to_dict(), indent=2), file=sys.stderr)
    return 0


def _client(file: str | None) -> TieredClient:
    from ..client import TieredClient

    if file is not None or Path(HERE).is_file():
        from ..config import Config

        return TieredClient.from_config(Config.load(file or HERE))
    from ..providers.local import Local
    from ..routing.tier import Deployment, Tier

    print(f"tierllm complete: there is no {HERE} here, so the local model answers", file=sys.stderr)
    return TieredClient([Tier("local", [Deployment("smollm2-135m", Local())])])


def _explain(error: TierLLMError) -> None:
    """The trace of a failed call, and what vendors said in their own words."""
    if error.trace is not None:
        print(json.dumps(error.trace.to_dict(), indent=2), file=sys.stderr)
    errors = [error, *(attempt.error for attempt in getattr(error, "attempts", ()))]
    for detail in dict.fromkeys(getattr(each, "detail", None) for each in errors):
        if detail:
            print(f"detail: {detail}", file=sys.stderr)


def _ask(client: TieredClient, arguments: argparse.Namespace) -> Response:
    prompt = arguments.prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace") if sys.stdin else ""
    messages: Any = prompt
    if arguments.system is not None:
        messages = [{"role": "system", "content": arguments.system}, {"role": "user", "content": prompt}]
    options: Any = {
        "sla": arguments.sla,
        "max_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        "deadline_s": arguments.deadline,
    }
    if not arguments.stream or arguments.json:
        response = client.complete(messages, **options)
        if not arguments.json:
            print(response.text)
        return response
    delivered = False
    try:
        with client.stream(messages, **options) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
                delivered = delivered or bool(chunk.text)
    finally:
        if delivered:
            print(flush=True)
    return stream.response


def _told(response: Response, with_trace: bool) -> dict[str, Any]:
    usage = response.usage
    told: dict[str, Any] = {
        "text": response.text,
        "tier": response.tier,
        "deployment": response.deployment,
        "model": response.model,
        "finish_reason": response.finish_reason,
        "usage": None
        if usage is None
        else {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
        "cost_usd": None if response.cost_usd is None else str(response.cost_usd),
        "cached": response.cached,
        "degraded": list(response.degraded),
        "warnings": list(response.warnings),
        "request_id": response.request_id,
    }
    if with_trace and response.trace is not None:
        told["trace"] = response.trace.to_dict()
    return told
