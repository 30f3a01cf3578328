"""Prices by name: what is found, what is not, and when it holds."""

from __future__ import annotations

import datetime
import json
import pickle
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tierllm import Price
from tierllm.cost.prices import PriceBook
from tierllm.cost.prices.names import Names, dashed
from tierllm.errors import ConfigError

NOW = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC).timestamp()
BOOK = PriceBook.bundled(clock=lambda: NOW)
OWN = Price(input_usd_per_mtok=7, output_usd_per_mtok=7)


def seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).replace(tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize(
    ("asked", "vendor", "meant"),
    [
        ("gpt-5-mini", None, "openai/gpt-5-mini"),
        ("GPT-5-Mini ", None, "openai/gpt-5-mini"),
        ("gpt-5-mini-2025-08-07", None, "openai/gpt-5-mini"),
        ("gpt-5-mini-20250807", None, "openai/gpt-5-mini"),
        ("openai/gpt-5", None, "openai/gpt-5"),
        ("openai/gpt-5", "openai", "openai/gpt-5"),
        ("openai/gpt-5", "openrouter", "openrouter/openai/gpt-5"),
        ("gpt-5", "azure", "azure/gpt-5"),
        ("azure/gpt-5", None, "azure/gpt-5"),
        ("gpt-5", "Azure", "azure/gpt-5"),
        ("models/gemini-2.5-pro", None, "google/gemini-2.5-pro"),
        ("models/gemini-2.5-pro", "google", "google/gemini-2.5-pro"),
        ("vertex_ai/gemini-2.5-pro", None, "google/gemini-2.5-pro"),
        ("claude-sonnet-4-5-20250929", None, "anthropic/claude-sonnet-4-5"),
        (
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
            None,
            "aws/regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("bedrock/global.anthropic.claude-opus-4-5", None, "aws/global.anthropic.claude-opus-4-5-v1:0"),
        (
            "us.anthropic.claude-3-haiku-20240307-v1:0",
            None,
            "aws/regional.anthropic.claude-3-haiku-20240307-v1:0",
        ),
        ("publishers/google/models/gemini-1.5-pro", "google", "google/gemini-1.5-pro"),
        ("gemini-2.5-pro-preview-05-06", None, "google/gemini-2.5-pro"),
        ("claude-3-5-sonnet@20241022", "vertex", "google/claude-3-5-sonnet"),
        ("mixtral-8x7b-instruct-v0.1", None, "mistral/mixtral-8x7b"),
        ("ft:gpt-4o-2024-08-06:acme::x7", "openai", "openai/ft:gpt-4o"),
        ("groq/llama-3.3-70b-versatile", None, "groq/llama-3.3-70b-versatile"),
        ("claude-sonnet-4-20250514", None, "anthropic/claude-sonnet-4-0"),
        ("gemini-2.0-flash-001", None, "google/gemini-2.0-flash"),
        ("gpt-5", "azure-openai", "azure/gpt-5"),
        ("gpt-5", "Azure_OpenAI", "azure/gpt-5"),
        ("azure_openai/gpt-5", None, "azure/gpt-5"),
        ("grok-4", "xai", "x-ai/grok-4-0709"),
        ("claude-sonnet-4-5", "vertex_ai", "google/claude-sonnet-4-5"),
    ],
)
def test_names_of_models(asked: str, vendor: str | None, meant: str) -> None:
    info = BOOK.find(asked, vendor)
    assert info is not None
    assert f"{info.vendor}/{info.model}" == meant
    assert info.price.source == BOOK.source
    assert info.price.as_of == BOOK.as_of


@pytest.mark.parametrize(
    ("asked", "vendor"),
    [
        ("", None),
        ("my-model", None),
        ("gpt", None),
        ("gpt-", None),
        ("gpt-5x", None),
        ("gpt-5.2-ultra", None),
        ("gpt-99", None),
        ("xgpt-5", None),
        ("ft:gpt-5:acme", None),
        ("claude", None),
        ("claude-opus-9", None),
        ("my-claude-opus-4-5", None),
        ("gemini-9-pro", None),
        ("gpt-5", "anthropic"),
        ("gpt-5", "some proxy"),
        ("llama-3.3-70b", None),
        ("unknown/gpt-5", None),
        ("/", None),
        ("\ud800", None),
        ("models/" * 50, None),
        ("us-gov-west-1/amazon.nova-pro-v1:0", "bedrock"),
        ("eu.amazon.nova-lite-v1:0", None),
        ("eu/o4-mini", "azure"),
        ("my-o4-mini-tuned", "azure"),
        ("o4-mini-tuned", "azure"),
        ("claude-opus-4.8-fast", "anthropic"),
        ("gemini-3.8-flash-cyber", None),
        ("deepseek-r1-distill-llama-8b", "deepseek"),
        ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", None),
        ("us-gov.anthropic.claude-haiku-5-5", "bedrock"),
        ("gemini-1.5-flash-8b", None),
        ("gemini-2.5-pro-3", None),
        ("gemini-2.5-pro3", None),
        ("claude-2.9", None),
        ("claude-29", None),
        ("claude-v29", None),
        ("claude-3-opus-9", None),
        ("claude-sonnet-4-20259999", None),
        ("gpt-5", "my-openai-proxy"),
        ("gpt-5", "openai-compatible"),
        ("claude-sonnet-4-5", "not-anthropic"),
        ("gemini-2.5-pro", "my-google"),
    ],
)
def test_what_only_resembles_a_model_or_may_cost_more_has_no_price(asked: str, vendor: str | None) -> None:
    assert BOOK.find(asked, vendor) is None


@pytest.mark.parametrize(
    ("model", "vendor", "why"),
    [
        ("sonar", "perplexity", "each request"),
        ("gemini-2.5-flash-image", None, "images"),
        ("whisper-1", None, "."),
    ],
)
def test_half_of_a_bill_is_no_price(model: str, vendor: str | None, why: str) -> None:
    assert BOOK.find(model, vendor) is None
    assert re.search(why, BOOK.left_out(model, vendor) or "")
    assert BOOK.left_out("gpt-5") is None
    assert BOOK.left_out("my-model") is None


def test_long_contexts_and_service_tiers() -> None:
    info = BOOK.find("gpt-5.4")
    assert info is not None
    assert info.context_window == 1_050_000
    ((start, step),) = info.price.above
    assert (start, step.input_usd_per_mtok) == (272_000, Decimal(5))
    service = dict(info.price.service)
    assert service["priority"].input_usd_per_mtok == 2 * info.price.input_usd_per_mtok
    assert service["batch"].output_usd_per_mtok == info.price.output_usd_per_mtok / 2
    elsewhere = BOOK.find("gpt-5-chat", "azure")
    assert elsewhere is None or not elsewhere.price.service


def test_another_vendors_models_come_without_its_service_tiers(tmp_path: Path) -> None:
    book = PriceBook.load(written(tmp_path, LIST))
    at_home, elsewhere = book.find("beta"), book.find("beta", "mall")
    assert at_home is not None
    assert elsewhere is not None
    assert dict(at_home.price.service)["flex"].input_usd_per_mtok == 1
    assert elsewhere.price.service == ()
    assert elsewhere.price.input_usd_per_mtok == at_home.price.input_usd_per_mtok
    assert (elsewhere.vendor, elsewhere.model) == ("mall", "beta")


LIST: dict[str, Any] = {
    "format": 1,
    "source": "a test",
    "as_of": "2026-11-01",
    "licence": "none",
    "vendors": {
        "acme": {
            "called": [{"contains": "acme"}],
            "makes": [{"starts_with": "alpha"}, "beta"],
            "also": [],
            "models": [
                {
                    "model": "alpha",
                    "names": ["alpha", {"all": [[{"starts_with": "alpha-"}], [{"regex": "^(?!.*-tts)"}]]}],
                    "context_window": 1000,
                    "prices": [
                        {"input": 1, "output": 2},
                        {
                            "from": "2026-06-01",
                            "input": 0.5,
                            "output": 1,
                            "above": {"100": {"input": 3, "output": 3}},
                        },
                        {"from": "2026-06-01", "hours": ["22:00", "04:00"], "input": 0.1, "output": 0.2},
                        {"from": "2027-01-01", "left_out": "it is gone"},
                    ],
                },
                {
                    "model": "beta",
                    "names": ["beta"],
                    "prices": [{"input": 2, "output": 2, "service": {"flex": {"input": 1, "output": 1}}}],
                },
                {
                    "model": "alpha-tts",
                    "names": [{"ends_with": "-tts"}],
                    "prices": [{"left_out": "it sings"}],
                },
            ],
        },
        "mall": {"called": [], "makes": [], "also": ["acme"], "models": []},
    },
}


def written(folder: Path, document: object) -> Path:
    path = folder / "prices.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("at", "input_usd", "changes_at"),
    [
        ("2020-01-01T00:00", "1", "2020-01-01T04:00"),
        ("2026-05-31T23:59:59", "1", "2026-06-01T00:00"),
        ("2026-06-01T00:00", "0.1", "2026-06-01T04:00"),
        ("2026-06-01T04:00", "0.5", "2026-06-01T22:00"),
        ("2026-06-01T21:59:59", "0.5", "2026-06-01T22:00"),
        ("2026-06-01T22:00", "0.1", "2026-06-02T04:00"),
        ("2026-12-31T23:00", "0.1", "2027-01-01T00:00"),
        ("2027-01-01T00:00", None, None),
    ],
)
def test_prices_hold_from_a_day_on_and_at_hours(
    tmp_path: Path, at: str, input_usd: str | None, changes_at: str | None
) -> None:
    book = PriceBook.load(written(tmp_path, LIST), clock=lambda: seconds(at))
    info = book.find("alpha")
    assert info == book.find("alpha", at=seconds(at))
    if info is None:
        assert (input_usd, book.left_out("alpha")) == (None, "it is gone")
    else:
        assert changes_at is not None
        assert info.price.input_usd_per_mtok == Decimal(input_usd or "NaN")
        assert info.changes_at == seconds(changes_at)


def test_patterns_are_the_lists_own(tmp_path: Path) -> None:
    book = PriceBook.load(written(tmp_path, LIST), clock=lambda: NOW)
    assert len(book) == 2
    assert book.names() == ["acme/alpha", "acme/beta"]
    assert book.find("alpha-2026") is not None
    assert book.find("alphabet") is None
    assert book.find("alpha-2026-tts") is None
    assert book.left_out("alpha-tts") == "it sings"
    assert book.find("alpha", "acme") is not None
    assert book.find("alpha", "the acme company") is None  # who is paid there is not said


class TestOwn:
    def test_goes_before_the_list(self) -> None:
        book = BOOK.with_prices({"gpt-5": OWN, "my-model": OWN})
        for asked in ("gpt-5", "GPT-5", "gpt-5-2025-08-07", "openai/gpt-5"):
            info = book.find(asked)
            assert info is not None
            assert info.price is OWN
            assert (info.vendor, info.context_window) == ("openai", 400_000)
        mine = book.find("My-Model")
        assert mine is not None
        assert (mine.vendor, mine.price, mine.context_window) == (None, OWN, None)
        assert len(book) == len(BOOK) + 2
        assert BOOK.find("my-model") is None

    def test_at_one_vendor_alone(self) -> None:
        book = BOOK.with_prices({"azure/gpt-5": OWN})
        azure, openai = book.find("gpt-5", "azure"), book.find("gpt-5")
        assert azure is not None
        assert openai is not None
        assert azure.price is OWN
        assert openai.price is not OWN

    def test_at_a_vendor_that_the_list_does_not_know(self) -> None:
        info = BOOK.with_prices({"proxy/gpt-5": OWN}).find("gpt-5", "proxy")
        assert info is not None
        assert (info.price, info.vendor) == (OWN, "proxy")

    def test_later_prices_go_before_earlier_ones(self) -> None:
        cheap = Price.free()
        info = BOOK.with_prices({"m": OWN}).with_prices({"M": cheap}).find("m")
        assert info is not None
        assert info.price is cheap

    def test_alone(self) -> None:
        book = PriceBook({"m": OWN})
        assert book.find("m") is not None
        assert book.find("gpt-5") is None
        assert (book.source, book.as_of, len(book), book.names()) == (None, None, 1, ["m"])

    @pytest.mark.parametrize("wrong", [{"": OWN}, {"m": 3}, {3: OWN}], ids=repr)
    def test_that_makes_no_sense(self, wrong: Any) -> None:
        with pytest.raises(ConfigError, match="prices="):
            BOOK.with_prices(wrong)


def without(*path: str | int) -> Callable[[], Any]:
    def make() -> Any:
        document = json.loads(json.dumps(LIST))
        place = document
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        return document

    return make


def replaced(value: object, *path: str | int) -> Callable[[], Any]:
    def make() -> Any:
        document = json.loads(json.dumps(LIST))
        place = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return document

    return make


ALPHA = ("vendors", "acme", "models", 0)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(list, id="a list"),
        pytest.param(dict, id="empty"),
        pytest.param(replaced(2, "format"), id="another format"),
        pytest.param(without("source"), id="no source"),
        pytest.param(replaced([], "vendors"), id="vendors"),
        pytest.param(replaced("acme", "vendors", "acme"), id="a vendor"),
        pytest.param(replaced([5], "vendors", "acme", "called"), id="a name"),
        pytest.param(replaced([{"regex": "("}], *ALPHA, "names"), id="a regex"),
        pytest.param(replaced([{"sounds_like": "a"}], *ALPHA, "names"), id="a kind of pattern"),
        pytest.param(replaced([{"starts_with": ""}], *ALPHA, "names"), id="a pattern for everything"),
        pytest.param(without(*ALPHA, "model"), id="no model"),
        pytest.param(replaced([], *ALPHA, "prices"), id="no prices"),
        pytest.param(replaced(0, *ALPHA, "context_window"), id="a window"),
        pytest.param(replaced(-1, *ALPHA, "prices", 0, "input"), id="a rate"),
        pytest.param(without(*ALPHA, "prices", 0, "output"), id="no rate"),
        pytest.param(replaced("June", *ALPHA, "prices", 1, "from"), id="a day"),
        pytest.param(replaced({"x": {}}, *ALPHA, "prices", 0, "above"), id="a step"),
        pytest.param(replaced(["1"], *ALPHA, "prices", 2, "hours"), id="hours"),
    ],
)
def test_a_broken_list_says_so(tmp_path: Path, make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="tierllm prices refresh"):
        PriceBook.load(written(tmp_path, make()))


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000], ids=["empty", "cut", "zero", "deep"])
def test_a_file_that_is_no_json_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"prices\.json"):
        PriceBook.load(path)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        PriceBook.load(tmp_path / "none.json")


def test_no_damage_raises_anything_else(tmp_path: Path) -> None:
    rng = random.Random(7)
    text = json.dumps(LIST)
    values = ["null", "-1", '""', "[]", "{}", '"x"', "NaN", "true", "1e999"]
    refused = 0
    for _ in range(1500):
        found = rng.choice(list(re.finditer(r'"[^"]*"(?!:)|\b[\d.]+\b|\[[^\[\]]*\]|\{[^{}]*\}', text)))
        path = tmp_path / "prices.json"
        path.write_text(text[: found.start()] + rng.choice(values) + text[found.end() :])
        try:
            book = PriceBook.load(path)
            book.names()
            for name in ("alpha", "beta", "acme/alpha-x", "alpha-tts"):
                book.find(name, at=NOW)
                book.left_out(name)
        except ConfigError:
            refused += 1
    assert 300 < refused < 1500


def test_it_is_read_when_first_asked_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    book = PriceBook.bundled()
    assert "not read yet" in repr(book)
    assert book
    reads = []
    catalogue = book._read
    assert catalogue is not None
    monkeypatch.setattr(book, "_read", lambda: (reads.append(1), catalogue())[1])
    together = threading.Barrier(4)
    found = []

    def ask() -> None:
        together.wait()
        found.append(book.find("gpt-5", at=NOW))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert reads == [1]
    assert found == [BOOK.find("gpt-5")] * 4


def test_what_is_remembered_stays_small() -> None:
    book = PriceBook.bundled(clock=lambda: NOW)
    for n in range(10_000):
        book.find(f"m{n}")
    assert book._list is not None
    assert len(book._list._found) <= 4096
    assert book.find("gpt-5") == BOOK.find("gpt-5")


def test_it_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="load it where it is needed"):
        pickle.dumps(BOOK)
    info = BOOK.find("gpt-5.4")
    assert pickle.loads(pickle.dumps(info)) == info


def test_names_alone() -> None:
    names = Names(["a", {"all": [[{"contains": "b"}], ["cb", "bc"]]}])
    assert [name for name in ("a", "ab", "cb", "bc", "b") if name in names] == ["a", "cb", "bc"]
    assert dashed("gpt-5-20250807-x") == "gpt-5-2025-08-07-x"
    assert dashed("gpt-5-20250231") == "gpt-5-20250231"


FIND = """
import sys
from tierllm.cost.prices import PriceBook
assert PriceBook.bundled().find("gpt-5")
print([name for name in ("genai_prices", "pydantic", "httpx2", "tiktoken") if name in sys.modules])
"""


def test_finding_needs_neither_the_extra_nor_pydantic() -> None:
    told = subprocess.run([sys.executable, "-c", FIND], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
