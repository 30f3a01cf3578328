"""``tierllm estimate``: what a prompt, or a batch of them, will use before it is sent."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import count
from .prompts import Asked, Batch, PromptError, read

if TYPE_CHECKING:
    from ..client import TieredClient
    from ..cost.batch_estimate import BatchEstimate
    from ..cost.estimate import Cost, Estimate, Tokens
    from ..cost.price import Price
    from .arguments import Commands

    Quote = Callable[[Asked], Mapping[str, Estimate]]

__all__ = ["add"]

HERE = "tierllm.toml"
WRONG_INPUT = 2
MILLIONTH = Decimal("0.000001")
PRECISE = Context(prec=60)


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "estimate",
        help="say what a prompt, or a batch, will use in each tier, before it is sent",
        description="Tokens and dollars: median, 90th percentile and worst case. Nothing is sent, and no "
        "keys are needed. Exit code 2 where the file has no prompt.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a text; messages as .json; a batch as .jsonl, with a text, messages or "
        '{"prompt": ..., "max_tokens": ...} a line; - reads stdin',
    )
    parser.add_argument("--config", metavar="CONFIG", help=f"default: {HERE}, where there is one")
    parser.add_argument("--sla", metavar="TIER", help="the tier to start at; default: the first")
    parser.add_argument("--max-tokens", type=count, metavar="N", help="where a prompt does not say")
    parser.add_argument("--model", metavar="M", help="a model by itself, in place of a configuration")
    for kind in ("in", "out"):
        words = f"with --model: its own price, in dollars per million {kind}put tokens"
        parser.add_argument(f"--price-{kind}", type=_rate, metavar="USD", help=words)
    parser.add_argument("--json", action="store_true", help="as JSON, with dollars as texts")
    parser.set_defaults(run=partial(run, parser))


def run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    _check(parser, arguments)
    try:
        asked = read(arguments.file)
        if arguments.model is not None:
            lines = _lines(asked, _of_model(arguments))
        else:
            with _client(arguments.config or HERE) as client:
                lines = _lines(asked, partial(_of_tiers, client, arguments))
    except PromptError as error:
        print(f"tierllm estimate: {error}", file=sys.stderr)
        return WRONG_INPUT
    if arguments.json:
        print(json.dumps(_as_json(arguments.file, lines), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_told(lines, isinstance(asked, Batch))))
    return 0


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.model is None:
        if arguments.price_in is not None or arguments.price_out is not None:
            parser.error("--price-in and --price-out go with --model; in a configuration they have a place")
        if arguments.config is None and not Path(HERE).is_file():
            parser.error(f"there is no {HERE} here: give --config FILE, or a model by itself with --model")
    elif arguments.config is not None or arguments.sla is not None:
        parser.error("--model is a model by itself: leave --config and --sla out")
    elif (arguments.price_in is None) != (arguments.price_out is None):
        parser.error("--price-in and --price-out go together")


# -- who is asked ---------------------------------------------------------------


def _client(file: str) -> TieredClient:
    """The client of a configuration, with nothing behind it that could be called, spent or written."""
    from ..client import TieredClient
    from ..config import Config
    from ..testing import FakeProvider

    config = Config.load(file)
    nobody = {}
    for name, source in config.used().items():  # prices are found as for those that they stand in for
        nobody[name] = fake = FakeProvider(name=name)
        fake.vendor, fake.free = source.vendor(name), source.free
    return TieredClient(**config.arguments(providers=nobody, store=None, cache=None, ledger=False))


def _of_tiers(client: TieredClient, arguments: argparse.Namespace, asked: Asked) -> Mapping[str, Estimate]:
    options: Any = {"max_tokens": arguments.max_tokens, "sla": arguments.sla, **asked.options}
    return client.estimate(asked.prompt, **options).tiers


def _of_model(arguments: argparse.Namespace) -> Quote:
    from ..cost.estimator import CostEstimator
    from ..cost.price import Price

    model, estimator, price = arguments.model, CostEstimator(), None
    if arguments.price_in is not None:
        price = Price(input_usd_per_mtok=arguments.price_in, output_usd_per_mtok=arguments.price_out)
    return partial(_alone, estimator, model, price, arguments.max_tokens)


def _alone(
    estimator: Any, model: str, price: Price | None, max_tokens: int | None, asked: Asked
) -> Mapping[str, Estimate]:
    options = dict(asked.options)
    most, route = options.pop("max_tokens", max_tokens), options.pop("route", None)
    told: Estimate = estimator.estimate(
        asked.prompt, model=model, price=price, max_tokens=most, params=options, route=route
    )
    return {model: told}


# -- what is told ---------------------------------------------------------------


class Line:
    """What one tier takes for all that was asked."""

    def __init__(self, name: str) -> None:
        from ..cost.batch_estimate import Total

        self.name = name
        self.models: dict[str, None] = {}
        self.refusals: list[str] = []
        self.last: Estimate | None = None
        self._total = Total()

    def add(self, estimate: Estimate) -> None:
        self._total.add(estimate)
        self.models[estimate.model] = None
        self.last = estimate
        if estimate.refused is not None:
            self.refusals.append(estimate.refused)

    @property
    def sums(self) -> BatchEstimate:
        return self._total.result()


def _lines(asked: Asked | Batch, quote: Quote) -> list[Line]:
    lines: dict[str, Line] = {}
    for each in asked if isinstance(asked, Batch) else (asked,):
        for name, estimate in quote(each).items():
            if name not in lines:
                lines[name] = Line(name)
            lines[name].add(estimate)
    return list(lines.values())


def _told(lines: Sequence[Line], batch: bool) -> Iterator[str]:
    from ..cost.ledger_statement import as_table

    spread = ("p50", "p90", "max")
    head = ["tier", "model", "input", *(f"output {q}" for q in spread), *(f"$ {q}" for q in spread)]
    rows = [head]
    for line in lines:
        sums = line.sums
        asked, answer, cost = sums.input_tokens, sums.output_tokens, sums.cost_usd
        rows.append(
            [
                line.name,
                ", ".join(line.models),
                f"{'' if asked.exact else '~'}{asked.p50:,}",
                *(f"{getattr(answer, q):,}" for q in spread),
                *("-" if cost is None else f"{_shown(cost, q):,.6f}" for q in spread),
            ]
        )
    if batch:
        calls = lines[0].sums.count
        yield f"{calls:,} {'call' if calls == 1 else 'calls'} together"
    if [line.name for line in lines] == list(lines[0].models):  # a model by itself
        rows = [row[1:] for row in rows]
    yield as_table(rows, numbers=7)
    yield from _notes(lines)


def _shown(cost: Cost, q: str) -> Decimal:
    """To a millionth of a dollar; the worst case is never shown as less than it is."""
    usd: Decimal = getattr(cost, q)
    return usd.quantize(MILLIONTH, ROUND_CEILING if q == "max" else ROUND_HALF_EVEN, PRECISE)


def _notes(lines: Sequence[Line]) -> Iterator[str]:
    about = [line.name for line in lines if not line.sums.input_tokens.exact]
    if about:
        yield f"~ {', '.join(about)}: input is not counted with the model's own tokenizer; it may differ"
    if any(line.last is not None and not line.last.output_tokens.samples for line in lines):
        yield "no answers were seen here: output is what max_tokens allows, or else 4,096 tokens a call"
    for line in lines:
        sums = line.sums
        if sums.unpriced:
            models = ", ".join(line.models)
            which = "" if sums.unpriced == sums.count else f"; {sums.unpriced:,} calls are not in the sum"
            yield f"{line.name}: no price is known for {models}{which}"
        if line.refusals:
            number = "" if sums.count == 1 else f" {len(line.refusals):,} of {sums.count:,} calls, as in"
            yield f"{line.name} would refuse{number}: {line.refusals[0]}"


def _as_json(file: str, lines: Sequence[Line]) -> dict[str, object]:
    return {"file": file, "calls": lines[0].sums.count, "tiers": {line.name: _tier(line) for line in lines}}


def _tier(line: Line) -> dict[str, object]:
    sums, last = line.sums, line.last
    cost, latency = sums.cost_usd, None
    if last is not None and sums.count == 1 and last.latency_s is not None:
        latency = {q: getattr(last.latency_s, q) for q in ("p50", "p90", "p95")}
    return {
        "models": list(line.models),
        "input_tokens": _tokens(sums.input_tokens),
        "output_tokens": _tokens(sums.output_tokens),
        "cost_usd": None
        if cost is None
        else {q: f"{getattr(cost, q):f}" for q in ("p50", "p90", "max", "mean")},
        "latency_s": latency,
        "unpriced": sums.unpriced,
        "refused": len(line.refusals),
        "refusal": line.refusals[0] if line.refusals else None,
    }


def _tokens(tokens: Tokens) -> dict[str, object]:
    return {"p50": tokens.p50, "p90": tokens.p90, "max": tokens.max, "exact": tokens.exact}


def _rate(text: str) -> Decimal:
    try:
        rate = Decimal(text)
    except ArithmeticError:
        rate = Decimal("NaN")
    if not rate.is_finite() or rate < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give dollars per million tokens, 0 or more")
    return rate
