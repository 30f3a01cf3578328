"""Stacking policies."""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType, MethodType
from typing import TYPE_CHECKING

from .effects import Flow, Handler, Invoke, Policy

if TYPE_CHECKING:
    from ..types import Call, Response
    from .provider import Provider

__all__ = ["compose", "invoking"]


def compose(policies: Sequence[Policy], terminal: Handler) -> Handler:
    """One handler of ``policies``, the first outermost, around ``terminal``. Built once."""
    handler = terminal
    for policy in reversed(policies):
        handler = _bound(policy, handler)
    return handler


def _bound(policy: Policy, call_next: Handler) -> Handler:
    # an object's own method is called faster than the object
    run = policy if isinstance(policy, FunctionType | MethodType) else policy.__call__

    def handler(call: Call, /) -> Flow[Response]:
        return run(call, call_next)

    return handler


def invoking(provider: Provider) -> Handler:
    """The innermost handler: calls ``provider``, or the call's own ``target`` in its place."""

    async def invoke(call: Call, /) -> Response:
        return await Invoke(call.target or provider, call, call.deliver)

    return invoke
