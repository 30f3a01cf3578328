"""The store of many processes and hosts: Redis, one round trip a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

from ..errors import ConfigError, StoreUnavailableError
from ..events import log
from ..pipeline.clock import Clock
from .account import SLOTS_KEPT
from .base import Hold, Line, Settlement, Standing, Store, Verdict
from .exact import exact, expect_exact
from .lease import Lease
from .redis_clients import Clients, load_redis
from .redis_scripts import APPLY, END, RENEW, RESERVE, STANDINGS, SWAP, Script
from .trouble import Health

if TYPE_CHECKING:
    import redis

__all__ = ["RedisStore"]

AT_ONCE = 500
"""Settlements in one script: it keeps everybody waiting meanwhile."""

FOREVER_MS = 1 << 50

_Reply = Sequence[int | None]


class _Ask(NamedTuple):
    """One script with its keys and arguments: one round trip."""

    script: Script
    keys: Sequence[bytes]
    args: Sequence[bytes | str | int]

    def by_hash(self) -> tuple[str | bytes | int, ...]:
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def whole(self) -> tuple[str | bytes | int, ...]:
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


class RedisStore(Store):
    """Shared by all processes that use the same Redis (5 or later) and ``namespace``. Thread-safe.

    ``url`` is a Redis URL; then no command is tried twice, and each waits ``timeout_s`` for the
    connection and for the answer. Or ``client`` is a ``redis.Redis`` with settings of your own, which
    is never closed here. After a failure the store is left alone for ``retry_s``.

    What a process reserved is given back ``lease_s`` after it died. Raises ``ConfigError`` where
    settings make no sense, or if the ``redis`` extra is missing.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.Redis | None = None,
        namespace: str = "tierllm",
        lease_s: float = 60.0,
        timeout_s: float = 0.05,
        retry_s: float = 1.0,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__()
        if (url is None) == (client is None):
            raise ConfigError("RedisStore takes either a url, such as redis://localhost:6379/0, or client=")
        if not namespace or "{" in namespace or "}" in namespace:
            raise ConfigError(
                "RedisStore: namespace, the hash tag of all keys, must be a name without braces"
            )
        if not timeout_s > 0 or retry_s < 0:
            raise ConfigError("RedisStore: timeout_s must be above 0, and retry_s not below 0")
        self._clients = Clients(url, client, timeout_s)
        errors = load_redis().exceptions
        self._failures: tuple[type[Exception], ...] = (errors.RedisError, OSError, EOFError)
        self._unknown_script: type[Exception] = errors.NoScriptError
        self._base = f"{{{namespace}}}".encode()
        self._lease_ms = max(1, round(lease_s * 1000))
        self.health = Health(f"redis {self._clients.place}", lambda: self.emit, retry_s=retry_s, clock=clock)
        self._lease = Lease(self, lease_s)
        if self._clients.has_async:
            self.areserve, self.aflush, self.astandings = self._areserve, self._aflush, self._astandings

    def __repr__(self) -> str:
        return f"<RedisStore {self._clients.place} {self._base.decode()}>"

    # -- accounts --------------------------------------------------------------

    def reserve(self, hold: Hold) -> Verdict:
        ask = self._ask_reserve(hold)
        return self._reserved(hold, self._run(ask))

    async def _areserve(self, hold: Hold) -> Verdict:
        ask = self._ask_reserve(hold)
        return self._reserved(hold, await self._arun(ask))

    def _ask_reserve(self, hold: Hold) -> _Ask:
        expect_exact(hold)
        self.health.expect()
        owner, _, number = hold.id.rpartition("-")
        keys = [self._key("owners"), self._key("holds", owner), self._key("hold", hold.id)]
        args: list[bytes | str | int] = [self._base, owner, number, self._lease_ms]
        for account, amount, limit, expires_at, _, oldest in hold.lines:
            name = _encoded(account)
            keys.append(self._base + b":account:" + name)
            args += (name, amount, "" if limit is None else limit, oldest, _ms(expires_at))
        self._lease.begin(hold.id)
        return _Ask(RESERVE, keys, args)

    def _reserved(self, hold: Hold, reply: _Reply) -> Verdict:
        verdict = Verdict(reply[0] == 1, self._standings(hold.lines, reply))
        if not verdict.ok:
            self._lease.end((hold.id,))
        return verdict

    def post(self, settlement: Settlement) -> None:
        if settlement.hold.id in self._lease.open:  # else it was never sent, or is settled
            super().post(settlement)

    def apply(self, batch: Sequence[Settlement]) -> None:
        self.health.expect()
        for start in range(0, len(batch), AT_ONCE):
            part = batch[start : start + AT_ONCE]
            self._applied(part, self._run(self._ask_apply(part)))

    async def _aflush(self) -> bool:
        try:
            with self.outgoing() as batch:
                if batch:
                    await self._aapply(batch)
        except StoreUnavailableError:
            return False
        return True

    async def _aapply(self, batch: Sequence[Settlement]) -> None:
        self.health.expect()
        for start in range(0, len(batch), AT_ONCE):
            part = batch[start : start + AT_ONCE]
            self._applied(part, await self._arun(self._ask_apply(part)))

    def _ask_apply(self, batch: Sequence[Settlement]) -> _Ask:
        args: list[bytes | str | int] = [self._base, SLOTS_KEPT]
        for hold, amounts, slots in batch:
            owner, _, number = hold.id.rpartition("-")
            args += (owner, number, len(hold.lines))
            for line, amount, slot in zip(hold.lines, amounts, slots, strict=True):
                args += (_encoded(line.account), line.amount, exact(amount), slot, line.oldest)
                args.append(_ms(line.expires_at))
        return _Ask(APPLY, [self._key("owners")], args)

    def _applied(self, batch: Sequence[Settlement], reply: _Reply) -> None:
        self._lease.end([settlement.hold.id for settlement in batch])
        if reply[0]:
            log.error("%d settled amounts could not be booked: their accounts in Redis are damaged", reply[0])

    def standings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        self.health.expect()
        return self._standings(lines, self._run(self._ask_standings(lines)))

    async def _astandings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        self.health.expect()
        return self._standings(lines, await self._arun(self._ask_standings(lines)))

    def _ask_standings(self, lines: Sequence[Line]) -> _Ask:
        keys = [self._key("account", line.account) for line in lines]
        return _Ask(STANDINGS, keys, [line.oldest for line in lines])

    def _standings(self, lines: Sequence[Line], reply: _Reply) -> tuple[Standing, ...]:
        code = reply[0] or 0
        if code < 0:
            key = self._key("account", lines[-code - 1].account).decode(errors="replace")
            raise StoreUnavailableError(
                f"{key!r} in Redis is no account of ours: delete it to start it afresh"
            )
        return tuple(
            Standing(reply[i] or 0, reply[i + 1] or 0, reply[i + 2]) for i in range(1, 3 * len(lines) + 1, 3)
        )

    # -- documents -------------------------------------------------------------

    def load(self, name: str) -> bytes | None:
        self.health.expect()
        client = self._clients.for_threads()
        try:
            found = client.execute_command("GET", self._key("document", name), NEVER_DECODE=True)
        except self._failures as error:
            self._failed(error)
        self.health.well()
        return found if isinstance(found, bytes) else None

    def swap(self, name: str, value: bytes, expected: bytes | None, ttl_s: float | None = None) -> bool:
        self.health.expect()
        life = "" if ttl_s is None else str(max(1, round(ttl_s * 1000)))
        args = ["0" if expected is None else "1", expected or b"", value, life]
        return bool(self._run(_Ask(SWAP, [self._key("document", name)], args))[0])

    # -- the lease -------------------------------------------------------------

    def renew_lease(self) -> None:
        self._give_way(RENEW, [self._base, self.owner, self._lease_ms])

    def end_lease(self) -> None:
        self._give_way(END, [self.owner])

    def _give_way(self, script: Script, args: Sequence[bytes | str | int]) -> None:
        self.health.expect()
        self._run(_Ask(script, [self._key("owners"), self._key("holds", self.owner)], args))

    # -- round trips -----------------------------------------------------------

    def _run(self, ask: _Ask) -> _Reply:
        client = self._clients.for_threads()
        try:
            try:
                reply = client.execute_command(*ask.by_hash())
            except self._unknown_script:
                reply = client.execute_command(*ask.whole())
        except self._failures as error:
            self._failed(error)
        self.health.well()
        return _reply(reply)

    async def _arun(self, ask: _Ask) -> _Reply:
        client = await self._clients.for_this_loop()
        try:
            try:
                reply = await client.execute_command(*ask.by_hash())
            except self._unknown_script:
                reply = await client.execute_command(*ask.whole())
        except self._failures as error:
            self._failed(error)
        self.health.well()
        return _reply(reply)

    def _failed(self, error: Exception) -> NoReturn:
        raise self.health.failed(
            f"Redis at {self._clients.place} cannot be used ({type(error).__name__}): see that it runs, "
            "can be reached and lets this client in"
        ) from error

    def _key(self, kind: str, name: str | None = None) -> bytes:
        key = self._base + b":" + kind.encode()
        return key if name is None else key + b":" + _encoded(name)

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        self._lease.close()
        self.flush()
        self._clients.close()

    async def aclose(self) -> None:
        self._lease.close()
        if self._clients.has_async:
            await self._aflush()
        else:
            self.flush()
        await self._clients.aclose()

    def renew(self) -> None:
        super().renew()
        self._clients.renew()
        self.health.renew()
        self._lease.renew()


def _reply(found: object) -> _Reply:
    return found if isinstance(found, list) else [cast("int", found)]


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _ms(unix_s: float) -> int:
    return FOREVER_MS if unix_s * 1000 >= FOREVER_MS else int(unix_s * 1000)
