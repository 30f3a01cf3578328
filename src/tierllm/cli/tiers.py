"""``tierllm tiers``: the tiers of a configuration and their models, with price, window and quality."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from .arguments import HERE, decisions_of

if TYPE_CHECKING:
    from ..config import Config
    from ..cost.price import Price
    from ..routing.decision_rows import DecisionRow
    from ..types import Objective
    from .arguments import Commands

__all__ = ["add"]

UNKNOWN = "-"
AGAIN = ("hit", "stale", "joined")
"""What a cache gave: the answer of a call that is counted by itself."""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "tiers",
        help="list tiers and models: purpose, objective, price, context window, measured quality",
        description="Best first. Nothing is called, and no keys are needed.",
    )
    parser.add_argument("--config", metavar="FILE", default=HERE, help=f"default: {HERE}")
    parser.add_argument(
        "--log",
        metavar="DECISIONS",
        help="a decision log: how good each model's answers were found; default: that of the configuration",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with prices as texts")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..config import Config

    config = Config.load(arguments.config)
    tally = Tally(config)
    own = decisions_of(config)
    if arguments.log is None and own is not None and own.exists():
        arguments.log = str(own)
    if arguments.log is not None:
        tally.read(arguments.log)
    lines = list(_lines(config, tally))
    if arguments.json:
        print(json.dumps(_as_json(arguments, lines, tally), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_told(lines, tally, arguments.log is not None)))
    return 0


# -- what is measured ---------------------------------------------------------------


@dataclass(slots=True)
class Mean:
    """How good answers were found, 0 to 1."""

    n: int = 0
    total: float = 0.0

    def add(self, quality: float) -> None:
        self.n += 1
        self.total += quality

    @property
    def value(self) -> float | None:
        return self.total / self.n if self.n else None


class Tally:
    """The quality of each place, from the feedback, judges and comparisons in a decision log."""

    def __init__(self, config: Config) -> None:
        self.rows = self.scored = 0
        self.means: dict[tuple[str, str], Mean] = {}
        self._ranks = {tier.name: rank for rank, tier in enumerate(config.tiers)}
        self._shadow = None if config.shadow is None else self._place(config, config.shadow.to)

    def _place(self, config: Config, to: str) -> tuple[str, str] | None:
        """Where a shadow goes; ``None`` where that is not one place."""
        name, _, deployment = to.partition("/")
        if deployment:
            return name, deployment
        tables = next(tier.deployments for tier in config.tiers if tier.name == name)
        return (name, tables[0].name or tables[0].model) if len(tables) == 1 else None

    def read(self, path: str) -> None:
        """Raises ``ConfigError`` where there is no log."""
        from ..errors import ConfigError
        from ..routing.decision_rows import read_decisions

        decisions = read_decisions(path)
        for row in decisions:
            self.rows += 1
            if row.served is not None and row.deployment is not None:
                self.scored += self._take(row, (row.served, row.deployment))
        if decisions.skipped and not self.rows:
            raise ConfigError(f"{path}: this is no decision log; give the file that [decisions] names")

    def _take(self, row: DecisionRow, served: tuple[str, str]) -> bool:
        """Whether something was said of the answer. What was made simpler under load tells of the load."""
        if row.cache in AGAIN or row.degraded:
            return False
        weak, strong, quality = row.weak_quality, row.strong_quality, row.quality
        compared = weak is not None and strong is not None
        if compared and self._shadow is not None and self._shadow[0] != served[0]:
            assert weak is not None
            assert strong is not None
            better = self._ranks.get(served[0], 0) < self._ranks.get(self._shadow[0], 0)
            self._mean(self._shadow).add(weak if better else strong)
            quality = quality if quality is not None else (strong if better else weak)
        if quality is None:
            return False
        self._mean(served).add(quality)
        return True

    def _mean(self, place: tuple[str, str]) -> Mean:
        return self.means.setdefault(place, Mean())

    def of(self, tier: str, names: Sequence[str]) -> Mean:
        """Of one deployment, under all the names it has (one for each key of its account)."""
        found = [self.means[tier, name] for name in names if (tier, name) in self.means]
        return Mean(sum(mean.n for mean in found), sum(mean.total for mean in found))


# -- what is told ---------------------------------------------------------------------


@dataclass(slots=True)
class Model:
    """One deployment of a tier."""

    name: str
    model: str
    provider: str
    purpose: str | None
    price: Price | None
    window: int | None
    said: float | None
    measured: Mean


@dataclass(slots=True)
class Line:
    """One tier."""

    level: int
    name: str
    purpose: str | None
    objective: Objective | None
    models: list[Model] = field(default_factory=list)


def _lines(config: Config, tally: Tally) -> Iterator[Line]:
    from ..config.places import places
    from ..cost.place import Place

    book = config.price_book()
    names: dict[int, list[str]] = {}
    for place in places(config):
        names.setdefault(id(place.table), []).append(place.name)
    for level, tier in enumerate(config.tiers, 1):
        objective = None if tier.objective is None else tier.objective.build()
        line = Line(level, tier.name, tier.purpose, objective)
        for table in tier.deployments:
            provider, source = config.provider_of(table)
            known = names[id(table)]
            found = Place(
                tier.name,
                known[0],
                table.model,
                provider=provider,
                vendor=source.vendor(provider),
                price=None if table.price is None else table.price.build(),
                context_window=table.context_window,
                book=book,
            )
            line.models.append(
                Model(
                    known[0],
                    table.model,
                    provider,
                    table.purpose,
                    _free() if source.free and table.price is None else found.price,
                    found.context_window,
                    table.quality,
                    tally.of(tier.name, known),
                )
            )
        yield line


def _free() -> Price:
    from ..cost.price import Price

    return Price.free()


def _told(lines: Sequence[Line], tally: Tally, measured: bool) -> Iterator[str]:
    from ..cost.ledger_statement import as_table

    rows = [["", "tier", "model", "purpose", "objective", "$ in", "$ out", "window", "quality", "n"]]
    for line in lines:
        for number, model in enumerate(line.models):
            tier = [f"{line.level}", line.name] if not number else ["", ""]
            promised = _promised(line.objective) if not number else ""
            purpose = model.purpose or ("" if number else line.purpose) or ""
            rows.append([*tier, _called(model), purpose, promised, *_figures(model)])
    yield as_table(rows, numbers=5)
    yield "$ in and $ out: dollars per million tokens"
    if any(model.said is not None and not model.measured.n for line in lines for model in line.models):
        yield "* as the configuration says; it was not measured"
    if measured:
        yield f"{tally.scored:,} of {tally.rows:,} calls in the log have an answer that somebody judged"


def _called(model: Model) -> str:
    return model.model if model.name == model.model else f"{model.model} ({model.name})"


def _figures(model: Model) -> list[str]:
    price, mean = model.price, model.measured.value
    rates = [UNKNOWN] * 2
    if price is not None:
        rates = [_rate(price.input_usd_per_mtok), _rate(price.output_usd_per_mtok)]
    said = UNKNOWN if model.said is None else f"{model.said:.3f}*"
    quality = said if mean is None else f"{mean:.3f}"
    window = UNKNOWN if model.window is None else f"{model.window:,}"
    return [*rates, window, quality, f"{model.measured.n:,}" if model.measured.n else UNKNOWN]


def _rate(usd: Decimal) -> str:
    return f"{usd:f}"


LATENCIES = (
    ("p50", "latency_p50_s"),
    ("p95", "latency_p95_s"),
    ("p99", "latency_p99_s"),
    ("first token p50", "first_token_p50_s"),
    ("first token p95", "first_token_p95_s"),
    ("first token p99", "first_token_p99_s"),
)


def _promised(objective: Objective | None) -> str:
    """An objective in a few words; a dash for none."""
    if objective is None:
        return UNKNOWN
    said = [
        f"{word} {seconds:g} s"
        for word, option in LATENCIES
        if (seconds := getattr(objective, option)) is not None
    ]
    if objective.availability is not None:
        said.append(f"{objective.availability * 100:.6g} %")
    if objective.cost_usd is not None:
        said.append(f"${objective.cost_usd}")
    return ", ".join(said) or UNKNOWN


def _as_json(arguments: argparse.Namespace, lines: Sequence[Line], tally: Tally) -> Mapping[str, object]:
    log = None
    if arguments.log is not None:
        log = {"file": arguments.log, "calls": tally.rows, "judged": tally.scored}
    return {"file": arguments.config, "log": log, "tiers": [_tier(line) for line in lines]}


def _tier(line: Line) -> Mapping[str, object]:
    objective: dict[str, object] = {}
    if line.objective is not None:
        for option in (*(option for _, option in LATENCIES), "availability", "cost_usd"):
            value = getattr(line.objective, option)
            if value is not None:
                objective[option] = f"{value}" if option == "cost_usd" else value
    return {
        "level": line.level,
        "tier": line.name,
        "purpose": line.purpose,
        "objective": objective or None,
        "deployments": [_model(model) for model in line.models],
    }


def _model(model: Model) -> Mapping[str, object]:
    price = model.price
    return {
        "name": model.name,
        "model": model.model,
        "provider": model.provider,
        "purpose": model.purpose,
        "input_usd_per_mtok": None if price is None else _rate(price.input_usd_per_mtok),
        "output_usd_per_mtok": None if price is None else _rate(price.output_usd_per_mtok),
        "context_window": model.window,
        "quality": model.measured.value,
        "judged": model.measured.n,
        "quality_said": model.said,
    }
