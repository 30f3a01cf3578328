"""What a client says about money: estimates before, accounts after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from ..cost.runs import Run
from ..cost.spend import WHO, asked_by
from ..errors import ConfigError
from ..pipeline.defaults import scoped
from ..routing.ask import CallOptions, ask
from ..types import Message

if TYPE_CHECKING:
    from datetime import datetime

    from ..cost.advice import Suggestion
    from ..cost.batch_estimate import BatchEstimate
    from ..cost.budget import Remaining
    from ..cost.estimate import Estimate
    from ..cost.ledger import UsageLedger
    from ..cost.ledger_summary import UsageLine
    from ..pipeline.provider import Provider
    from ..pipeline.ready import ReadyCall
    from ..types import Request
    from .ground import Ground
    from .setup import Setup

__all__ = ["Accounts"]

Prompt = str | Sequence[Message]


class Accounts:
    """The part of a client that answers for its money."""

    _ground: Ground
    _setup: Setup

    def ready(self, request: Request, target: Provider | None = None) -> ReadyCall:
        raise NotImplementedError

    def estimate(
        self, prompt: Prompt, *, exact: bool | None = None, **options: Unpack[CallOptions]
    ) -> Estimate:
        """What a call would use, before it is sent: tokens, dollars, seconds.

        For the tier it would start in, and under ``tiers`` for each one it may be served by. Where its
        difficulty decides, that is where it would send the call as things are, were there no exploring.
        ``exact=False`` does not count tokens but tells them from the text's length, in microseconds.
        Raises ``ConfigError`` for calls that make no sense.
        """
        setup, call = self._setup, self.ready(ask(prompt, options)).call
        if setup.scored is not None:
            setup.scored.foreseen(call)
        return setup.quotes.of(call, exact=exact)

    def estimate_many(
        self, prompts: Iterable[Prompt], *, exact: bool | None = None, **options: Unpack[CallOptions]
    ) -> BatchEstimate:
        """The total of many calls with the same options, in the tier where they would start."""
        from ..cost.batch_estimate import total

        return total(self.estimate(prompt, exact=exact, **options) for prompt in prompts)

    def run(self, name: str | None = None, **limits: Any) -> Run:
        """One budget over many calls: ``with client.run(hard_usd=5) as run: ...``, or ``async with``.

        ``limits`` are those of a ``Budget``, which all calls made inside draw on together. Without any
        it only keeps the account. Raises ``ConfigError``.
        """
        name = f"run-{next(self._ground.numbers):x}" if name is None else name
        return Run(self, name, wall=self._ground.wall, budgets=self._setup.treasury.run_budgets, **limits)

    def remaining(self, **who: Any) -> list[Remaining]:
        """What is left of every budget for ``who`` (``user=``, ``tenant=``, ``plan=``, …), or for whom
        ``tierllm.scope`` says. A tenant's contract and its plan are filled in, as for a call.

        Asks the store, which may take as long as its timeout. Raises ``StoreUnavailableError``.
        """
        asked, service = {**scoped(WHO), **who}, self._setup.service
        if service is not None:
            request = service.filled(asked_by(asked))
            found = {"contract": request.contract, "plan": request.plan}
            asked |= {key: name for key, name in found.items() if name is not None}
        return self._setup.treasury.remaining(**asked)

    @overload
    def usage(
        self,
        *,
        by: None = None,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> UsageLine: ...

    @overload
    def usage(
        self,
        *,
        by: Sequence[str],
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> list[UsageLine]: ...

    def usage(
        self,
        *,
        by: Sequence[str] | None = None,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> UsageLine | list[UsageLine]:
        """What was used, from the ledger: ``client.usage(user="u42")`` gives one total,
        ``by=("user", "tier")`` a list with one for each group.

        ``client.ledger`` has more: rows, statements, the error of estimates. Raises ``ConfigError`` for
        a client that keeps no ledger.
        """
        if by is None:
            return self.ledger.total(since, until, **where)
        return self.ledger.usage(by, since, until, tz=None, **where)

    @property
    def ledger(self) -> UsageLedger:
        """The client's ledger. Raises ``ConfigError`` where it keeps none."""
        ledger = self._setup.treasury.ledger
        if ledger is None:
            raise ConfigError("this client keeps no ledger: give it ledger=UsageLedger(...)")
        return ledger

    def suggestions(
        self, since: float | datetime | None = None, until: float | datetime | None = None
    ) -> list[Suggestion]:
        """What the ledger and the budgets suggest: limits never or always reached, cheaper tiers that may
        do, what caching saved. Peaks of budgets are those since this client began.
        """
        from ..cost.advice import advice_on

        return advice_on(self.ledger, since, until, budgets=self._setup.treasury.uses())
