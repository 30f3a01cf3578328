"""Round trips to Redis: one for each question, few at a time, and whose fault it is when one fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import StoreUnavailableError
from .redis_clients import Clients, Looped, Threaded, load_redis
from .redis_scripts import Script
from .trouble import Health, NotDone

__all__ = ["Ask", "Trips"]

PATIENCE_S = 5.0
"""So long a call waits until others of this process have had their answers."""

LATE = 1.5
"""An answer that is missed by so many times the time-out was missed by the event loop, which had no time."""

_POOL_IS_EMPTY = ("Too many connections", "No connection available")

# The server's own state, by the first words of its answer or within those of a script. Any other error
# that it answers with is about the data: a foreign value under a key of ours.
_SERVER = (
    *("OOM ", "READONLY", "MISCONF", "NOREPLICAS", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"),
    *("MOVED ", "ASK ", "CROSSSLOT", "BUSY ", "NOAUTH", "NOPERM", "WRONGPASS", "max number of clients"),
    *("unknown command", "DENIED"),
)
_ABOUT_DATA = ("WRONGTYPE", "script", "not an integer", "overflow")


class Ask(NamedTuple):
    """One script with its keys and arguments: one round trip."""

    script: Script
    keys: Sequence[bytes]
    args: Sequence[bytes | str | int]

    def by_hash(self) -> tuple[str | bytes | int, ...]:
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def whole(self) -> tuple[str | bytes | int, ...]:
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


class Trips:
    """Asks by ``clients``, and keeps ``health``; ``keys`` are what errors call ours. Thread-safe.

    All methods raise ``StoreUnavailableError``; ``NotDone`` where nothing was sent. What is asked may be
    done twice: every script comes to the same then.
    """

    def __init__(self, clients: Clients, health: Health, *, keys: str = "our keys") -> None:
        self._something = f"a value under one of {keys} in Redis"
        self._clients = clients
        self._health = health
        errors = load_redis().exceptions
        # UnicodeError: a host name that cannot be looked up
        self._failures: tuple[type[Exception], ...] = (errors.RedisError, OSError, EOFError, UnicodeError)
        self._misuse: type[Exception] = errors.DataError
        self._answer: type[Exception] = errors.ResponseError
        self._unreachable: type[Exception] = errors.ConnectionError
        self._unknown_script: type[Exception] = errors.NoScriptError
        self._timed_out: tuple[type[Exception], ...] = (errors.TimeoutError, TimeoutError)

    def run(self, ask: Ask) -> object:
        with self._turn() as client:
            try:
                return client.execute_command(*ask.by_hash(), NEVER_DECODE=True)
            except self._unknown_script:
                return client.execute_command(*ask.whole(), NEVER_DECODE=True)

    def get(self, key: bytes) -> object:
        with self._turn(f"{key.decode(errors='replace')!r} in Redis") as client:
            return client.execute_command("GET", key, NEVER_DECODE=True)

    async def arun(self, ask: Ask) -> object:
        looped = await self._clients.for_this_loop()
        if looped.turns.locked():
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await looped.turns.acquire()
            except TimeoutError:
                raise NotDone(self._crowded()) from None
            waited = True
        else:
            waited = not await looped.turns.acquire()  # at once
        try:
            if waited:
                self._health.expect()
            with self._judging(self._something):
                try:
                    return await self._punctual(looped.client, ask.by_hash())
                except self._unknown_script:
                    return await self._punctual(looped.client, ask.whole())
        finally:
            looped.turns.release()

    @contextmanager
    def _turn(self, what: str = "") -> Iterator[Threaded]:
        """A client, when it is one's turn. ``what`` is asked about."""
        turns = self._clients.turns
        waits = not turns.acquire(blocking=False)
        if waits and not turns.acquire(timeout=PATIENCE_S):
            raise NotDone(self._crowded())
        try:
            if waits:
                self._health.expect()  # those before may have found that it is gone
            client = self._clients.for_threads()
            with self._judging(what or self._something):
                yield client
        finally:
            turns.release()

    async def _punctual(self, client: Looped, command: Sequence[bytes | str | int]) -> object:
        """The answer; asked for again if it was not this loop's first to look whether it had come."""
        began = time.monotonic()
        try:
            return await client.execute_command(*command)
        except self._timed_out:
            if time.monotonic() - began < LATE * self._clients.timeout_s:
                raise
        return await client.execute_command(*command)

    @contextmanager
    def _judging(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._misuse:
            raise
        except self._failures as error:
            raise self._judged(error, what) from error
        self._health.well()

    def _judged(self, error: Exception, what: str) -> StoreUnavailableError:
        text = str(error)
        if isinstance(error, self._unreachable) and text.startswith(_POOL_IS_EMPTY):
            return NotDone(self._crowded())
        about_data = type(error) is self._answer and any(word in text for word in _ABOUT_DATA)
        if about_data and not any(word in text for word in _SERVER):
            self._health.well()
            return StoreUnavailableError(f"{what} is not of ours: delete it to start it afresh")
        return self._health.failed(
            f"Redis at {self._clients.place} cannot be used ({type(error).__name__}): see that it runs, "
            "can be reached and lets this client in"
        )

    def _crowded(self) -> str:
        return (
            f"Redis at {self._clients.place} was not asked: this process keeps its {self._clients.most} "
            f"connections busy for longer than {PATIENCE_S:g} s"
        )
