"""Existing calls under ``@tiered.call``, and plain functions, with a cache."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tierllm import Deployment, ResultCache, Route, Tier, TieredClient, tiered
from tierllm.caching import DiskLayer, MemoryLayer
from tierllm.errors import ConfigError, ProviderUnavailableError
from tierllm.providers.identity import identity


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


class Counted:
    """A call of the application's own, and how often it was made."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer
        self.calls = 0

    def decorated(self, client: TieredClient, **options: Any) -> Any:
        counted = self

        def ask(question: str, style: object = "plain", *, route: Route = Route.INJECTED) -> Any:
            counted_call(counted)
            return counted.answer(question)

        return tiered.call(client=client, prompt=lambda question, *_, **__: question, **options)(ask)


def counted_call(counted: Counted) -> None:
    counted.calls += 1


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
    ask("why", style="long")
    assert counted.calls == 3
    ask("why", "short")
    assert counted.calls == 3


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
    calls = []

    @tiered.call(client=client)
    def ask(q: str) -> str:
        calls.append(q)
        return q

    ask("q")
    ask("q")
    assert len(calls) == 2


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
    calls = []

    @tiered.call(client=client, prompt=lambda q: q)
    def ask(q: str) -> Iterator[str]:
        calls.append(q)
        yield from q

    assert list(ask("abc")) == list(ask("abc")) == ["a", "b", "c"]
    assert len(calls) == 2


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
    calls = []

    @tiered.call(client=client, prompt=lambda q: q)
    async def ask(q: str) -> ChatCompletion:
        calls.append(q)
        await asyncio.sleep(0.01)
        return completion(q)

    founder = asyncio.create_task(ask("why"))
    others = [asyncio.create_task(ask("why")) for _ in range(20)]
    while not calls:
        await asyncio.sleep(0)
    founder.cancel()
    got = await asyncio.gather(*others)
    assert len(calls) == 1
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


def test_a_new_process_reads_what_another_one_kept(tmp_path: Any) -> None:
    tiers = [Tier("gold", [Deployment("g")])]
    counted = Counted(completion)
    for _ in range(2):
        with TieredClient(tiers, cache=ResultCache([MemoryLayer(), DiskLayer(tmp_path)])) as client:
            assert counted.decorated(client)("why") == completion("why")
    assert counted.calls == 1


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
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_function_is_another(case: str) -> None:
    one, other = CHANGED[case]
    assert identity(one) != identity(other)
    assert identity(one) == identity(one)


def test_a_counter_among_the_globals_does_not_matter() -> None:
    source = "def ask(q):\n global n\n n += 1\n return q"
    assert identity(made(source, n=1)) == identity(made(source, n=2))


# -- without a client ---------------------------------------------------------------------


def test_a_plain_function() -> None:
    cache, calls = ResultCache(), []

    @cache.wrap
    def ask(question: str, times: int = 1) -> list[str]:
        calls.append(question)
        return [question] * times

    assert ask("a") == ask("a") == ["a"]
    assert ask("a", times=2) == ["a", "a"]
    assert len(calls) == 2
    assert cache.stats().hits == {"memory": 1}


async def test_a_coroutine_function_makes_one_call() -> None:
    cache, calls = ResultCache(), []

    async def ask(question: str) -> str:
        calls.append(question)
        await asyncio.sleep(0)
        return question.upper()

    wrapped = cache.wrap(ask)
    assert await asyncio.gather(*(wrapped("a") for _ in range(10))) == ["A"] * 10
    assert len(calls) == 1


def test_alone_it_depends_on_contents_and_tags_too() -> None:
    cache, calls, text = ResultCache(), [], ["v1"]

    def ask(document: str) -> str:
        calls.append(document)
        return text[0]

    wrapped = cache.wrap(ask, tags=["handbook"], depends_on=lambda document: {document: text[0]})
    assert [wrapped("d"), wrapped("d")] == ["v1", "v1"]
    text[0] = "v2"
    assert [wrapped("d"), wrapped("d")] == ["v2", "v2"]
    assert len(calls) == 2
    cache.invalidate(tag="handbook")
    assert wrapped("d") == "v2"
    assert len(calls) == 3


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
