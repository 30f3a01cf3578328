"""One client on a fake clock, and the four kinds of functions that ``tiered.call`` wraps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import tierllm
from tierllm import Deployment, Route, Tier, TieredClient, tiered
from tierllm.testing import FakeClock, FakeProvider

Behaviour = Callable[[Route], Any]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fake() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def client(fake: FakeProvider, clock: FakeClock) -> Iterator[TieredClient]:
    tiers = [
        Tier("gold", [Deployment("big", fake)], max_concurrency=2),
        Tier("bronze", [Deployment("small", fake)], max_tokens=100),
    ]
    with TieredClient(tiers, clock=clock) as client:
        yield client


@pytest.fixture(autouse=True)
def no_default_client() -> Iterator[None]:
    yield
    tierllm.configure(None)


def in_use(client: TieredClient) -> int:
    """Places taken in the pool of ``gold``."""
    return client.status()["tiers"]["gold"]["pool"]["in_use"]


def deployment(client: TieredClient, tier: str = "gold", name: str = "big") -> dict[str, Any]:
    return client.status()["tiers"][tier]["deployments"][name]


class Form:
    """One kind of function: ``wrap`` makes one of what it is to do, called for its one result."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.streams = kind in ("generator", "async generator")

    def wrap(self, behave: Behaviour, **options: Any) -> Callable[[], Any]:
        return getattr(self, "_" + self.kind.replace(" ", "_"))(behave, tiered.call(**options))

    def _def(self, behave: Behaviour, decorate: Any) -> Callable[[], Any]:
        @decorate
        def wrapped(*, route: Route = Route.INJECTED) -> Any:
            return behave(route)

        return wrapped

    def _async_def(self, behave: Behaviour, decorate: Any) -> Callable[[], Any]:
        @decorate
        async def wrapped(*, route: Route = Route.INJECTED) -> Any:
            await asyncio.sleep(0)
            return behave(route)

        return lambda: asyncio.run(wrapped())

    def _generator(self, behave: Behaviour, decorate: Any) -> Callable[[], Any]:
        @decorate
        def wrapped(*, route: Route = Route.INJECTED) -> Iterator[Any]:
            yield behave(route)

        return lambda: next(iter(list(wrapped())))

    def _async_generator(self, behave: Behaviour, decorate: Any) -> Callable[[], Any]:
        @decorate
        async def wrapped(*, route: Route = Route.INJECTED) -> AsyncIterator[Any]:
            await asyncio.sleep(0)
            yield behave(route)

        async def collected() -> list[Any]:
            return [item async for item in wrapped()]

        return lambda: asyncio.run(collected())[0]


@pytest.fixture(params=["def", "async def", "generator", "async generator"])
def form(request: pytest.FixtureRequest) -> Form:
    return Form(request.param)


class Then:
    """A behaviour: each call meets the next item; exceptions are raised. ``routes`` are those it got."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.routes: list[Route] = []

    def __call__(self, route: Route) -> Any:
        self.routes.append(route)
        item = self.items.pop(0)
        if isinstance(item, BaseException):
            raise item
        return item

    @property
    def models(self) -> list[str]:
        return [route.model for route in self.routes]
