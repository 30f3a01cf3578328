"""Price lists made from genai-prices (MIT, Pydantic Services Inc.): the bundled one, and refreshed ones.

Their types say when a price holds and whom it concerns; here that is worked out for each day on
which something changes, with their own code, and written down (``listed``). Left out, but named:
what is not paid for by the token of text alone, since a price that omits half of a bill is wrong.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError, UsageError
from .book import PriceBook

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, ModelPrice, Provider, Tier, TieredPrices

__all__ = ["fetched", "installed", "price_list", "write"]

Entry = dict[str, object]

LICENCE = "MIT, Copyright (c) Pydantic Services Inc. 2025 to present"
KINDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
}
SERVICES = ("processing", "service_tier", "speed")
"""What a variant of a price may depend on; its value is the name of the service tier."""

LEFT_OUT = {
    "requests_kcount": "it asks for each request besides the tokens",
    "output_image_mtok": "images that it makes have a rate of their own",
    "output_audio_mtok": "speech that it makes has a rate of its own",
    "output_video_mtok": "video that it makes has a rate of its own",
    "audio_hours": "it asks by the hour of sound",
    "input_audio_hours": "it asks by the hour of sound",
    "input_mchars": "it asks by the character",
    "input_text_messages_kcount": "it asks by the message",
    "input_document_kpages": "it asks by the page",
    "input_annotated_document_kpages": "it asks by the page",
}


def price_list(providers: Sequence[Provider], *, source: str, as_of: str) -> str:
    """The list as text: JSON, a model a line."""
    vendors = []
    for provider in providers:
        about = {
            "called": _names(provider.provider_match),
            "makes": _names(provider.model_match),
            "also": provider.fallback_model_providers or [],
        }
        models = ",\n".join(_dumped(_model(model)) for model in provider.models)
        vendors.append(f'{_dumped(provider.id)}: {_dumped(about)[:-1]}, "models": [\n{models}\n]}}')
    head = _dumped({"format": 1, "source": source, "as_of": as_of, "licence": LICENCE})[:-1]
    return head + ', "vendors": {\n' + ",\n".join(vendors) + "\n}}\n"


def installed(today: datetime.date) -> str:
    """The list that the installed genai-prices carries. Raises ``ConfigError`` without it.

    Dated by the newest of its prices that had begun: it is at least that new.
    """
    _require()
    from genai_prices.data import providers
    from genai_prices.types import StartDateConstraint

    begun = [
        timed.constraint.start_date
        for provider in providers
        for model in provider.models
        for timed in (model.prices if isinstance(model.prices, list) else ())
        if isinstance(timed.constraint, StartDateConstraint) and timed.constraint.start_date <= today
    ]
    version = importlib.metadata.version("genai-prices")
    return price_list(providers, source=f"genai-prices {version}", as_of=max(begun).isoformat())


def fetched(today: datetime.date) -> str:
    """The newest list there is, from genai-prices' own address.

    Raises ``ConfigError`` without the package, ``UsageError`` where it cannot be had.
    """
    _require()
    import httpx2
    from genai_prices import UpdatePrices

    try:
        snapshot = UpdatePrices().fetch()
        if snapshot is None or not snapshot.providers:
            raise ValueError("it is empty")
        return price_list(snapshot.providers, source="genai-prices, fetched", as_of=today.isoformat())
    except (httpx2.HTTPError, ValueError, OSError) as exc:
        raise UsageError(
            f"the prices could not be fetched ({type(exc).__name__}: {exc}); nothing was written. "
            "Try again with a network, or take those of the installed genai-prices with --offline"
        ) from exc


def write(text: str, path: str | os.PathLike[str]) -> PriceBook:
    """Write the file whole or not at all, once it was read as a list with prices.

    Raises ``ConfigError`` where it cannot be written, or is no such list.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            book = PriceBook.load(name)
            if not len(book):
                raise ConfigError("the list has no prices; nothing was written")
            Path(name).chmod(0o644)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise ConfigError(f"{target}: {exc.strerror or exc}; nothing was written") from exc
    return book


def _require() -> None:
    try:
        import genai_prices  # noqa: F401
    except ImportError as exc:
        raise ConfigError('refreshing prices needs genai-prices: pip install "tierllm[prices]"') from exc


def _model(model: ModelInfo) -> Entry:
    entry: Entry = {"model": model.id, "names": _names(model.match)}
    if model.context_window:
        entry["context_window"] = model.context_window
    return {**entry, "prices": _periods(model)}


def _periods(model: ModelInfo) -> list[Entry]:
    from genai_prices.types import StartDateConstraint, TimeOfDateConstraint

    timed = [*(model.prices if isinstance(model.prices, list) else ()), *(model.price_variants or ())]
    days = {each.constraint.start_date for each in timed if isinstance(each.constraint, StartDateConstraint)}
    hours = {
        (each.constraint.start_time, each.constraint.end_time)
        for each in timed
        if isinstance(each.constraint, TimeOfDateConstraint)
    }
    usual = _outside(hours)
    periods: list[Entry] = []
    before: list[Entry] = []
    for day in [None, *sorted(days)]:
        of_day = day or datetime.date.min
        rest = _prices(model, datetime.datetime.combine(of_day, usual, datetime.UTC))
        changed = [rest]
        for start, end in sorted(hours):
            then = _prices(model, datetime.datetime.combine(of_day, start, datetime.UTC))
            if then != rest:
                changed.append({"hours": [f"{start:%H:%M}", f"{end:%H:%M}"], **then})
        if changed != before:
            periods += [{"from": day.isoformat(), **each} if day else each for each in changed]
        before = changed
    return periods


def _outside(hours: Iterable[tuple[datetime.time, datetime.time]]) -> datetime.time:
    """A time of the day outside of all ``hours``."""
    from genai_prices.types import TimeOfDateConstraint

    spans = [TimeOfDateConstraint(start, end) for start, end in hours]
    for minute in range(0, 24 * 60, 30):
        time = datetime.time(minute // 60, minute % 60)
        moment = datetime.datetime.combine(datetime.date.min, time, datetime.UTC)
        if not any(span.active(moment) for span in spans):
            return time
    raise ValueError("prices by the hour that leave no hour of the day")


def _prices(model: ModelInfo, moment: datetime.datetime) -> Entry:
    """What holds at a moment: rates, with those of the service tiers."""
    standard = model.get_prices(moment)
    rates = _rates(standard)
    if "left_out" in rates:
        return rates
    service: dict[str, Entry] = {}
    for variant in model.price_variants or ():
        ((key, tier), *more) = variant.when.items()
        if key in SERVICES and not more:
            theirs = _rates(model.get_prices(moment, {key: tier}))
            if theirs != rates and "left_out" not in theirs:
                service[tier] = theirs
    return {**rates, "service": service} if service else rates


def _rates(price: ModelPrice) -> Entry:
    asked = {name for name, value in price.__dict__.items() if value is not None}
    if not asked:
        return {"left_out": "the list has no price for it"}
    for name, why in LEFT_OUT.items():
        if name in asked:
            return {"left_out": why}
    if "input_mtok" not in asked:
        return {"left_out": "the list has no price for its input of text"}
    starts = {tier.start for kind in KINDS.values() for tier in _tiers(getattr(price, kind))}
    rates = _rates_above(price, 0)
    if starts:
        rates["above"] = {str(start): _rates_above(price, start + 1) for start in sorted(starts)}
    return rates


def _rates_above(price: ModelPrice, input_tokens: int) -> Entry:
    rates: Entry = {"input": 0, "output": 0}
    for name, kind in KINDS.items():
        value = getattr(price, kind)
        if value is None:
            continue
        rate = value if isinstance(value, Decimal) else value.base
        for tier in _tiers(value):
            if input_tokens > tier.start:
                rate = tier.price
        rates[name] = _number(rate)
    return rates


def _tiers(value: Decimal | TieredPrices | None) -> Sequence[Tier]:
    return () if value is None or isinstance(value, Decimal) else value.tiers


def _number(rate: Decimal) -> int | float | str:
    if rate == int(rate):
        return int(rate)
    return float(rate) if Decimal(repr(float(rate))) == rate else str(rate)


def _names(match: MatchLogic | None) -> list[object]:
    from genai_prices import types

    match match:
        case None:
            return []
        case types.ClauseEquals():
            return [match.equals.lower()]
        case types.ClauseOr():
            return [name for each in match.or_ for name in _names(each)]
        case types.ClauseAnd():
            return [{"all": [_names(each) for each in match.and_]}]
        case types.ClauseStartsWith():
            return [{"starts_with": match.starts_with.lower()}]
        case types.ClauseEndsWith():
            return [{"ends_with": match.ends_with.lower()}]
        case types.ClauseContains():
            return [{"contains": match.contains.lower()}]
        case types.ClauseRegex():
            return [{"regex": match.regex}]
        case _:
            raise ValueError(f"{type(match).__name__} is not known here: a newer tierllm may know it")


def _dumped(entry: object) -> str:
    return json.dumps(entry, ensure_ascii=False)
