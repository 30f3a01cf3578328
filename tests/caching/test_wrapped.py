"""Existing calls under ``@tiered.call``, and plain functions, with a cache."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field, PrivateAttr

import tierllm
from tierllm import Deployment, ResultCache, Route, Tier, TieredClient, tiered
from tierllm.caching.key import Key, key_of
from tierllm.errors import CacheMissError, ConfigError, ProviderUnavailableError
from tierllm.providers.identity import identity
from tierllm.types import Request


@pytest.fixture
def client() -> Iterator[TieredClient]:
    tiers = [Tier("gold", [Deployment("g")]), Tier("bronze", [Deployment("b")])]
    with TieredClient(tiers, cache=ResultCache(), retry=False) as client:
        yield client


def completion(text: str, finish_reason: str = "stop") -> ChatCompletion:
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": text},
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return ChatCompletion.model_validate(
        {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
    )


CALLS: list[object] = []
"""Calls that functions made: what they hold themselves would be part of the key."""


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


class Counted:
    """A call of the application's own, and how often it was made."""

    made: ClassVar[list[Counted]] = []

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer
        self.calls = 0
        self.made.append(self)

    def decorated(self, client: TieredClient, **options: Any) -> Any:
        number = self.made.index(self)

        def ask(question: str, style: object = "plain", *, route: Route = Route.INJECTED) -> Any:
            return Counted.made[number].called(question)

        return tiered.call(client=client, prompt=lambda question, *_, **__: question, **options)(ask)

    def called(self, question: str) -> Any:
        self.calls += 1
        return self.answer(question)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda q: f"To {q}: yes", id="text"),
        pytest.param(lambda q: {"answer": [q, 1, 2.5, None, True]}, id="plain data"),
        pytest.param(completion, id="an SDK's answer"),
    ],
)
def test_a_wrapped_call_is_answered_again(client: TieredClient, answer: Callable[[str], Any]) -> None:
    counted = Counted(answer)
    ask = counted.decorated(client)
    first, second, third = ask("why"), ask("why"), ask("why")
    assert counted.calls == 1
    assert first == second == third
    assert type(second) is type(first)
    if not isinstance(second, str):
        assert second is not third  # each caller's own


def test_changing_an_answer_changes_nobody_elses(client: TieredClient) -> None:
    ask = Counted(lambda q: {"words": [q]}).decorated(client)
    for _ in range(3):
        answer = ask("why")
        assert answer == {"words": ["why"]}
        answer["words"].append("mine")


def test_arguments_are_part_of_the_key(client: TieredClient) -> None:
    counted = Counted(lambda q: q)
    ask = counted.decorated(client)
    ask("why", "short")
    ask("why", "long")
    ask("why")
    assert counted.calls == 3
    ask("why", "short")
    assert counted.calls == 3


def test_however_a_call_spells_its_arguments_it_is_the_same(client: TieredClient) -> None:
    counted = Counted(lambda q: q)
    ask = counted.decorated(client)
    ask("why")
    ask("why", "plain")
    ask("why", style="plain")
    ask(style="plain", question="why")
    assert counted.calls == 1
    with pytest.raises(TypeError):
        ask("why", styel="plain")


def test_an_argument_that_cannot_be_written_down_keeps_the_cache_out(client: TieredClient) -> None:
    counted = Counted(lambda q: q)
    ask = counted.decorated(client)
    ask("why", object())
    ask("why", object())
    assert counted.calls == 2
    assert client.cache.stats().bypassed == 2


def test_two_functions_with_one_prompt_are_two(client: TieredClient) -> None:
    @tiered.call(client=client, prompt=lambda q: q)
    def one(q: str) -> str:
        return "one"

    @tiered.call(client=client, prompt=lambda q: q)
    def two(q: str) -> str:
        return "two"

    assert [one("q"), two("q"), one("q"), two("q")] == ["one", "two", "one", "two"]


def test_without_a_prompt_there_is_no_key(client: TieredClient) -> None:
    @tiered.call(client=client)
    def ask(q: str) -> str:
        CALLS.append(q)
        return q

    ask("q")
    ask("q")
    assert len(CALLS) == 2


def test_what_was_cut_is_not_kept(client: TieredClient) -> None:
    counted = Counted(lambda q: completion(q, "length"))
    ask = counted.decorated(client)
    ask("why")
    ask("why")
    assert counted.calls == 2


def test_once_only_calls_are_not_answered_again(client: TieredClient) -> None:
    counted = Counted(lambda q: q)
    ask = counted.decorated(client, repeatable=False)
    ask("book a flight")
    ask("book a flight")
    assert counted.calls == 2


def test_generators_are_not_kept(client: TieredClient) -> None:
    @tiered.call(client=client, prompt=lambda q: q)
    def ask(q: str) -> Iterator[str]:
        CALLS.append(q)
        yield from q

    assert list(ask("abc")) == list(ask("abc")) == ["a", "b", "c"]
    assert len(CALLS) == 2


def test_methods_count_with_their_object(client: TieredClient) -> None:
    class Prompted(BaseModel):
        words: str

        def ask(self, q: str) -> str:
            return f"{self.words} {q}"

    def wrapped(prompted: Prompted) -> Callable[[str], str]:
        return tiered.call(client=client, prompt=lambda q: q)(prompted.ask)

    rude, kind = Prompted(words="go away"), Prompted(words="dear")
    assert wrapped(rude)("ann") == "go away ann"
    assert wrapped(kind)("ann") == "dear ann"
    assert wrapped(rude)("ann") == "go away ann"
    assert client.cache.stats().hits == {"memory": 1}


@pytest.mark.parametrize("answer", [lambda q: {"a": q}, completion], ids=["plain data", "an SDK's answer"])
def test_threads_make_one_call_in_the_founders_thread(
    client: TieredClient, answer: Callable[[str], Any]
) -> None:
    gate, threads = threading.Event(), []

    def slow(question: str) -> Any:
        threads.append(threading.current_thread().name)
        gate.wait(10)
        return answer(question)

    counted = Counted(slow)
    ask = counted.decorated(client)
    with ThreadPoolExecutor(20, thread_name_prefix="caller") as pool:
        answers = [pool.submit(ask, "why") for _ in range(20)]
        while client.status()["in_flight"] < 20:
            pass
        gate.set()
        got = [each.result(10) for each in answers]
    assert counted.calls == 1
    assert all(each == answer("why") for each in got)
    assert len({id(each) for each in got}) == 20
    assert threads[0].startswith("caller")  # what a wrapped function keeps per thread is where it looks


def test_what_cannot_be_copied_is_asked_for_by_each(client: TieredClient) -> None:
    class Own:
        pass

    counted = Counted(lambda q: Own())
    ask = counted.decorated(client)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: ask("why"), range(8)))
    assert len({id(each) for each in got}) == 8
    assert counted.calls == 8


async def test_tasks_make_one_call(client: TieredClient) -> None:
    @tiered.call(client=client, prompt=lambda q: q)
    async def ask(q: str) -> ChatCompletion:
        CALLS.append(q)
        await asyncio.sleep(0.01)
        return completion(q)

    founder = asyncio.create_task(ask("why"))
    others = [asyncio.create_task(ask("why")) for _ in range(20)]
    while not CALLS:
        await asyncio.sleep(0)
    founder.cancel()
    got = await asyncio.gather(*others)
    assert len(CALLS) == 1
    assert {each.choices[0].message.content for each in got} == {"why"}


def test_an_old_answer_is_a_wrapped_calls_own_kind(client: TieredClient) -> None:
    answers: list[Any] = [completion("old")]

    def next_answer(question: str) -> Any:
        if not answers:
            raise ProviderUnavailableError("gone", status=503)
        return answers.pop()

    ask = Counted(next_answer).decorated(client, cache_ttl_s=0.0)
    assert ask("why").choices[0].message.content == "old"
    assert ask("why").choices[0].message.content == "old"  # both tiers are out


PROCESS = """
import sys
from pydantic import BaseModel
from tierllm import Deployment, ResultCache, Tier, TieredClient, tiered
from tierllm.caching import DiskLayer, MemoryLayer

class Style(BaseModel):
    words: str = "plain"

cache = ResultCache([MemoryLayer(), DiskLayer(sys.argv[1])])
client = TieredClient([Tier("gold", [Deployment("g")])], cache=cache)
TONE = "kind"

def made(settings, style):
    def shaped(text):
        return {"text": text, "words": [TONE, settings["lang"]]} if text not in {"a", "b", "c"} else {}

    @tiered.call(client=client, prompt=lambda q, **_: q)
    def ask(q, *, style=style):
        print("called")
        return shaped(q)

    return ask

with client:
    assert made({"lang": "en"}, Style())("why") == {"text": "why", "words": ["kind", "en"]}
"""


def test_a_new_process_reads_what_another_one_kept(tmp_path: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", PROCESS, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2", "3")
    ]
    assert said == [["called"], [], []]


# -- a changed function -----------------------------------------------------------------


def made(source: str, **names: Any) -> Any:
    space: dict[str, Any] = {"__name__": "made", **names}
    exec(source, space)
    return space["ask"]


PLAIN = "def ask(q): return 'x' + q"
CHANGED = {
    "code": (made(PLAIN), made("def ask(q): return q + 'x'")),
    "constant": (made(PLAIN), made("def ask(q): return 'y' + q")),
    "default": (made("def ask(q, s='a'): return s"), made("def ask(q, s='b'): return s")),
    "keyword default": (made("def ask(q, *, s='a'): return s"), made("def ask(q, *, s='b'): return s")),
    "global text": (made("def ask(q): return P", P="be kind"), made("def ask(q): return P", P="be rude")),
    "inner function": (
        made("def ask(q):\n def f(): return 'a'\n return f()"),
        made("def ask(q):\n def f(): return 'b'\n return f()"),
    ),
    "set of constants": (
        made("def ask(q): return q in {'a', 'b'}"),
        made("def ask(q): return q in {'a', 'c'}"),
    ),
    "closure": (
        made("def outer(s):\n def ask(q): return s\n return ask\nask = outer('a')"),
        made("def outer(s):\n def ask(q): return s\n return ask\nask = outer('b')"),
    ),
    "partial": (functools.partial(made(PLAIN), "a"), functools.partial(made(PLAIN), "b")),
    "global text in an inner function": (
        made("def ask(q): return [P + x for x in q]", P="be kind"),
        made("def ask(q): return [P + x for x in q]", P="be rude"),
    ),
    "range of a try": (
        made("def ask(q):\n try:\n  q()\n except OSError: pass\n q()"),
        made("def ask(q):\n q()\n try:\n  q()\n except OSError: pass"),
    ),
    "cached": (functools.cache(made(PLAIN)), functools.cache(made("def ask(q): return 'y' + q"))),
}


def name_of(fn: Callable[..., Any]) -> Key | None:
    return key_of(Request(messages=({"role": "user", "content": "q"},)), scope="", also=identity(fn))


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_function_is_another(case: str) -> None:
    one, other = CHANGED[case]
    assert name_of(one) is not None
    assert name_of(one) == name_of(one)
    assert name_of(one) != name_of(other)


# -- two functions of one factory ---------------------------------------------------------


class Words(BaseModel):
    said: str = "x"
    apart: str = Field("x", exclude=True)
    _private: str = PrivateAttr("x")

    def ask(self, q: str) -> str:
        return self.said + self.apart + self._private

    @classmethod
    def private(cls, words: str) -> Words:
        made = cls()
        made._private = words
        return made


class Others(BaseModel):
    other: str = "x"


class Tool:
    """Not plain, but in a closure by its name."""


class OtherTool:
    pass


def over(held: Any) -> Callable[[str], Any]:
    return lambda q: held


def by_default(held: Any) -> Callable[[str], Any]:
    def ask(q: str, held: Any = held) -> Any:
        return held

    return ask


def recursive(held: Any) -> Callable[[str], Any]:
    def ask(q: str) -> Any:
        return held if q else ask(q)

    return ask


def over_a_wrapper(held: Any) -> Callable[[str], Any]:
    fn = over(held)
    return lambda q: fn(q)


def wrapping(held: Any) -> Callable[[str], Any]:
    @functools.wraps(over("x"))
    def ask(q: str) -> Any:
        return held

    return ask


def around_it(held: Any) -> Callable[[str], Any]:
    @functools.wraps(over(held))
    def ask(q: str) -> Any:
        return ask.__wrapped__(q)  # type: ignore[attr-defined]

    return ask


FACTORIES = {
    "closure": over,
    "default": by_default,
    "recursive": recursive,
    "function in a closure": over_a_wrapper,
    "wraps": wrapping,
    "wrapped": around_it,
    "partial": lambda held: functools.partial(over(held), "a"),
    "argument of a partial": lambda held: functools.partial(by_default("x"), held=held),
    "cached": lambda held: functools.lru_cache(over(held)),
    "class method": lambda held: functools.partial(Words.private, held),
}
HELD = {
    "mappings": ({"model": "a"}, {"model": "b"}),
    "lists": (["a"], ["b"]),
    "numbers": (1, 2),
    "text and mapping": ("a", {"a": 1}),
    "text and class": ("Tool", Tool),
    "classes": (Tool, OtherTool),
    "schemas": (Words, Others),
    "objects": (Words(said="a"), Words(said="b")),
    "excluded fields": (Words(apart="a"), Words(apart="b")),
    "private fields": (Words.private("a"), Words.private("b")),
    "given or by default": (Words(), Words(said="x")),
    "methods": (Words(said="a").ask, Words(said="b").ask),
    "functions": (made(PLAIN), made("def ask(q): return 'y' + q")),
    "functions of a factory": (over("a"), over("b")),
    "modules": (functools, asyncio),
    "builtins": (len, print),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("factory", FACTORIES)
def test_two_functions_of_one_factory_are_two(factory: str, held: str) -> None:
    one, other = HELD[held]
    make = FACTORIES[factory]
    assert name_of(make(one)) is not None
    assert name_of(make(one)) == name_of(make(one))
    assert name_of(make(one)) != name_of(make(other))


class Retry:
    """As ``functools.update_wrapper`` makes of objects."""

    def __init__(self, fn: Callable[..., Any], model: str) -> None:
        functools.update_wrapper(self, fn)
        self.model = model

    def __call__(self, q: str) -> str:
        return self.model + q


def local_class(words: str) -> type:
    class Local:
        said = words

    return Local


def long_chain() -> Callable[[str], Any]:
    fn = over("x")
    for _ in range(5_000):
        fn = over_a_wrapper(fn)
    return fn


@pytest.mark.parametrize(
    "fn",
    [
        over(object()),
        over({"client": object()}),
        over(local_class("a")),
        over([over("a")]),
        by_default(threading.Lock()),
        Retry(made(PLAIN), "a"),
        over(Retry(made(PLAIN), "a")),
        functools.partial(over("a"), object()),
        [].append,
        long_chain(),
    ],
    ids=range(10),
)
def test_what_cannot_be_told_from_others_has_no_key(fn: Callable[..., Any]) -> None:
    assert name_of(fn) is None


def test_two_functions_of_one_factory_have_answers_of_their_own(client: TieredClient) -> None:
    def make(settings: dict[str, str]) -> Any:
        @tiered.call(client=client, prompt=lambda q: q)
        def ask(q: str) -> str:
            CALLS.append(q)
            return settings["model"]

        return ask

    for model in ("a", "b", "a", "b"):
        assert make({"model": model})("why") == model
    assert len(CALLS) == 2


def test_a_pydantic_argument_counts_with_all_that_it_holds(client: TieredClient) -> None:
    @tiered.call(client=client, prompt=lambda q, words: q)
    def ask(q: str, words: Words) -> str:
        return words.ask(q)

    for words in (Words(apart="a"), Words(apart="b"), Words.private("c"), Words.private("d")):
        assert ask("why", words) == ask("why", words) == words.ask("why")
    assert client.cache.stats().hits == {"memory": 4}


def test_a_counter_among_the_globals_does_not_matter() -> None:
    source = "def ask(q):\n global n\n n += 1\n return q"
    assert identity(made(source, n=1)) == identity(made(source, n=2))


# -- without a client ---------------------------------------------------------------------

TEXT: list[str] = []


def test_a_plain_function() -> None:
    cache = ResultCache()

    @cache.wrap
    def ask(question: str, times: int = 1) -> list[str]:
        CALLS.append(question)
        return [question] * times

    assert ask("a") == ask("a") == ["a"]
    assert ask("a", times=2) == ["a", "a"]
    assert len(CALLS) == 2
    assert cache.stats().hits == {"memory": 1}


async def test_a_coroutine_function_makes_one_call() -> None:
    cache = ResultCache()

    async def ask(question: str) -> str:
        CALLS.append(question)
        await asyncio.sleep(0)
        return question.upper()

    wrapped = cache.wrap(ask)
    assert await asyncio.gather(*(wrapped("a") for _ in range(10))) == ["A"] * 10
    assert len(CALLS) == 1


def test_alone_it_depends_on_contents_and_tags_too() -> None:
    cache = ResultCache()
    TEXT[:] = ["v1"]

    def ask(document: str) -> str:
        CALLS.append(document)
        return TEXT[0]

    wrapped = cache.wrap(ask, tags=["handbook"], depends_on=lambda document: {document: TEXT[0]})
    assert [wrapped("d"), wrapped("d")] == ["v1", "v1"]
    TEXT[0] = "v2"
    assert [wrapped("d"), wrapped("d")] == ["v2", "v2"]
    assert len(CALLS) == 2
    cache.invalidate(tag="handbook")
    assert wrapped("d") == "v2"
    assert len(CALLS) == 3


@pytest.mark.parametrize(
    ("shared_by", "whose", "calls"),
    [
        ("tenant", ({"tenant": "acme"}, {"tenant": "globex"}), 2),
        ("tenant", ({"tenant": "acme", "user": "ann"}, {"tenant": "acme", "user": "bob"}), 1),
        ("user", ({"user": "ann"}, {"user": "bob"}), 2),
        ("session", ({"session": "1"}, {"session": "2"}), 2),
        ("shared", ({"user": "ann"}, {"user": "bob"}), 1),
        (lambda request: str(request.plan), ({"plan": "free"}, {"plan": "paid"}), 2),
    ],
    ids=range(6),
)
def test_alone_a_scope_says_whose_call_it_is(
    shared_by: Any, whose: tuple[dict[str, Any], dict[str, Any]], calls: int
) -> None:
    wrapped = ResultCache(scope=shared_by).wrap(noted)
    for who in (*whose, *whose):
        with tierllm.scope(**who):
            wrapped("orders?")
    assert len(CALLS) == calls


def noted(question: str) -> str:
    CALLS.append(question)
    return question


@pytest.mark.parametrize("shared_by", ["user", "session"])
def test_alone_it_must_be_known_whose_call_it_is(shared_by: Any) -> None:
    wrapped = ResultCache(scope=shared_by).wrap(noted)
    with pytest.raises(ConfigError, match=shared_by):
        wrapped("orders?")
    with tierllm.scope(tenant="acme"), pytest.raises(ConfigError, match=shared_by):
        wrapped("orders?")
    with tierllm.scope(cache="off"):
        assert wrapped("orders?") == "orders?"
    assert ResultCache(scope=shared_by, default="off").wrap(noted)("orders?") == "orders?"


def test_alone_a_scope_says_what_else_concerns_the_cache() -> None:
    cache = ResultCache()
    wrapped = cache.wrap(noted)
    with tierllm.scope(cache="off"):
        wrapped("a")
        wrapped("a")
    assert len(CALLS) == 2
    with tierllm.scope(cache="only"), pytest.raises(CacheMissError):
        wrapped("a")
    with tierllm.scope(tags=["billing"], depends_on={"doc": "v1"}, temperature=0.7, sla=None):
        wrapped("a")
        wrapped("a")
        cache.invalidate(tag="billing")
        wrapped("a")
    assert len(CALLS) == 4
    with tierllm.scope(depends_on={"doc": "v2"}):
        wrapped("a")
    assert len(CALLS) == 5
    for wrong in ({"user": 5}, {"cache": "sometimes"}, {"tags": "billing"}, {"cache_ttl_s": -1}):
        with tierllm.scope(**wrong), pytest.raises(ConfigError):  # type: ignore[arg-type]
            wrapped("a")


def test_alone_errors_pass() -> None:
    def ask(question: str) -> str:
        raise ValueError(question)

    wrapped = ResultCache().wrap(ask)
    for _ in range(2):
        with pytest.raises(ValueError, match="why"):
            wrapped("why")


def test_what_cannot_be_wrapped() -> None:
    def items() -> Iterator[int]:
        yield 1

    cache = ResultCache()
    for wrong in (items, int, "text"):
        with pytest.raises(ConfigError):
            cache.wrap(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ttl_s"):
        cache.wrap(lambda: "x", ttl_s=-1)
    for tags in ("billing", [1, None], [""], 5):
        with pytest.raises(ConfigError, match="tags"):
            cache.wrap(noted, tags=tags)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="depends_on"):
        cache.wrap(noted, depends_on={"a": 1})  # type: ignore[arg-type]
    for documents in (None, [], "doc", {"doc": 1.5}, {5: "text"}):
        with pytest.raises(ConfigError, match="depends_on"):
            cache.wrap(noted, depends_on=lambda question, d=documents: d)("q")
    assert not CALLS


# -- what a function holds ----------------------------------------------------------------


def test_what_a_function_counts_makes_no_difference(client: TieredClient) -> None:
    calls: list[str] = []

    @tiered.call(client=client, prompt=lambda q: q)
    def ask(q: str) -> str:
        calls.append(q)
        return q.upper()

    assert [ask("why") for _ in range(3)] == ["WHY"] * 3
    assert calls == ["why"]


def test_functions_over_what_cannot_be_told_are_kept_apart(client: TieredClient) -> None:
    class Sdk:
        def __init__(self, words: str) -> None:
            self.words, self.calls = words, 0

        def create(self, q: str) -> str:
            self.calls += 1
            return f"{self.words} {q}"

    def over_sdk(sdk: Sdk) -> Callable[[str], str]:
        @tiered.call(client=client, prompt=lambda q: q)
        def ask(q: str) -> str:
            return sdk.create(q)

        return ask

    one, other = Sdk("one"), Sdk("other")
    ask_one, ask_other = over_sdk(one), over_sdk(other)
    for _ in range(2):
        assert (ask_one("why"), ask_other("why")) == ("one why", "other why")
    assert (one.calls, other.calls) == (1, 1)


def test_alone_too_what_is_counted_makes_no_difference() -> None:
    calls: list[str] = []

    def ask(q: str) -> str:
        calls.append(q)
        return q

    wrapped = ResultCache().wrap(ask)
    assert [wrapped("a"), wrapped("a")] == ["a", "a"]
    assert calls == ["a"]
