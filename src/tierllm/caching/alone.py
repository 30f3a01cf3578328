"""A cache around a plain function, without a client."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

from ..errors import ConfigError
from ..pipeline.compose import compose
from ..pipeline.defaults import scoped
from ..pipeline.effects import Invoke
from ..pipeline.fork import renew_after_fork
from ..pipeline.host import Host
from ..pipeline.ready import ReadyCall
from ..pipeline.scope import Scope
from ..providers.identity import Own
from ..providers.signature import Signature
from ..providers.wrapped import WrappedCall
from ..types import Call, Request, Response, Trace
from .options import checked
from .origins import Origin, Origins
from .policy import Caching

if TYPE_CHECKING:
    from .result_cache import ResultCache

__all__ = ["around"]

P = ParamSpec("P")
R = TypeVar("R")

ALONE = "alone"

HEEDED = frozenset(
    {"user", "tenant", "plan", "session", "route", "language", "tags", "cache", "cache_ttl_s", "depends_on"}
)
"""What a scope may say of a function's call."""


class _OnlyPlace(NamedTuple):
    """The plan of a call that can go nowhere else."""

    granted: str = ALONE
    tiers: tuple[str, ...] = (ALONE,)
    cap: str | None = None


class _Ground:
    """What a wrapped function stands on, and has to be renewed after a fork."""

    def __init__(self, host: Host, caching: Caching) -> None:
        self.host = host
        self.caching = caching
        renew_after_fork(self)

    def renew(self) -> None:
        self.host.renew()
        self.caching.renew()


def around(
    cache: ResultCache,
    fn: Callable[P, R],
    *,
    ttl_s: float | None,
    tags: Sequence[str],
    depends_on: Callable[P, Mapping[str, Any]] | None,
) -> Callable[P, R]:
    """``fn`` with ``cache`` around each of its calls."""
    if not callable(fn) or isinstance(fn, type):
        raise ConfigError("ResultCache.wrap(fn): give a function")
    signature = Signature(fn)
    if signature.streams:
        raise ConfigError("ResultCache.wrap(fn): a generator's items are not kept; wrap a plain function")
    given: dict[str, Any] = {} if ttl_s is None else {"cache_ttl_s": checked("cache_ttl_s", ttl_s)}
    if tags != ():
        given["tags"] = checked("tags", tags)
    if depends_on is not None and not callable(depends_on):
        raise ConfigError("ResultCache.wrap(depends_on=...): give a function of the same arguments")
    name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
    host, own = Host(), Own()

    async def ask(call: Call, /) -> Response:
        assert call.target is not None
        response = await Invoke(call.target, call)
        response.tier, response.deployment = ALONE, name
        return response

    def begun(request: Request, target: object) -> Call:
        call = Call(request, trace=Trace(ALONE), scope=Scope(host.clock), target=cast("Any", target))
        call.plan = cast("Any", _OnlyPlace())
        call.begun_at = host.clock()
        call.lookup = caching.lookup(request)
        call.tier = ALONE
        return call

    origin = Origin.of(
        {"function": name},
        tier=ALONE,
        name=name,
        labels=frozenset(),
        wording=None,
        params=lambda asked: asked,
    )
    caching = Caching(
        cache,
        Origins([origin]),
        host=host,
        wall=time.time,
        rng=random.Random(),
        emit=None,
        lines=lambda tier: ask,
        renewed=lambda call: begun(call.request, call.target),
        paid=lambda call, response, saved_usd: None,
    )
    ground = _Ground(host, caching)
    handler = compose([caching], lambda call: caching.enter(call, ask))

    def ready(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ReadyCall:
        said = {option: checked(option, v) for option, v in scoped(HEEDED).items() if v is not None}
        fields = {**said, **given}
        if depends_on is not None:
            fields["depends_on"] = checked("depends_on", depends_on(*args, **kwargs))
        request = Request(messages=({"role": "call", "content": name},), **fields)
        whose = None if caching.lookup(request) is None else cache.scope
        if whose in ("user", "session") and getattr(request, whose) is None:
            raise ConfigError(
                f'ResultCache(scope="{whose}"): this call names none; '
                f"make it inside tierllm.scope({whose}=...)"
            )
        call = begun(request, WrappedCall(fn, signature, args, kwargs, own=own))
        assert call.scope is not None
        return ReadyCall(call, handler, call.scope, ground.host)

    if signature.is_async:

        @functools.wraps(fn)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return (await ready(args, kwargs).arun()).raw

        return cast("Callable[P, R]", awaited)

    @functools.wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        return ready(args, kwargs).run().raw

    return cast("Callable[P, R]", called)
