"""A price list as it is kept: one JSON document, a model a line.

``{"format": 1, "source": …, "as_of": …, "licence": …, "vendors": {NAME: {"called": names, "makes": names,
"also": [vendor, …], "models": [{"model": …, "names": …, "context_window": …, "prices": [period, …]}, …]}}}``

``called`` are the vendor's other names, of which only whole ones count (``sellers`` has more).
``makes`` are the names of models that mean this vendor where none is said, ``also`` the vendors
whose models it has besides its own, at their prices. A period is ``{"input": dollars per million
tokens, "output", "cached_input", "cache_write", "above": {tokens: rates}, "service": {tier: rates},
"from": day, "hours": ["01:00", "04:00"]}``, in UTC. The last that has begun holds. ``"left_out"``
in the place of rates says why there is no price: the name is known, and means nothing else.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..price import Price
from .names import Names

__all__ = ["Listed", "Period", "Vendor", "price_of"]

_RATES = {
    "input": "input_usd_per_mtok",
    "output": "output_usd_per_mtok",
    "cached_input": "cached_input_usd_per_mtok",
    "cache_write": "cache_write_usd_per_mtok",
}
_DAY_S = 86_400
_GOVERNMENT = "us-gov"


@dataclass(frozen=True, slots=True)
class Period:
    """A price and when it holds: from a moment on (seconds since 1970), within seconds of the day, or both.

    ``bare`` is the price without service tiers, ``left_out`` why there is none.
    """

    begins_at: float | None
    hours: tuple[int, int] | None
    price: Price | None
    bare: Price | None
    left_out: str | None

    def holds(self, at: float) -> bool:
        if self.begins_at is not None and at < self.begins_at:
            return False
        if self.hours is None:
            return True
        start, end = self.hours
        second = at % _DAY_S
        return start <= second < end if start <= end else second >= start or second < end

    def edges(self, at: float) -> Iterator[float]:
        """The next moments at which this begins or ends."""
        if self.begins_at is not None and self.begins_at > at:
            yield self.begins_at
        for second in self.hours or ():
            yield at + ((second - at) % _DAY_S or _DAY_S)


class Listed:
    """One vendor's model. Its prices are read when first asked for; ``ValueError`` if they cannot be."""

    __slots__ = ("_as_of", "_entry", "_periods", "_source", "context_window", "model", "names")

    def __init__(self, entry: object, *, source: str, as_of: str) -> None:
        if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
            raise ValueError("an entry has no model")
        self.model: str = entry["model"]
        window = entry.get("context_window")
        if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
            raise ValueError(f"{self.model}: context_window is no number of tokens")
        self.context_window: int | None = window
        self.names = Names(entry.get("names"))
        self._entry, self._source, self._as_of = entry, source, as_of
        self._periods: tuple[Period, ...] | None = None

    def sure(self, name: str) -> bool:
        """Whether ``name`` (in lower case, and found to mean this) is sure to be at this price."""
        if name.startswith(_GOVERNMENT):
            return False  # dearer, and listed as any other region
        return name == self.model.lower() or self.names.sure(name)

    @property
    def priced(self) -> bool:
        """Whether it has, had or will have a price."""
        return any(period.price is not None for period in self.periods())

    def periods(self) -> tuple[Period, ...]:
        if self._periods is None:
            entries = self._entry.get("prices")
            if not isinstance(entries, list) or not entries:
                raise ValueError(f"{self.model}: no prices")
            self._periods = tuple(self._period(entry) for entry in entries)
        return self._periods

    def at(self, moment: float) -> tuple[Period, float | None]:
        """The period of a moment (seconds since 1970), and when another may hold."""
        periods = self.periods()
        chosen = next((period for period in reversed(periods) if period.holds(moment)), periods[0])
        return chosen, min((edge for period in periods for edge in period.edges(moment)), default=None)

    def _period(self, entry: object) -> Period:
        if not isinstance(entry, dict):
            raise ValueError(f"{self.model}: a period is no object")
        begins, hours = entry.get("from"), entry.get("hours")
        try:
            begins_at = None if begins is None else _midnight(begins)
            span = None if hours is None else (_second(hours[0]), _second(hours[1]))
            if "left_out" in entry:
                return Period(begins_at, span, None, None, str(entry["left_out"]))
            price = price_of(entry, source=self._source, as_of=self._as_of)
            bare = replace(price, service=()) if price.service else price
            return Period(begins_at, span, price, bare, None)
        except (TypeError, ValueError, LookupError, AttributeError) as exc:
            raise ValueError(f"{self.model}: {exc}") from None


class Vendor:
    """One vendor's models, in the list's order: the first that has the name is meant."""

    def __init__(self, name: str, entry: object, *, source: str, as_of: str) -> None:
        if not isinstance(entry, dict) or not isinstance(entry.get("models"), list):
            raise ValueError(f"{name}: no models")
        try:
            self.models = [Listed(model, source=source, as_of=as_of) for model in entry["models"]]
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
        self.name = name
        self._exact: dict[str, int] = {}
        for at, model in enumerate(self.models):
            for each in model.names.exact:
                self._exact.setdefault(each, at)
        self._patterned = [at for at, model in enumerate(self.models) if model.names.patterns]

    def find(self, name: str) -> Listed | None:
        """The model called ``name`` (in lower case)."""
        found = self._exact.get(name, len(self.models))
        for at in self._patterned:
            if at >= found:
                break
            if name in self.models[at].names:
                return self.models[at]
        return self.models[found] if found < len(self.models) else None


def price_of(entry: dict[str, object], *, source: str | None = None, as_of: str | None = None) -> Price:
    """The ``Price`` of a period. Raises ``ValueError`` (``ConfigError`` is one) where it makes no sense."""
    rates = {_RATES[name]: entry[name] for name in _RATES if name in entry}
    above, service = entry.get("above", {}), entry.get("service", {})
    if not isinstance(above, dict) or not isinstance(service, dict):
        raise ValueError("above and service are objects of rates")
    return Price(
        **rates,  # type: ignore[arg-type]
        above={int(start): price_of(each, source=source, as_of=as_of) for start, each in above.items()},
        service={tier: price_of(each, source=source, as_of=as_of) for tier, each in service.items()},
        as_of=as_of,
        source=source,
    )


def _midnight(day: str) -> float:
    begin = datetime.datetime.combine(datetime.date.fromisoformat(day), datetime.time(), datetime.UTC)
    return begin.timestamp()


def _second(clock_time: str) -> int:
    read = datetime.time.fromisoformat(clock_time)
    return read.hour * 3600 + read.minute * 60 + read.second
