"""Configurations in pieces, and a provider that can be made to wait, for tests of reloading."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tierllm import TieredClient
from tierllm.events import Event
from tierllm.testing import FakeProvider
from tierllm.types import Call, Response

PRICED = "price = {input_usd_per_mtok = 1, output_usd_per_mtok = 1}"


def tier(name: str, *settings: str, models: tuple[str, ...] | None = None, deployment: str = "") -> str:
    """A tier's table; its deployments are called after it unless ``models`` says otherwise."""
    made = [f'[[tiers.deployments]]\nmodel = "{model}"\n{deployment}\n' for model in models or (name,)]
    return "\n".join(["[[tiers]]", f'name = "{name}"', *settings, *made])


def toml(*parts: str, head: str = "") -> str:
    return "\n".join([head, '[providers.fake]\nkind = "fake"', *parts])


class Gate:
    """Answers that come when they are let: ``with gate.closed(): ...``, or by ``open()``."""

    def __init__(self) -> None:
        self.fake = FakeProvider(answer=self._answer)
        self._open = threading.Event()
        self._open.set()
        self._came = threading.Semaphore(0)
        self.closed_times = 0

        def close() -> None:
            self.closed_times += 1

        self.fake.close = close  # type: ignore[method-assign]

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def came(self, calls: int = 1) -> None:
        """Until so many more calls have come."""
        for _ in range(calls):
            assert self._came.acquire(timeout=10)

    def _answer(self, call: Call) -> str:
        self._came.release()
        assert self._open.wait(timeout=20)
        return f"{call.model} here"


class Calls:
    """Calls in threads of their own, and what came of them."""

    def __init__(self) -> None:
        self.answers: list[Response] = []
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def begin(self, client: TieredClient, prompt: str = "hi", **options: Any) -> None:
        def run() -> None:
            try:
                self.answers.append(client.complete(prompt, **options))
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._threads.clear()


class Filed:
    """A client of a file, which can be written anew."""

    def __init__(self, path: Path, text: str, **overrides: Any) -> None:
        self.path = path
        self.events: list[Event] = []
        self.also: Callable[[Event], object] | None = None
        self.write(text)
        self.client = TieredClient.from_file(path, listeners=[self._hear], **overrides)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        if self.also is not None:
            self.also(event)

    def write(self, text: str) -> None:
        self.path.write_text(text, encoding="utf-8")

    def become(self, text: str) -> tuple[str, ...]:
        """Write it and reload; the tables that changed."""
        self.write(text)
        return self.client.reload().changed

    def heard(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
