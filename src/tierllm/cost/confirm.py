"""Asking before money is spent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, NotConfirmedError
from ..pipeline.effects import Blocking, Handler

if TYPE_CHECKING:
    from ..types import Call, Response
    from .estimate import Estimate

__all__ = ["Confirm"]


class Confirm:
    """Shows the estimate of a call that may cost more than ``over_usd`` to ``ask``, and heeds the answer.

    What counts is the worst case of one attempt at the dearest place that the call may come to, as
    ``dearest_usd`` tells it (``None``: no price is known); ``estimate`` is that of the first.

    A call's own ``confirm`` and ``confirm_over_usd`` come first. ``ask`` may be a coroutine function
    where calls are async. No answer but ``True`` lets the call go: then ``NotConfirmedError``. A
    call whose price is not known is always asked about.
    """

    def __init__(
        self,
        estimate: Callable[[Call], Estimate],
        dearest_usd: Callable[[Call], Decimal | None],
        ask: Callable[[Estimate], Any] | None = None,
        over_usd: Decimal | None = None,
    ) -> None:
        self.estimate = estimate
        self.dearest_usd = dearest_usd
        self.ask = ask
        self.over_usd = over_usd

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        request = call.request
        over_usd = self.over_usd if request.confirm_over_usd is None else request.confirm_over_usd
        ask = request.confirm or self.ask
        if over_usd is not None or ask is not None:
            if ask is None:
                raise ConfigError("confirm_over_usd=...: give confirm= too, a function of the estimate")
            estimate = await Blocking(lambda: self.estimate(call))
            dearest = await Blocking(lambda: self.dearest_usd(call))
            if dearest is None or dearest > (over_usd or 0):
                await self._ask(ask, estimate)
        return await call_next(call)

    async def _ask(self, ask: Callable[[Estimate], Any], estimate: Estimate) -> None:
        if inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(type(ask).__call__):
            agreed = await ask(estimate)
        else:
            agreed = await Blocking(lambda: ask(estimate))
            if inspect.isawaitable(agreed):
                agreed = await agreed
        if agreed is not True:
            cost = estimate.cost_usd
            told = "its price is not known" if cost is None else f"it may cost ${cost.max.normalize():f}"
            raise NotConfirmedError(f"the call was not confirmed: {told}", estimate=estimate)
