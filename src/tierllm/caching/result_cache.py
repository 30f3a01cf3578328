"""The cache of answers, as an application describes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .boards import Boards
from .claims import Claims
from .contents import LONGEST_TTL_S
from .counts import CacheStats, Counts
from .invalidation import Invalidation
from .key import Schemas, blake2b_256
from .layer import Layer, LayerStats
from .memory_layer import MemoryLayer
from .stack import Stack

if TYPE_CHECKING:
    from ..events import Event
    from ..types import Request

__all__ = ["ResultCache"]

P = ParamSpec("P")
R = TypeVar("R")

CLOSING_S = 5.0
"""So long closing waits for what is still being written."""

SCOPES = ("tenant", "user", "session", "shared")
DEFAULTS = ("auto", "always", "off")


class ResultCache(Invalidation):
    """Keeps whole answers, and gives them again to calls that ask for the same.

    ``layers`` are read from the first down, and filled up: ``MemoryLayer``, ``RedisLayer``,
    ``DiskLayer``, any of them in any order; without any, 64 MiB of memory. An answer is fresh for
    ``ttl_s`` seconds (one number, or one by tier with ``"*"`` for the others), less a random part of up
    to ``jitter`` of it. For ``stale_while_revalidate_s`` after that it is still served, while it is made
    anew; for ``stale_if_error_s`` when all tiers are out, marked ``degraded``.

    ``scope`` says who shares answers: those of one ``"tenant"`` (calls without a tenant are one more),
    one of its users or sessions (``"user"``, ``"session"``), everybody (``"shared"``), or those for whom a
    function of the request gives the same name. A tier may be given what a higher one answered, unless
    ``serve_higher`` is false. ``default`` is what calls get that do not say ``cache=``: ``"auto"``,
    ``"always"`` or ``"off"``.
    ``one_flight``: identical calls at once make one. ``write="behind"`` does not wait for layers that
    take time. ``mode="observe"`` keeps answers and counts what would have been hits, but serves nothing.

    Thread-safe. Clients that share one close it when the last of them closes. Raises ``ConfigError``.
    """

    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        *,
        ttl_s: float | Mapping[str, float] = 3600.0,
        jitter: float = 0.1,
        stale_while_revalidate_s: float = 0.0,
        stale_if_error_s: float = 3600.0,
        scope: Literal["tenant", "user", "session", "shared"] | Callable[[Request], str] = "tenant",
        serve_higher: bool = True,
        default: Literal["auto", "always", "off"] = "auto",
        one_flight: bool = True,
        write: Literal["through", "behind"] = "through",
        mode: Literal["enforce", "observe"] = "enforce",
        hasher: Callable[[bytes], bytes] = blake2b_256,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if layers is not None and (
            isinstance(layers, Layer) or not all(isinstance(x, Layer) for x in layers)
        ):
            raise ConfigError("ResultCache(layers=...): give a list of layers, such as [MemoryLayer()]")
        names = [layer.name for layer in layers or ()]
        if len(set(names)) < len(names):
            raise ConfigError(f"ResultCache(layers=...): two are called alike ({', '.join(names)})")
        if layers is not None and not names:
            raise ConfigError(
                "ResultCache(layers=[]): give at least one layer; the client's cache=None is none"
            )
        self._ttl_s = _checked_ttl(ttl_s)
        for option, value in (
            ("stale_while_revalidate_s", stale_while_revalidate_s),
            ("stale_if_error_s", stale_if_error_s),
        ):
            if not _is_number(value) or not 0 <= value <= LONGEST_TTL_S:
                raise ConfigError(f"ResultCache({option}={value!r}): give seconds, from 0 to a year")
        if not _is_number(jitter) or not 0 <= jitter < 1:
            raise ConfigError(f"ResultCache(jitter={jitter!r}): give a part from 0 to below 1")
        for option, chosen, allowed in (
            ("default", default, DEFAULTS),
            ("write", write, ("through", "behind")),
            ("mode", mode, ("enforce", "observe")),
        ):
            if chosen not in allowed:
                raise ConfigError(f"ResultCache({option}={chosen!r}): one of {', '.join(allowed)}")
        for option, switch in (("serve_higher", serve_higher), ("one_flight", one_flight)):
            if not isinstance(switch, bool):
                raise ConfigError(f"ResultCache({option}={switch!r}): give True or False")
        for option, function in (("hasher", hasher), ("wall_clock", wall_clock)):
            if not callable(function):
                raise ConfigError(f"ResultCache({option}={function!r}): give a function")
        if not isinstance(hasher(b""), bytes) or not hasher(b""):
            raise ConfigError("ResultCache(hasher=...): give a function from bytes to bytes")
        if not callable(scope) and scope not in SCOPES:
            raise ConfigError(
                f"ResultCache(scope={scope!r}): one of {', '.join(SCOPES)}, or a function of the request"
            )
        self.jitter = jitter
        self.stale_while_revalidate_s = stale_while_revalidate_s
        self.stale_if_error_s = stale_if_error_s
        self.scope = scope
        self.serve_higher = serve_higher
        self.default = default
        self.one_flight = one_flight
        self.mode = mode
        self.hasher = hasher
        self.layers = tuple(layers) if layers is not None else (MemoryLayer(),)
        self.boards = Boards(self.layers, wall=wall_clock)
        self.stack = Stack(self.layers, self.boards, write=write)
        self.claims = Claims()
        self.counts = Counts()
        self.schemas: Schemas = WeakKeyDictionary()
        self._users: set[int] = set()
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<ResultCache {' > '.join(layer.name for layer in self.layers)}>"

    def ttl_of(self, tier: str | None) -> float:
        """How long an answer of ``tier`` is fresh."""
        ttl_s = self._ttl_s
        return ttl_s if isinstance(ttl_s, float) else ttl_s.get(tier or "", ttl_s.get("*", 0.0))

    def check_tiers(self, known: Sequence[str]) -> None:
        """Raise ``ConfigError`` where ``ttl_s`` names a tier that a client does not have."""
        for tier in () if isinstance(self._ttl_s, float) else self._ttl_s:
            if tier != "*" and tier not in known:
                tiers = ", ".join(known)
                raise ConfigError(f"ResultCache(ttl_s={{{tier!r}: ...}}): no such tier; they are {tiers}")

    def scope_of(self, request: Request) -> str:
        """Whose answers the request may share, told so that no two kinds of scopes are taken for one."""
        scope = self.scope
        if callable(scope):
            name = scope(request)
            if not isinstance(name, str):
                raise ConfigError(
                    f"ResultCache(scope=...): the function gave {type(name).__name__}, not a str"
                )
            return f"own:{name}"
        if scope == "shared":
            return "shared"
        tenant = f"tenant:{request.tenant}" if request.tenant is not None else "nobody"
        if scope == "tenant":
            return tenant
        whose = (request.user,) if scope == "user" else (request.user, request.session)
        return tenant if whose[-1] is None else f"{scope}:{(tenant, *whose)!r}"  # two tenants' "u1"

    # -- use ------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget everything, in all layers. ``invalidate(everything=True)`` is quicker, and safer."""
        for layer in self.layers:
            layer.clear()

    def wrap(
        self,
        fn: Callable[P, R],
        *,
        ttl_s: float | None = None,
        tags: Sequence[str] = (),
        depends_on: Callable[P, Mapping[str, str | bytes | int]] | None = None,
    ) -> Callable[P, R]:
        """``fn``, sync or async, with this cache around it: without a client.

        Its arguments must be plain data or pydantic objects, and what it returns plain JSON data or a
        known SDK's answer; other calls go through untouched. ``depends_on`` gives the documents of a
        call, as the option of that name. Whose calls they are, ``tierllm.scope`` says, and whatever else
        concerns the cache. Raises ``ConfigError``.
        """
        from .alone import around

        return around(self, fn, ttl_s=ttl_s, tags=tags, depends_on=depends_on)

    # -- watching --------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """What this process did with the cache, and what the layers hold. Asks the layers."""
        held = {layer.name: self._held(layer) for layer in self.layers}
        return self.counts.told(held, self.stack.left_out)

    def _held(self, layer: Layer) -> LayerStats | None:
        try:
            return layer.stats()
        except Exception:  # it has told of its trouble
            return None

    def status(self) -> dict[str, Any]:
        """``stats`` without asking layers that take time."""
        held = {layer.name: self._held(layer) if layer.inline else None for layer in self.layers}
        return {"mode": self.mode, **self.counts.told(held, self.stack.left_out).to_dict()}

    # -- life ------------------------------------------------------------------------

    def attach(self, user: object, emit: Callable[[Event], None] | None) -> None:
        """One more client uses the cache. Trouble is told to the first that listens."""
        self._users.add(id(user))
        if emit is not None and self.stack.emit is None:
            self.stack.emit = emit
            for layer in self.layers:
                layer.emit = layer.emit or emit

    def close(self, user: object = None) -> None:
        """Let go of the layers, unless other clients than ``user`` go on with them. Safe to call twice."""
        self._users.discard(id(user))
        if not self._users:
            self._settle()
            for layer in self.layers:
                layer.close()

    async def aclose(self, user: object = None) -> None:
        """``close``, with what belongs to the running event loop."""
        self._users.discard(id(user))
        if not self._users:
            import asyncio

            await asyncio.to_thread(self._settle)
            for layer in self.layers:
                await layer.aclose()

    def _settle(self) -> None:
        """Write what waits to be written, and give back what is claimed."""
        self.stack.drain(CLOSING_S)
        self.claims.close()

    def renew(self) -> None:
        """After a fork; layers and claims see to themselves."""
        self.boards.renew()
        self.stack.renew()
        self.counts.renew()


def _checked_ttl(ttl_s: Any) -> float | dict[str, float]:
    by_tier = ttl_s if isinstance(ttl_s, Mapping) else {"*": ttl_s}
    for tier, seconds in by_tier.items():
        if not isinstance(tier, str) or not _is_number(seconds) or not 0 <= seconds <= LONGEST_TTL_S:
            raise ConfigError(
                f"ResultCache(ttl_s={ttl_s!r}): give seconds, from 0 to a year, or some by tier"
            )
    return dict(by_tier) if isinstance(ttl_s, Mapping) else float(by_tier["*"])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
