"""The bundled list against its source: the same models, the same dollars."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tierllm import Usage
from tierllm.cost.prices import PriceBook, making
from tierllm.cost.prices.names import Names
from tierllm.errors import ConfigError

genai_prices = pytest.importorskip("genai_prices")
from genai_prices.data_snapshot import get_snapshot  # noqa: E402
from genai_prices.types import Usage as TheirUsage  # noqa: E402

BUNDLED = Path(making.__file__).with_name("prices.json")
BOOK = PriceBook.bundled()
SAME = f"genai-prices {importlib.metadata.version('genai-prices')}" == BOOK.source
same_version = pytest.mark.skipif(
    not SAME, reason=f"the bundled list is of {BOOK.source}, another is installed"
)

MOMENTS = ["2026-11-20T12:00", "2026-11-20T02:00", "2025-06-01T00:00"]
SERVICES: dict[str | None, dict[str, str] | None] = {
    None: None,
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
}
SHAPES = {  # input, output, of it from the cache, of it into the cache
    "plain": (1_200, 300, 0, 0),
    "cached": (20_000, 500, 15_000, 0),
    "written": (20_000, 500, 0, 12_000),
    "long": (600_000, 2_000, 100_000, 50_000),
    "output-heavy": (500, 30_000, 0, 0),
}


@functools.cache
def providers() -> list[Any]:
    return get_snapshot().providers


def models() -> Iterator[tuple[Any, Any, str]]:
    """Each model under a name that means it."""
    for provider in providers():
        for model in provider.models:
            names = [model.id, *(name for name in making._names(model.match) if isinstance(name, str))]
            for name in names:
                if provider.find_model(name, all_providers=providers()) is model:
                    yield provider, model, name
                    break


@same_version
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_model_costs_the_same(moment: str) -> None:
    at = datetime.datetime.fromisoformat(moment).replace(tzinfo=datetime.UTC)
    compared, left_out = 0, 0
    for provider, model, name in models():
        info = BOOK.find(name, provider.id, at.timestamp())
        if info is None:
            assert BOOK.left_out(name, provider.id, at.timestamp())
            left_out += 1
            continue
        assert info.model == model.id
        assert info.context_window == model.context_window
        for tier, context in SERVICES.items():
            for shape, (tokens_in, tokens_out, cached, written) in SHAPES.items():
                theirs = TheirUsage(
                    input_tokens=tokens_in,
                    output_tokens=tokens_out,
                    cache_read_tokens=cached,
                    cache_write_tokens=written,
                )
                ours = Usage(
                    input_tokens=tokens_in,
                    output_tokens=tokens_out,
                    cached_input_tokens=cached,
                    cache_write_tokens=written,
                    service_tier=tier,
                )
                cost = model.calc_price(
                    theirs, provider, genai_request_timestamp=at, price_context=context
                ).total_price
                assert info.price.cost_usd(ours) == cost, (provider.id, name, tier, shape)
                compared += 1
    assert compared > 35_000
    assert left_out < 300


@same_version
def test_names_mean_what_they_mean_there() -> None:
    compared = unsure = 0
    for provider in providers():
        known = [name for model in provider.models for name in (model.id, *making._names(model.match))]
        plain = [name for name in known if isinstance(name, str)][::3]
        for name in [
            n for p in plain for n in (p, f"{p}-2026-01-01", f"{p}-20260101", f"x{p}", p[:-1], f"{p}0")
        ]:
            theirs = provider.find_model(name, all_providers=providers())
            found = BOOK._list._at(provider.id, name.lower()) if BOOK._list and name else None
            if name.startswith("models/"):
                continue
            compared += 1
            if found is None and theirs is not None and theirs.id.lower() != name.lower():
                government = name.startswith("us-gov")
                assert government or name.lower() not in Names(making._names(theirs.match)).exact
                unsure += 1  # what stands before it or follows may mean another price
            else:
                assert (found[0].model if found else None) == (theirs.id if theirs else None), (
                    provider.id,
                    name,
                )
    assert compared > 5_000
    assert unsure < 150


@same_version
def test_makers_are_the_same() -> None:
    compared = 0
    for _, _, name in models():
        try:
            their_provider, theirs = get_snapshot().find_provider_model(name, None, None, None)
        except LookupError:
            continue
        info = BOOK.find(name)
        if "/" in name or (info and info.vendor == "aws"):
            continue  # vendors before a slash, and Bedrock's own names, are understood here
        if info is None:
            assert BOOK.left_out(name) or name.lower() not in Names(making._names(theirs.match)).exact
        else:
            assert (info.vendor, info.model) == (their_provider.id, theirs.id)
            compared += 1
    assert compared > 400


@same_version
def test_the_bundled_list_is_made_from_its_source_and_nothing_else() -> None:
    made = making.price_list(providers(), source=BOOK.source or "", as_of=BOOK.as_of or "")
    assert made == BUNDLED.read_text(encoding="utf-8")


def test_it_says_where_it_comes_from() -> None:
    assert (BOOK.source or "").startswith("genai-prices ")
    assert datetime.date.fromisoformat(BOOK.as_of or "") > datetime.date(2026, 1, 1)
    licence = BUNDLED.with_name("LICENSE-genai-prices").read_text(encoding="utf-8")
    assert licence.startswith("The MIT License")
    assert making.LICENCE.removeprefix("MIT, ") in licence
    assert len(BOOK) > 2000
    assert BUNDLED.stat().st_size < 1_000_000


def test_a_list_of_the_installed_source(tmp_path: Path) -> None:
    text = making.installed(datetime.date(2026, 11, 20))
    book = making.write(text, tmp_path / "prices.json")
    assert len(book) == len(PriceBook.load(tmp_path / "prices.json")) > 2000
    assert book.source == f"genai-prices {importlib.metadata.version('genai-prices')}"
    assert (tmp_path / "prices.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("text", ["{}", '{"format": 1', ""])
def test_what_is_no_list_replaces_nothing(tmp_path: Path, text: str) -> None:
    target = tmp_path / "prices.json"
    target.write_text("before")
    with pytest.raises(ConfigError):
        making.write(text, target)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["prices.json"]


def test_an_empty_list_replaces_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no prices"):
        making.write(making.price_list([], source="s", as_of="2026-01-01"), tmp_path / "prices.json")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    text = BUNDLED.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="nothing was written"):
        making.write(text, tmp_path / "none" / "prices.json")
