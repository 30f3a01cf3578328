"""Servers to test providers against: llmock with scripted faults, and one that says what it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock
from llmock.testing import LLMockServer

from providers.servers import Caller, Canned
from tierllm.providers.openai import OpenAI


@pytest.fixture(scope="module")
def llmock_running() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


@pytest.fixture
def mock(llmock_running: LLMockServer) -> LLMock:
    """A fresh llmock, with its faults to script."""
    return LLMock(llmock_running).reset()


@pytest.fixture
def canned() -> Iterator[Canned]:
    with Canned() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    caller = Caller(request.param)
    yield caller
    if caller.runner is not None:
        caller.runner.close()


@pytest.fixture(params=["complete", "stream"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def openai_at() -> Iterator[Callable[..., OpenAI]]:
    """Makes providers that are closed when the test ends."""
    made: list[OpenAI] = []

    def make(base_url: str | None = None, **kwargs: Any) -> OpenAI:
        if base_url is not None:
            kwargs.setdefault("api_key", "test-key")
            kwargs["base_url"] = base_url
        provider = OpenAI(**kwargs)
        made.append(provider)
        return provider

    yield make
    for provider in made:
        provider.close()
