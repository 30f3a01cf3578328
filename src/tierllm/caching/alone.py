"""A cache around a plain function, without a client."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

from ..errors import ConfigError
from ..pipeline.compose import compose
from ..pipeline.effects import Invoke
from ..pipeline.host import Host
from ..pipeline.ready import ReadyCall
from ..pipeline.scope import Scope
from ..providers.wrapped import Signature, WrappedCall
from ..types import Call, Request, Response, Trace
from .contents import hash_of
from .origins import Origin, Origins
from .policy import Caching

if TYPE_CHECKING:
    from .result_cache import ResultCache

__all__ = ["around"]

P = ParamSpec("P")
R = TypeVar("R")

ALONE = "alone"


class _OnlyPlace(NamedTuple):
    """The plan of a call that can go nowhere else."""

    granted: str = ALONE
    tiers: tuple[str, ...] = (ALONE,)


def around(
    cache: ResultCache,
    fn: Callable[P, R],
    *,
    ttl_s: float | None,
    tags: tuple[str, ...],
    depends_on: Callable[P, Mapping[str, Any]] | None,
) -> Callable[P, R]:
    """``fn`` with ``cache`` around each of its calls."""
    if not callable(fn) or isinstance(fn, type):
        raise ConfigError("ResultCache.wrap(fn): give a function")
    signature = Signature(fn)
    if signature.streams:
        raise ConfigError("ResultCache.wrap(fn): a generator's items are not kept; wrap a plain function")
    name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
    host = Host()

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
    handler = compose([caching], lambda call: caching.enter(call, ask))

    def ready(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ReadyCall:
        documents = {} if depends_on is None else depends_on(*args, **kwargs)
        request = Request(
            messages=({"role": "call", "content": name},),
            cache_ttl_s=ttl_s,
            tags=tags,
            depends_on=tuple(sorted((doc, hash_of(doc, content)) for doc, content in documents.items())),
        )
        call = begun(request, WrappedCall(fn, signature, args, kwargs))
        assert call.scope is not None
        return ReadyCall(call, handler, call.scope, host)

    if signature.is_async:

        @functools.wraps(fn)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return (await ready(args, kwargs).arun()).raw

        return cast("Callable[P, R]", awaited)

    @functools.wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        return ready(args, kwargs).run().raw

    return cast("Callable[P, R]", called)
