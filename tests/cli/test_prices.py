"""``tierllm prices``."""

from __future__ import annotations

import datetime
import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Command
from tierllm.cost.prices import PriceBook

RAW = [
    {
        "id": "acme",
        "name": "Acme",
        "api_pattern": "https://acme\\.example",
        "model_match": {"starts_with": "alpha"},
        "models": [
            {
                "id": "alpha",
                "match": {"or": [{"equals": "alpha"}, {"starts_with": "alpha-"}]},
                "context_window": 1000,
                "prices": [
                    {"prices": {"input_mtok": 1, "output_mtok": 2}},
                    {
                        "constraint": {"start_date": "2026-01-01"},
                        "prices": {
                            "input_mtok": {"base": 0.5, "tiers": [{"start": 100, "price": 0.75}]},
                            "output_mtok": 1,
                        },
                    },
                ],
            }
        ],
    }
]


class TestShow:
    def test_rates_steps_and_tiers(self, tierllm: Command) -> None:
        ran = tierllm("prices", "show", "gpt-5.4")
        assert ran.code == 0
        lines = [" ".join(line.split()) for line in ran.out.splitlines()]
        assert lines[0] == "gpt-5.4 · openai"
        assert "standard 2.5 0.25 as input 15" in lines
        assert "standard, input above 272,000 5 0.5 as input 22.5" in lines
        assert any(line.startswith("flex ") for line in lines)
        assert "context window 1,050,000 tokens" in lines
        book = PriceBook.bundled()
        assert f"source: {book.source}, of {book.as_of}" in lines

    def test_as_json(self, tierllm: Command) -> None:
        ran = tierllm("prices", "show", "gpt-5.4", "--json")
        told = json.loads(ran.out)
        assert ran.code == 0
        assert (told["model"], told["vendor"]) == ("gpt-5.4", "openai")
        assert told["price"]["input_usd_per_mtok"] == "2.5"
        assert told["price"]["cache_write_usd_per_mtok"] is None
        assert told["price"]["above"]["272000"]["output_usd_per_mtok"] == "22.5"
        assert told["price"]["service"]["batch"]["above"]["272000"]["input_usd_per_mtok"] == "2.5"
        assert told["as_of"] == PriceBook.bundled().as_of

    def test_at_a_vendor(self, tierllm: Command) -> None:
        assert tierllm("prices", "show", "gpt-5", "--vendor", "azure").out.startswith("gpt-5 · azure\n")

    def test_prices_by_the_hour(self, tierllm: Command) -> None:
        assert "may change at" in tierllm("prices", "show", "deepseek-v4-pro").out

    def test_what_is_unknown_shows_what_is_close(self, tierllm: Command) -> None:
        ran = tierllm("prices", "show", "gpt-5-minny")
        assert (ran.code, ran.out) == (1, "")
        assert "no price is known for 'gpt-5-minny'" in ran.err
        assert "openai/gpt-5-mini" in ran.err
        far = tierllm("prices", "show", "zzzzzzzzzzzz", "--vendor", "openai")
        assert far.err.strip() == "tierllm prices: no price is known for 'zzzzzzzzzzzz' at 'openai'"

    def test_what_is_left_out_says_why(self, tierllm: Command) -> None:
        ran = tierllm("prices", "show", "sonar", "--vendor", "perplexity")
        assert ran.code == 1
        assert "each request" in ran.err

    def test_a_file_that_is_not_there(self, tierllm: Command, tmp_path: Path) -> None:
        ran = tierllm("prices", "show", "gpt-5", "--file", str(tmp_path / "none.json"))
        assert ran.code == 1
        assert "No such file" in ran.err
        assert "Traceback" not in ran.err


class TestRefresh:
    def test_offline(self, tierllm: Command, tmp_path: Path) -> None:
        out = tmp_path / "prices.json"
        ran = tierllm("prices", "refresh", "--offline", "--out", str(out))
        assert ran.code == 0, ran.err
        assert f"{out}: {len(PriceBook.load(out)):,} prices; genai-prices " in ran.out
        shown = tierllm("prices", "show", "gpt-5", "--file", str(out))
        assert shown.out.startswith("gpt-5 · openai")

    def test_without_the_extra(
        self, tierllm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "genai_prices", None)
        ran = tierllm("prices", "refresh", "--out", str(tmp_path / "prices.json"))
        assert ran.code == 1
        assert ran.err.count("\n") == 1
        assert 'pip install "tierllm[prices]"' in ran.err
        assert list(tmp_path.iterdir()) == []

    def test_the_newest(self, tierllm: Command, tmp_path: Path, served: Served) -> None:
        served.body = json.dumps(RAW).encode()
        out = tmp_path / "prices.json"
        ran = tierllm("prices", "refresh", "--out", str(out))
        assert ran.code == 0, ran.err
        info = PriceBook.load(out).find("alpha-2026", at=1_800_000_000)
        assert info is not None
        assert str(info.price.input_usd_per_mtok) == "0.5"
        assert [(start, str(step.input_usd_per_mtok)) for start, step in info.price.above] == [(100, "0.75")]
        assert (info.context_window, info.vendor) == (1000, "acme")
        assert info.price.as_of == datetime.datetime.now(datetime.UTC).date().isoformat()

    @pytest.mark.parametrize(
        ("status", "body"),
        [(500, b"oops"), (404, b""), (200, b"<html>"), (200, b"{}"), (200, b"[]"), (200, b'[{"id": "x"}]')],
        ids=["500", "404", "page", "object", "nothing", "another-shape"],
    )
    def test_what_cannot_be_had_overwrites_nothing(
        self, tierllm: Command, tmp_path: Path, served: Served, status: int, body: bytes
    ) -> None:
        served.status, served.body = status, body
        out = tmp_path / "prices.json"
        out.write_text("before")
        ran = tierllm("prices", "refresh", "--out", str(out))
        assert ran.code == 1
        assert "nothing was written" in ran.err
        assert "--offline" in ran.err
        assert out.read_text() == "before"
        assert [path.name for path in tmp_path.iterdir()] == ["prices.json"]

    def test_without_a_network(
        self, tierllm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            fetch_from(f"http://127.0.0.1:{free.getsockname()[1]}/", monkeypatch)
        ran = tierllm("prices", "refresh", "--out", str(tmp_path / "prices.json"))
        assert ran.code == 1
        assert "could not be fetched (ConnectError: " in ran.err
        assert list(tmp_path.iterdir()) == []


class Served:
    status = 200
    body = b"[]"


def fetch_from(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import genai_prices

    theirs = genai_prices.UpdatePrices
    monkeypatch.setattr(genai_prices, "UpdatePrices", lambda: theirs(url=url))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """What the address of the newest prices answers."""
    told = Served()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(told.status)
            self.send_header("content-length", str(len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        fetch_from(f"http://127.0.0.1:{server.server_port}/", monkeypatch)
        yield told
        server.shutdown()
        thread.join()
