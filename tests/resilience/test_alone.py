"""Policies around plain functions, without a client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tierllm import FallbackChain, Retry, RetryBudget
from tierllm.errors import AllTiersFailedError, ConfigError, ProviderError, ProviderUnavailableError
from tierllm.testing import FakeClock


def quick(**settings: Any) -> Retry:
    return Retry(**{"base_s": 0, **settings})


class Flaky:
    """Fails so many times, then returns its arguments."""

    def __init__(self, failures: int, error: type[Exception] = ConnectionError) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error("down")
        return args, kwargs


def test_arguments_and_results_pass_untouched() -> None:
    marker = object()
    flaky = Flaky(2)
    (got,), named = quick().wrap(flaky)(marker, key=marker)
    assert got is named["key"] is marker
    assert flaky.calls == 3


@pytest.mark.parametrize("result", [None, 0, "", [], False], ids=repr)
def test_an_empty_result_is_a_result(result: Any) -> None:
    assert quick().wrap(lambda: result)() is result
    assert FallbackChain().wrap(lambda: result, lambda: 5)() is result


def test_it_still_looks_like_the_function() -> None:
    def lookup(key: str) -> str:
        """Finds it."""
        return key

    wrapped = quick().wrap(lookup)
    assert (wrapped.__name__, wrapped.__doc__) == ("lookup", "Finds it.")
    assert wrapped.__wrapped__ is lookup  # type: ignore[attr-defined]


def test_methods_too() -> None:
    class Search:
        calls = 0

        def find(self, key: str) -> str:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError
            return key

    search = Search()
    assert quick().wrap(search.find)("x") == "x"
    assert search.calls == 2


def test_what_the_caller_gets_in_the_end_names_what_happened() -> None:
    with pytest.raises(ProviderError) as info:
        quick(attempts=2).wrap(Flaky(9))()
    assert isinstance(info.value.__cause__, ConnectionError)
    with pytest.raises(AllTiersFailedError) as told:
        FallbackChain().wrap(Flaky(9), Flaky(9, TimeoutError))()
    assert [a.outcome for a in told.value.attempts] == ["failed", "failed"]
    assert isinstance(told.value.__cause__, ProviderError)
    assert isinstance(told.value.__cause__.__cause__, TimeoutError)


def test_an_error_of_ones_own_passes_and_ends_it() -> None:
    class Mine(Exception):
        pass

    flaky = Flaky(9, Mine)
    with pytest.raises(Mine):
        quick().wrap(flaky)()
    with pytest.raises(Mine):
        FallbackChain().wrap(flaky, Flaky(0))()
    assert flaky.calls == 2


def test_one_around_the_other() -> None:
    first, second = Flaky(9), Flaky(1)
    both = FallbackChain().wrap(quick(attempts=2).wrap(first), quick(attempts=2).wrap(second))
    assert both("x") == (("x",), {})
    assert (first.calls, second.calls) == (2, 2)


async def test_coroutine_functions() -> None:
    calls: list[str] = []

    async def first(x: int) -> int:
        calls.append("first")
        await asyncio.sleep(0)
        raise ConnectionError

    async def second(x: int) -> int:
        calls.append("second")
        return x

    assert await FallbackChain().wrap(quick(attempts=2).wrap(first), second)(3) == 3
    assert calls == ["first", "first", "second"]


async def test_a_cancelled_coroutine_is_cancelled() -> None:
    calls: list[int] = []

    async def hangs() -> None:
        calls.append(1)
        await asyncio.sleep(60)

    task = asyncio.create_task(quick().wrap(hangs)())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == [1]


def generator() -> Iterator[int]:
    yield 1


async def agenerator() -> AsyncIterator[int]:
    yield 1


async def coroutine() -> int:
    return 1


@pytest.mark.parametrize(
    "fns", [(generator,), (agenerator,), (coroutine, len), (len, coroutine), (5,), ()], ids=range(6)
)
def test_all_of_one_kind_and_no_generators(fns: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError):
        FallbackChain().wrap(*fns)
    if len(fns) == 1:
        with pytest.raises(ConfigError):
            Retry().wrap(fns[0])


def test_a_budget_bounds_functions_alone_too() -> None:
    budget = RetryBudget(share=0.5, floor_per_s=0, clock=FakeClock())
    flaky = Flaky(10**6)
    wrapped = quick(attempts=5, budget=budget).wrap(flaky)
    for _ in range(40):
        with pytest.raises(ProviderUnavailableError):
            wrapped()
    assert 40 < flaky.calls <= 60


def test_threads_share_a_wrapped_function() -> None:
    results: list[int] = []
    lock = threading.Lock()
    failed: set[int] = set()

    def work(number: int) -> int:
        with lock:
            if number not in failed:
                failed.add(number)
                raise ConnectionError
        return number

    wrapped = quick().wrap(work)
    threads = [threading.Thread(target=lambda n=n: results.append(wrapped(n))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(20))
