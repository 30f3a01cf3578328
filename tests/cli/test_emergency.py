"""``tierllm emergency``: real directories, a real Redis, another process."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.conftest import Ran
from stores.ground import Server, opened
from tierllm.admission.emergency import Emergencies
from tierllm.cli.emergency import add
from tierllm.errors import TierLLMError

TIERS = """
[[tiers]]
name = "gold"
max_concurrency = 8
[[tiers.deployments]]
model = "big"
provider = "fake"
[[tiers.sampling.steps]]
name = "short"
at = 1.2
max_tokens = 300
[[tiers.sampling.consent]]
steps = "all"
since = 2026-01-01
[tiers.sampling.emergencies]
disaster = ["short"]
"""
DISK = '[store]\nkind = "disk"\ndirectory = "state"\n'
REDIS = '[store]\nkind = "redis"\n'

Told = Callable[..., Ran]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """``tierllm emergency`` in this process."""
    parser = argparse.ArgumentParser(prog="tierllm")
    add(parser.add_subparsers(dest="command"))

    def run(*words: str) -> Ran:
        capsys.readouterr()
        try:
            arguments = parser.parse_args(["emergency", *words])
            code = int(arguments.run(arguments))
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        except TierLLMError as error:
            out, _ = capsys.readouterr()
            return Ran(1, out, str(error))
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "tierllm.toml").write_text(text, encoding="utf-8")

    return write


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture(params=["disk", "redis"])
def place(
    request: pytest.FixtureRequest,
    write: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A file with a shared store, and where that is."""
    if request.param == "disk":
        write(DISK + TIERS)
        return str(tmp_path / "state")
    server: Server = request.getfixturevalue("server")
    with server.client() as client:
        client.flushall()
    monkeypatch.setenv("REDIS_URL", server.url)
    write(REDIS + TIERS)
    return server.url


def declared(place: str) -> dict[str, float]:
    store = opened(place)
    try:
        return dict(Emergencies(store).listing(fresh=True))
    finally:
        store.close()


def test_declared_listed_and_ended(place: str, told: Told) -> None:
    assert told("--list") == Ran(0, "none is declared\n", "")
    before = time.time()
    ran = told("disaster", "--until", "2h")
    assert ran.code == 0
    assert ran.out.startswith("disaster is declared until ")
    assert before + 7200 <= declared(place)["disaster"] <= time.time() + 7200
    ends = datetime.fromtimestamp(declared(place)["disaster"], UTC).astimezone()
    assert told("--list").out == f"disaster until {ends.isoformat(sep=' ', timespec='seconds')}\n"
    assert told("disaster", "--end") == Ran(0, "disaster is over\n", "")
    assert declared(place) == {}
    assert told("disaster", "--end") == Ran(0, "disaster was not declared\n", "")


def test_without_an_end_it_lasts_an_hour(place: str, told: Told) -> None:
    before = time.time()
    assert told("disaster").code == 0
    assert before + 3600 <= declared(place)["disaster"] <= time.time() + 3600


def test_as_json(place: str, told: Told) -> None:
    ran = told("disaster", "--json")
    assert json.loads(ran.out) == {"name": "disaster", "until": declared(place)["disaster"]}
    assert json.loads(told("--list", "--json").out) == {"emergencies": declared(place)}
    assert json.loads(told("disaster", "--end", "--json").out) == {"name": "disaster", "until": None}


@pytest.mark.parametrize("text", ["2126-01-01T00:00", "2020-01-01T00:00"], ids=["far", "past"])
def test_an_end_that_makes_no_sense_is_refused(text: str, write: Callable[[str], None], told: Told) -> None:
    write(DISK + TIERS)
    ran = told("disaster", "--until", text)
    assert ran.code == 1
    assert "until=" in ran.err


@pytest.mark.parametrize(
    ("until", "seconds"),
    [("30m", 1800), ("2h", 7200), ("7d", 7 * 86_400)],
)
def test_spans(until: str, seconds: float, write: Callable[[str], None], told: Told, tmp_path: Path) -> None:
    write(DISK + TIERS)
    before = time.time()
    told("disaster", "--until", until)
    assert before + seconds <= declared(str(tmp_path / "state"))["disaster"] <= time.time() + seconds


def test_a_time_without_a_zone_is_the_local_one(
    write: Callable[[str], None], told: Told, tmp_path: Path
) -> None:
    write(DISK + TIERS)
    ends = datetime.fromtimestamp(time.time() + 86_400).replace(microsecond=0)
    told("disaster", "--until", ends.isoformat())
    assert declared(str(tmp_path / "state")) == {"disaster": ends.timestamp()}


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        (TIERS, ("disaster",), "shared store"),
        (TIERS, ("--list",), "shared store"),
        ('[store]\nkind = "memory"\n' + TIERS, ("disaster",), "shared store"),
        (DISK + TIERS, ("disastre",), "did you mean 'disaster'?"),
        (DISK + TIERS.partition("[tiers.sampling.em")[0], ("disaster",), "no tier answers to emergencies"),
        (DISK + TIERS, (), "give the NAME"),
        (DISK + TIERS, ("disaster", "--list"), "give the NAME"),
        (REDIS + TIERS, ("disaster",), "REDIS_URL is not set"),
        ("[[tiers]]", ("disaster",), "tierllm.toml"),
        (DISK + TIERS, ("disastre", "--end"), "did you mean 'disaster'?"),
        (DISK + TIERS, ("disaster", "--until", "8d"), "--until 8d: 7d at most"),
        (DISK + TIERS, ("disaster", "--until", "999999d"), "7d at most"),
        (DISK + TIERS, ("disaster", "--until", "0001-01-01T00:00"), "until="),
        (DISK + TIERS, ("disaster", "--until", "9999-12-31T23:59-10:00"), "within a year"),
    ],
)
def test_what_cannot_be_done_is_told(
    text: str,
    words: tuple[str, ...],
    error: str,
    write: Callable[[str], None],
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    write(text)
    ran = told(*words)
    assert ran.code == 1
    assert error in ran.err
    assert ran.out == ""


def test_one_that_the_file_has_no_more_can_still_be_ended(
    write: Callable[[str], None], told: Told, tmp_path: Path
) -> None:
    write(DISK + TIERS)
    told("disaster")
    write(DISK + TIERS.replace("disaster", "flood"))
    assert told("disaster", "--end").out == "disaster is over\n"
    assert declared(str(tmp_path / "state")) == {}


@pytest.mark.parametrize("words", [("disaster", "--until", "soon"), ("disaster", "--until", "2h", "--end")])
def test_arguments_that_make_no_sense(words: tuple[str, ...], told: Told) -> None:
    assert told(*words).code == 2


def test_a_redis_that_is_out_of_reach_is_told(
    write: Callable[[str], None], told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nowhere")
    write(REDIS + TIERS)
    for words in (("disaster",), ("disaster", "--end"), ("--list",)):
        ran = told(*words)
        assert ran.code == 1
        assert ran.err
