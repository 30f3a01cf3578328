"""``tierllm cache``: real directories, a real Redis."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Command, Ran
from stores.ground import Server, eventually
from tierllm import TieredClient
from tierllm.caching import DiskLayer, RedisLayer
from tierllm.caching.entry import Entry
from tierllm.caching.layer import Layer
from tierllm.cli.cache_entries import as_lines

SECRET = "What is our merger with Initech called?"
TIERS = """
[[tiers]]
name = "gold"
[[tiers.deployments]]
model = "big"
provider = "fake"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 10}

[[tiers]]
name = "silver"
[[tiers.deployments]]
model = "small"
provider = "fake"
"""
DISK = '[[cache.layers]]\nkind = "disk"\ndirectory = "state"\n'
REDIS = '[[cache.layers]]\nkind = "redis"\n'
MEMORY = '[[cache.layers]]\nkind = "memory"\n'


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        server = Server(Path(directory))
        yield server
        server.stop()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    with running.client() as client:
        client.flushall()
        client.script_flush()
    monkeypatch.setenv("REDIS_URL", running.url)
    return running


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A configuration in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, tiers: str = TIERS) -> Path:
        path = tmp_path / "tierllm.toml"
        path.write_text(text + tiers, encoding="utf-8")
        return path

    return write


@pytest.fixture(params=["disk", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        request.getfixturevalue("server")
    return str(request.param)


@pytest.fixture
def shared(kind: str, write: Write) -> Path:
    """A file with memory above a layer that processes share."""
    return write("[cache]\nttl_s = 600\n" + MEMORY + {"disk": DISK, "redis": REDIS}[kind])


def asked(path: Path, *prompts: str, **options: Any) -> None:
    """As another process of the application would."""
    with TieredClient.from_file(path) as client:
        for prompt in prompts:
            client.complete(prompt, **options)


def layer_of(kind: str, path: Path) -> Layer:
    if kind == "disk":
        return DiskLayer(path.parent / "state")
    return RedisLayer(os.environ["REDIS_URL"], timeout_s=5)


def told(ran: Ran) -> Any:
    assert ran.err == ""
    return json.loads(ran.out)


class TestStats:
    def test_each_layer(self, tierllm: Command, shared: Path, kind: str) -> None:
        asked(shared, "a", "b", "c")
        memory, below = told(tierllm("cache", "stats", "--json"))["layers"]
        assert (memory["layer"], memory["state"], memory["entries"]) == ("memory", "in each process", None)
        assert below["layer"].partition(" ")[0] == kind
        assert (below["state"], below["entries"]) == ("ok", 3)
        assert 0 < below["bytes"] < below["max_bytes"]
        ran = tierllm("cache", "stats")
        assert (ran.code, ran.err) == (0, "")
        assert str(below["max_bytes"]) in ran.out

    def test_what_it_saved_by_the_ledger(self, tierllm: Command, write: Write) -> None:
        path = write('[ledger]\npath = "usage.db"\n' + DISK)
        assert told(tierllm("cache", "stats", "--json"))["ledger"] is None
        asked(path, "a", "a", "a", "b")
        ledger = told(tierllm("cache", "stats", "--json"))["ledger"]
        assert (ledger["hits"], ledger["provider_calls"]) == (2, 2)
        with TieredClient.from_file(path) as client:
            usage = client.usage(outcome="cached")
        assert ledger["saved_usd"] == str(usage.saved_usd)
        assert usage.saved_usd > 0
        assert "2 answers from the cache, which saved $" in tierllm("cache", "stats").out

    @pytest.mark.parametrize("content", [b"no ledger at all" * 1000, b""], ids=["garbled", "empty"])
    def test_a_ledger_that_cannot_be_read_hides_no_layer(
        self, tierllm: Command, write: Write, content: bytes
    ) -> None:
        path = write('[ledger]\npath = "usage.db"\n' + DISK)
        asked(path, "a")
        (path.parent / "usage.db").write_bytes(content)
        ran = tierllm("cache", "stats", "--json")
        assert ran.code == 0
        assert json.loads(ran.out)["layers"][0]["entries"] == 1
        assert json.loads(ran.out)["ledger"] is None
        assert "usage.db" in ran.err
        assert ran.err.count("\n") == 1

    def test_memory_alone(self, tierllm: Command, write: Write) -> None:
        write("[cache]\n")
        ran = tierllm("cache", "stats")
        assert (ran.code, ran.err) == (0, "")
        assert "in each process" in ran.out

    def test_out_of_reach(self, process: Command, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://:verysecret@127.0.0.1:1/0")
        write(REDIS)
        ran = process("cache", "stats")
        assert ran.code == 1
        assert "out of reach" in ran.out
        assert "127.0.0.1:1" in ran.err
        assert ran.err.count("\n") == 1
        assert "verysecret" not in ran.out + ran.err


class TestGet:
    def test_where_and_until_when(self, tierllm: Command, shared: Path, kind: str) -> None:
        began = time.time()
        asked(shared, SECRET, tenant="acme", tags=["faq", "\x1b[31m"], depends_on={"doc:42": "one"})
        (shared.parent / "doc.txt").write_text("one")
        arguments = ("cache", "get", SECRET, "--tenant", "acme", "--depends-on", "doc:42=doc.txt")
        (entry,) = told(tierllm(*arguments, "--json"))["entries"]
        assert entry["layer"].partition(" ")[0] == kind
        assert [entry[n] for n in ("state", "tier", "deployment", "model", "tenant", "tags")] == [
            *("fresh", "gold", "big", "big", "acme"),
            ["faq", "\x1b[31m"],
        ]
        assert entry["depends_on"] == {"doc:42": hashlib.sha256(b"one").hexdigest()}
        assert entry["made_at"] < entry["fresh_until"] < entry["stale_until"]
        assert time.strftime("%Y-%m-%d %H", time.gmtime(began)) in entry["made_at"] or began % 3600 > 3500
        assert "text" not in entry
        ran = tierllm(*arguments)
        assert (ran.code, ran.err) == (0, "")
        assert "gold/big, model big" in ran.out
        assert "\x1b" not in ran.out
        digest = hashlib.sha256(b"one").hexdigest()
        by_hash = tierllm("cache", "get", SECRET, "--tenant", "acme", "--depends-on", f"doc:42={digest}")
        assert by_hash.out == ran.out

    def test_no_text_unless_it_is_asked_for(self, tierllm: Command, shared: Path) -> None:
        with TieredClient.from_file(shared) as client:
            answer = client.complete(SECRET).text
        for command in (("get", SECRET), ("get", SECRET, "--json"), ("stats",), ("verify",)):
            ran = tierllm("cache", *command)
            assert ran.code == 0
            assert answer not in ran.out + ran.err
            assert "Initech" not in ran.out + ran.err
        assert tierllm("cache", "get", SECRET, "--text").out.endswith(f"\n\n{answer}\n")
        assert told(tierllm("cache", "get", SECRET, "--text", "--json"))["entries"][0]["text"] == answer

    @pytest.mark.parametrize(
        ("options", "arguments"),
        [
            ({}, ()),
            ({"sla": "silver"}, ("--sla", "silver")),
            ({"tenant": "a"}, ("--tenant", "a")),
            ({"max_tokens": 300}, ("--max-tokens", "300")),
            ({"temperature": 0}, ("--temperature", "0")),
            ({"temperature": 0.5, "cache": "always"}, ("--temperature", "0.5")),
            ({"user": "u", "session": "s"}, ()),
        ],
        ids=lambda value: "-".join(map(str, value)).replace("--", ""),
    )
    def test_options_are_those_of_the_call(
        self, tierllm: Command, write: Write, options: dict[str, Any], arguments: tuple[str, ...]
    ) -> None:
        asked(write(DISK), "hi", **options)
        assert tierllm("cache", "get", "hi", *arguments).code == 0
        elsewhere = tierllm("cache", "get", "hi", *arguments, "--tenant", "else")
        assert (elsewhere.code, elsewhere.out) == (1, "nothing is kept for this\n")
        assert tierllm("cache", "get", "hello", *arguments).code == 1

    def test_labels_scopes_and_tiers_of_their_own(self, tierllm: Command, write: Write) -> None:
        tiers = TIERS.replace('model = "big"\n', 'model = "big"\nlabels = ["eu"]\n')
        path = write("[cache]\nscope = 'user'\nserve_higher = false\n" + DISK, tiers)
        asked(path, "hi", user="u", require={"eu"})
        assert tierllm("cache", "get", "hi", "--user", "u", "--require", "eu").code == 0
        assert tierllm("cache", "get", "hi", "--user", "v", "--require", "eu").code == 1
        assert tierllm("cache", "get", "hi", "--user", "u").code == 1
        asked(path, "hi", user="u")
        assert tierllm("cache", "get", "hi", "--user", "u").code == 0
        assert tierllm("cache", "get", "hi", "--user", "u", "--sla", "silver").code == 1

    def test_a_system_message_and_a_prompt_from_stdin(self, process: Command, write: Write) -> None:
        path = write(DISK)
        with TieredClient.from_file(path) as client:
            client.complete(
                [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße\n"}]
            )
        ran = process("cache", "get", "-", "--system", "Be brief.", stdin="Grüße\n".encode())
        assert (ran.code, ran.err) == (0, "")
        assert process("cache", "get", "-", stdin="Grüße\n".encode()).code == 1

    @pytest.mark.parametrize("change", ["observe", "off", "warm"])
    def test_what_is_kept_is_found_whatever_the_file_says_of_serving(
        self, tierllm: Command, write: Write, change: str
    ) -> None:
        asked(write(DISK), "hi")
        text, tiers = "[cache]\n", TIERS
        if change == "warm":
            tiers = TIERS.replace(
                "[[tiers.deployments]]", "defaults = {temperature = 1}\n[[tiers.deployments]]"
            )
        else:
            text += {"observe": "mode = 'observe'\n", "off": "default = 'off'\n"}[change]
        write(text + DISK, tiers)
        assert tierllm("cache", "get", "hi").code == 0

    @pytest.mark.parametrize("state", ["stale", "over", "invalid", "homeless"])
    def test_what_is_not_served_any_more(self, tierllm: Command, shared: Path, kind: str, state: str) -> None:
        asked(shared, "hi")
        if state in ("stale", "over"):
            changed(kind, shared, state)
        elif state == "invalid":
            assert tierllm("cache", "invalidate", "--everything").code == 0
        else:
            shared.write_text(shared.read_text().replace('model = "big"', 'model = "bigger"'))
        (entry,) = told(tierllm("cache", "get", "hi", "--json"))["entries"]
        assert entry["state"] == state
        ran = tierllm("cache", "verify", "--json")
        assert (ran.code, told(ran)["layers"][0][state]) == (0, 1)

    @pytest.mark.parametrize(
        "change",
        [
            'model = "big"\nparams = {top_p = 0.5}',
            'model = "big"\ndrop = ["seed"]',
            'model = "big"\n[providers.fake]\nkind = "fake"\nseed = 7',
        ],
    )
    def test_another_deployment_of_the_same_name_is_another_home(
        self, tierllm: Command, write: Write, change: str
    ) -> None:
        """The client goes by all its settings, too."""
        tiers = TIERS.replace("price =", "# price =")
        asked(write(DISK, tiers), "hi")
        path = write(DISK, tiers.replace('model = "big"\nprovider = "fake"', f'provider = "fake"\n{change}'))
        assert told(tierllm("cache", "get", "hi", "--json"))["entries"][0]["state"] == "homeless"
        with TieredClient.from_file(path) as client:
            assert not client.complete("hi").cached

    def test_nothing_that_was_kept_commands_the_terminal(self) -> None:
        evil = "\x1b]0;evil\x07\x1b[2J\rred"
        told = dict.fromkeys(("layer", "tier", "deployment", "model", "tenant", "text"), evil)
        when = dict.fromkeys(("made_at", "fresh_until", "stale_until"), "then")
        lines = as_lines(
            {"state": "fresh", "bytes": 9, "cost_usd": None, "tags": [evil], "depends_on": {evil: evil}}
            | told
            | when
            | {"text": f"{evil}\ntwo"}
        )
        assert lines.replace("\n", "").isprintable()
        assert lines.endswith("red\ntwo")

    def test_help_says_what_cannot_be_named(self, tierllm: Command) -> None:
        assert "top_p, seed, stop, tools" in " ".join(tierllm("cache", "get", "--help").out.split())

    def test_nobody_is_called(self, tierllm: Command, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        write(DISK + "[[budgets]]\nhard_calls = 0\n", TIERS.replace('"fake"', '"openai"'))
        ran = tierllm("cache", "get", "hi")
        assert (ran.code, ran.err) == (1, "")

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (("get",), 2, "required"),
            (("get", "hi", "--sla", "golf"), 1, "golf"),
            (("get", "hi", "--temperature", "9"), 1, "temperature"),
            (("get", "hi", "--depends-on", "doc"), 2, "NAME=FILE"),
            (("get", "hi", "--depends-on", "doc=no-such-file"), 2, "cannot be read"),
            (("invalidate",), 1, "say what"),
            (("invalidate", "--everything", "--tag", "a"), 1, "by itself"),
            (("invalidate", "--tag", ""), 1, "give a name"),
            ((), 2, "required"),
            (("stats", "--config", "none.toml"), 1, "there is no such file"),
            (("clear",), 1, "give --yes"),
        ],
        ids=lambda value: "-".join(value).replace("--", "") if isinstance(value, tuple) else "",
    )
    def test_what_makes_no_sense(
        self, tierllm: Command, write: Write, arguments: tuple[str, ...], code: int, words: str
    ) -> None:
        asked(write(DISK), "hi")
        ran = tierllm("cache", *arguments)
        assert (ran.code, ran.out) == (code, "")
        assert words in ran.err
        assert "Traceback" not in ran.err


def changed(kind: str, path: Path, how: str) -> bytes:
    """Put another entry in place of the only one; its slot."""
    layer = layer_of(kind, path)
    ((slot, data),) = layer.scan()
    entry = Entry.decode(data)
    assert entry is not None
    now = time.time()
    match how:
        case "stale":
            data = entry._replace(made_at=now - 9, fresh_until=now - 1).encode()
        case "over":
            data = entry._replace(made_at=now - 9, fresh_until=now - 2, stale_until=now - 1).encode()
        case "garbled":
            data = data[:-20] + bytes(20)
        case "cut":
            data = data[: len(data) // 2]
        case "nothing":
            data = b"tle"
        case "foreign":
            data = b"tle1" + data[4:]
        case "misplaced":
            data = entry._replace(canonical=entry.canonical + b"N").encode()
    layer.set(slot, data, ttl_s=60)
    layer.close()
    return slot


def garble_an_entry(answers: Path) -> None:
    with closing(sqlite3.connect(answers / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET value = x'00' WHERE rowid = (SELECT min(rowid) FROM Cache)")


class TestLooking:
    """``stats``, ``get`` and ``verify`` change nothing, whatever they find."""

    COMMANDS = (("stats",), ("get", "hi"), ("verify",))
    DAMAGE: Mapping[str, Callable[[Path], object]] = {
        "none": lambda answers: None,
        "an entry": garble_an_entry,
        "the database": lambda answers: (answers / "cache.db").write_bytes(b"none at all" * 1000),
        "no database": lambda answers: (answers / "cache.db").unlink(),
        "no notices": lambda answers: (answers / "notices").unlink(),
        "the notices": lambda answers: (answers / "notices").write_bytes(b"none\n"),
        "nothing there": lambda answers: [file.unlink() for file in answers.iterdir()],
    }

    @pytest.mark.parametrize("damage", DAMAGE)
    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
    def test_nothing_is_made_mended_or_moved(
        self, tierllm: Command, write: Write, command: tuple[str, ...], damage: str
    ) -> None:
        path = write("[cache]\none_flight = false\n" + DISK)  # no claim is given back later on
        asked(path, "hi", "hello")
        answers = path.parent / "state" / "answers"
        self.DAMAGE[damage](answers)
        before = {file.name: file.read_bytes() for file in answers.iterdir()}
        ran = tierllm("cache", *command, "--json")
        assert {file.name: file.read_bytes() for file in answers.iterdir()} == before
        assert json.loads(ran.out)
        assert ("cannot be used" in ran.err) == (damage == "the database")

    @pytest.mark.parametrize("damage", ["no notices", "the notices"])
    def test_without_its_notices_nothing_is_valid(self, tierllm: Command, write: Write, damage: str) -> None:
        """And so the next client finds it."""
        path = write(DISK)
        asked(path, "hi")
        self.DAMAGE[damage](path.parent / "state" / "answers")
        assert told(tierllm("cache", "get", "hi", "--json"))["entries"][0]["state"] == "invalid"
        with TieredClient.from_file(path) as client:
            assert not client.complete("hi").cached

    def test_while_it_is_in_use(self, tierllm: Command, write: Write) -> None:
        path = write(DISK)
        with TieredClient.from_file(path) as client:
            client.complete("hi")
            assert told(tierllm("cache", "verify", "--json"))["layers"][0]["fresh"] == 1
            client.cache.invalidate(everything=True)
            assert told(tierllm("cache", "get", "hi", "--json"))["entries"][0]["state"] == "invalid"
            assert client.complete("hello").cached is False
            assert client.complete("hello").cached


class TestVerify:
    def test_all_is_well(self, tierllm: Command, shared: Path) -> None:
        asked(shared, "a", "b", "c")
        ran = tierllm("cache", "verify", "--json")
        assert ran.code == 0
        (layer,) = told(ran)["layers"]
        assert (layer["fresh"], sum(v for v in layer.values() if isinstance(v, int))) == (3, 3)
        assert tierllm("cache", "verify").code == 0

    @pytest.mark.parametrize("how", ["garbled", "cut", "nothing", "misplaced"])
    def test_what_is_damaged_is_found_and_taken_out(
        self, tierllm: Command, shared: Path, kind: str, how: str
    ) -> None:
        asked(shared, "a")
        slot = changed(kind, shared, how)
        asked(shared, "b", "c")
        ran = tierllm("cache", "verify")
        assert (ran.code, ran.err) == (1, "")
        assert "1 damaged: --delete takes out what is" in ran.out
        assert told(tierllm("cache", "verify", "--json"))["damaged"] == 1  # it was only looked at
        ran = tierllm("cache", "verify", "--delete")
        assert ran.code == 1
        assert "1 damaged, and taken out" in ran.out
        ran = tierllm("cache", "verify", "--json")
        assert (ran.code, told(ran)["layers"][0]["fresh"]) == (0, 2)
        layer = layer_of(kind, shared)
        assert layer.get(slot) is None
        layer.close()

    def test_another_version_is_no_damage(self, tierllm: Command, shared: Path, kind: str) -> None:
        asked(shared, "a")
        changed(kind, shared, "foreign")
        ran = tierllm("cache", "verify", "--delete", "--json")
        assert (ran.code, told(ran)["layers"][0]["foreign"]) == (0, 1)

    def test_what_the_disk_layer_finds_by_itself(self, tierllm: Command, write: Write) -> None:
        path = write(DISK)
        asked(path, "a", "b")
        garble_an_entry(path.parent / "state" / "answers")
        ran = tierllm("cache", "verify")
        assert (ran.code, ran.err) == (1, "")
        assert "1 damaged: --delete takes out what is" in ran.out
        ran = tierllm("cache", "verify", "--delete")
        assert ran.code == 1
        assert "1 damaged, and taken out" in ran.out
        assert "an entry is not as it was written" in ran.err
        assert ran.err.count("\n") == 1
        assert tierllm("cache", "verify").code == 0

    def test_a_database_that_is_none(self, tierllm: Command, write: Write) -> None:
        path = write(DISK)
        asked(path, "a")
        (path.parent / "state" / "answers" / "cache.db").write_bytes(b"no database at all" * 1000)
        ran = tierllm("cache", "verify")
        assert ran.code == 1
        assert "file is not a database" in ran.err
        ran = tierllm("cache", "verify", "--delete")
        assert ran.code == 1
        assert "was moved to" in ran.err
        assert tierllm("cache", "verify").code == 0

    def test_out_of_reach(self, tierllm: Command, write: Write, server: Server) -> None:
        asked(write(REDIS + DISK), "a")
        write(REDIS + 'url = "redis://127.0.0.1:1/0"\n' + DISK)
        ran = tierllm("cache", "verify", "--json")
        assert ran.code == 1
        found = json.loads(ran.out)
        assert (found["damaged"], found["complete"]) == (0, False)
        assert found["layers"][1]["fresh"] == 1


class TestInvalidate:
    CALLS = (
        ("tagged", {"tags": ["faq"]}),
        ("based", {"depends_on": {"doc:42": "one"}}),
        ("based on another", {"depends_on": {"memo:1": "one"}}),
        ("acme's", {"tenant": "acme", "tags": ["faq"]}),
        ("plain", {}),
    )

    @pytest.mark.parametrize(
        ("arguments", "gone"),
        [
            (("--tag", "faq"), {"tagged", "acme's"}),
            (("--tag", "faq", "--tenant", "acme"), {"acme's"}),
            (("--document", "doc:42"), {"based"}),
            (("--document", "doc:42", "--document", "memo:1"), {"based", "based on another"}),
            (("--document", "doc:42", "--tag", "faq"), {"based", "tagged", "acme's"}),
            (("--prefix", "doc:"), {"based"}),
            (("--tenant", "acme"), {"acme's"}),
            (("--everything",), {"tagged", "based", "based on another", "acme's", "plain"}),
            (("--tag", "unknown"), set()),
        ],
        ids=lambda value: "".join(value).replace("--", "-") if isinstance(value, tuple) else "",
    )
    def test_a_running_process_hears_of_it(
        self, tierllm: Command, shared: Path, arguments: tuple[str, ...], gone: set[str]
    ) -> None:
        """It has the answers in its memory."""
        with TieredClient.from_file(shared) as client:
            for prompt, options in self.CALLS:
                client.complete(prompt, **options)  # type: ignore[arg-type]
            before = client.cache.boards.layers[0].heard()
            ran = tierllm("cache", "invalidate", *arguments)
            assert (ran.code, ran.err) == (0, "")
            assert ran.out.startswith("told ")
            eventually(lambda: client.cache.boards.layers[0].heard() > before)
            # of several names, each has a number of its own: until nothing new comes
            posted = layer_of("disk" if "disk" in ran.out else "redis", shared)
            last = posted.board().number
            posted.close()
            eventually(lambda: client.cache.boards.layers[0].heard() >= last)
            missed = {
                prompt
                for prompt, options in self.CALLS
                if not client.complete(prompt, **options).cached  # type: ignore[arg-type]
            }
        assert missed == gone

    def test_a_layer_out_of_reach_keeps_it_from_no_other(self, tierllm: Command, write: Write) -> None:
        asked(write(DISK), "hi")
        write(REDIS + 'url = "redis://127.0.0.1:1/0"\n' + DISK)
        ran = tierllm("cache", "invalidate", "--everything")
        assert ran.code == 1
        assert "redis was not told: run this again" in ran.err
        assert ran.out.startswith("told disk ")
        write(DISK)
        assert told(tierllm("cache", "get", "hi", "--json"))["entries"][0]["state"] == "invalid"


class Terminal(io.StringIO):
    """With nobody who types anything."""

    def isatty(self) -> bool:
        return True


class TestClear:
    def test_all_of_it(self, tierllm: Command, shared: Path, kind: str) -> None:
        asked(shared, "a", "b")
        ran = tierllm("cache", "clear", "--yes")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(f"cleared {kind}")
        assert told(tierllm("cache", "stats", "--json"))["layers"][1]["entries"] == 0

    @pytest.mark.parametrize(("answer", "left"), [("y", 0), ("n", 1), ("", 1)])
    def test_somebody_is_asked(
        self, tierllm: Command, write: Write, answer: str, left: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked(write(DISK), "a")
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        questions: list[str] = []
        monkeypatch.setattr("builtins.input", lambda question: (questions.append(question), answer)[1])
        assert tierllm("cache", "clear").code == (1 if left else 0)
        assert "state? [y/N] " in questions[0]
        assert told(tierllm("cache", "stats", "--json"))["layers"][0]["entries"] == left

    def test_an_end_of_input_is_a_no(
        self, tierllm: Command, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked(write(DISK), "a")
        monkeypatch.setattr("sys.stdin", Terminal())
        ran = tierllm("cache", "clear")
        assert (ran.code, ran.err) == (1, "")
        assert told(tierllm("cache", "stats", "--json"))["layers"][0]["entries"] == 1

    def test_nobody_is_there_to_be_asked(self, process: Command, write: Write) -> None:
        asked(write(DISK), "a")
        ran = process("cache", "clear")
        assert (ran.code, ran.out) == (1, "")
        assert "give --yes" in ran.err
        assert json.loads(process("cache", "stats", "--json").out)["layers"][0]["entries"] == 1


COMMANDS = (
    ("stats",),
    ("get", "hi"),
    ("invalidate", "--everything"),
    ("clear", "--yes"),
    ("verify",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_directory_is_made(
    tierllm: Command, write: Write, tmp_path: Path, command: tuple[str, ...]
) -> None:
    write(DISK + '[ledger]\npath = "logs/usage.db"\n[store]\nkind = "disk"\ndirectory = "kept"\n')
    ran = tierllm("cache", *command)
    assert (ran.code, ran.err) == (int(command[0] == "get"), "")
    assert [path.name for path in tmp_path.iterdir()] == ["tierllm.toml"]
    (tmp_path / "state").mkdir(mode=0o700)  # a store's, say
    tierllm("cache", *command)
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command[0])
def test_memory_is_each_processs_own(tierllm: Command, write: Write, command: tuple[str, ...]) -> None:
    write("[cache]\n")
    ran = tierllm("cache", *command)
    assert (ran.code, ran.out) == (1, "")
    assert "memory belongs to each process" in ran.err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_file_without_a_cache(tierllm: Command, write: Write, command: tuple[str, ...]) -> None:
    write("")
    ran = tierllm("cache", *command)
    assert (ran.code, ran.out) == (1, "")
    assert "there is no [cache] in it" in ran.err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_an_address_that_is_not_set(
    tierllm: Command, write: Write, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    write(REDIS)
    ran = tierllm("cache", *command)
    assert (ran.code, ran.out) == (1, "")
    assert "cache.layers[0].url_env: the environment variable REDIS_URL is not set" in ran.err


def test_another_store_needs_no_address(
    tierllm: Command, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    write('[store]\nkind = "redis"\n' + DISK)
    assert tierllm("cache", "get", "hi").err == ""


def test_other_commands_leave_the_cache_alone(tierllm: Command, write: Write, tmp_path: Path) -> None:
    write("")
    without = tierllm("drill", "--down", "gold", "tierllm.toml")
    write(MEMORY + DISK)  # a drill's calls are all alike
    assert tierllm("drill", "--down", "gold", "tierllm.toml") == without
    (tmp_path / "prompt.txt").write_text("hi")
    assert tierllm("estimate", "prompt.txt").code == 0
    assert tierllm("check").code == 0
    assert not (tmp_path / "state").exists()
