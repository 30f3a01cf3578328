"""The store of many processes and hosts: Redis, one round trip a step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from ..errors import ConfigError, StoreUnavailableError
from ..events import log
from ..pipeline.clock import Clock
from .account import SLOTS_KEPT
from .base import AT_ONCE, Hold, Line, Settlement, Standing, Store, Verdict
from .exact import exact, expect_exact
from .lease import Lease
from .redis_clients import Clients
from .redis_scripts import APPLY, RENEW, RESERVE, STANDINGS, SWAP
from .redis_trips import Ask, Trips
from .trouble import Health, NotDone

if TYPE_CHECKING:
    import redis

__all__ = ["RedisStore"]

FOREVER_MS = 1 << 50

_Reply = Sequence[int | None]


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
        if not 0 < timeout_s < math.inf or not 0 <= retry_s < math.inf:
            raise ConfigError("RedisStore: timeout_s must be above 0, and retry_s not below 0; both finite")
        self._clients = Clients(url, client, timeout_s)
        self._base = f"{{{namespace}}}".encode()
        self.name = f"redis {self._clients.place}"
        self.health = Health(self.name, self.tell, retry_s=retry_s, clock=clock)
        self._trips = Trips(self._clients, self.health)
        self._lease = Lease(self, lease_s)
        self._lease_ms = max(1, round(lease_s * 1000))
        self._births: set[int] = set()
        if self._clients.has_async:
            self.areserve, self.aflush, self.astandings = self._areserve, self._aflush, self._astandings

    def __repr__(self) -> str:
        return f"<RedisStore {self._clients.place} {self._base.decode()}>"

    # -- accounts --------------------------------------------------------------

    def reserve(self, hold: Hold) -> Verdict:
        with self._opening(hold):
            return self._reserved(hold, self._run(self._ask_reserve(hold)))

    async def _areserve(self, hold: Hold) -> Verdict:
        with self._opening(hold):
            return self._reserved(hold, await self._arun(self._ask_reserve(hold)))

    @contextmanager
    def _opening(self, hold: Hold) -> Iterator[None]:
        """A hold that is certainly not reserved need not be given back."""
        expect_exact(hold)
        self.health.expect()
        new = self._lease.begin(hold.id)
        try:
            yield
        except NotDone:
            if new:
                self._lease.end((hold.id,))
            raise

    def _ask_reserve(self, hold: Hold) -> Ask:
        owner, _, number = hold.id.rpartition("-")
        keys = [self._key("owners"), self._key("holds", owner), self._key("hold", hold.id)]
        args: list[bytes | str | int] = [self._base, owner, number, self._lease_ms]
        for account, amount, limit, expires_at, _, oldest in hold.lines:
            name = _encoded(account)
            keys.append(self._base + b":account:" + name)
            args += (name, amount, "" if limit is None else limit, oldest, _ms(expires_at))
        return Ask(RESERVE, keys, args)

    def _reserved(self, hold: Hold, reply: _Reply) -> Verdict:
        verdict = Verdict(reply[0] == 1, self._standings(hold.lines, reply))
        self._born(reply[-1])
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
            while self.outbox:
                with self.outgoing() as batch:
                    self.health.expect()
                    self._applied(batch, await self._arun(self._ask_apply(batch)))
        except StoreUnavailableError:
            return False
        return True

    def _ask_apply(self, batch: Sequence[Settlement]) -> Ask:
        args: list[bytes | str | int] = [self._base, SLOTS_KEPT, self._lease_ms]
        for hold, amounts, slots in batch:
            owner, _, number = hold.id.rpartition("-")
            args += (owner, number, len(hold.lines))
            for line, amount, slot in zip(hold.lines, amounts, slots, strict=True):
                args += (_encoded(line.account), line.amount, exact(amount), slot, line.oldest)
                args.append(_ms(line.expires_at))
        return Ask(APPLY, [self._key("owners")], args)

    def _applied(self, batch: Sequence[Settlement], reply: _Reply) -> None:
        self._lease.end([settlement.hold.id for settlement in batch])
        if reply[0]:
            log.error("%d settled amounts could not be booked: their accounts in Redis are damaged", reply[0])
        self._born(reply[-1])

    def _born(self, birth: int | None) -> None:
        """The data in Redis began at ``birth``: news, if they were others before."""
        births = self._births
        if birth is None or birth in births:
            return
        births.add(birth)
        if len(births) > 1:
            self.health.tell(
                f"{self.name} lost its data, and what was spent until now is forgotten", ok=False
            )

    def standings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        self.health.expect()
        return self._standings(lines, self._run(self._ask_standings(lines)))

    async def _astandings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        self.health.expect()
        return self._standings(lines, await self._arun(self._ask_standings(lines)))

    def _ask_standings(self, lines: Sequence[Line]) -> Ask:
        keys = [self._key("account", line.account) for line in lines]
        return Ask(STANDINGS, keys, [line.oldest for line in lines])

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
        found = self._trips.get(self._key("document", name))
        return found if isinstance(found, bytes) else None

    def swap(self, name: str, value: bytes, expected: bytes | None, ttl_s: float | None = None) -> bool:
        self.health.expect()
        life = "" if ttl_s is None else str(max(1, round(ttl_s * 1000)))
        args = ["0" if expected is None else "1", expected or b"", value, life]
        return bool(self._run(Ask(SWAP, [self._key("document", name)], args))[0])

    # -- the lease -------------------------------------------------------------

    def renew_lease(self) -> None:
        self.health.expect()
        keys = [self._key("owners"), self._key("holds", self.owner)]
        self._born(self._run(Ask(RENEW, keys, [self._base, self.owner, self._lease_ms]))[-1])

    def end_lease(self) -> None:
        self.renew_lease()  # it ends where nothing is held

    # -- round trips -----------------------------------------------------------

    def _run(self, ask: Ask) -> _Reply:
        return _reply(self._trips.run(ask))

    async def _arun(self, ask: Ask) -> _Reply:
        return _reply(await self._trips.arun(ask))

    def _key(self, kind: str, name: str | None = None) -> bytes:
        key = self._base + b":" + kind.encode()
        return key if name is None else key + b":" + _encoded(name)

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        self.flush()
        self._lease.close()
        self._clients.close()

    async def aclose(self) -> None:
        if self._clients.has_async:
            await self._aflush()
        else:
            self.flush()
        self._lease.close()
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
