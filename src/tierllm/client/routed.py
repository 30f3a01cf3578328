"""What a client says about its service levels, and what it is told about its answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from ..routing.plan import unknown_tier
from ..types import Response, Trace

if TYPE_CHECKING:
    from ..sla.report import Report
    from .ground import Ground
    from .setup import Setup

__all__ = ["Routed"]

Signal = Literal["accepted", "edited", "retried", "abandoned"]

SIGNALS: dict[str, float] = {"accepted": 1.0, "edited": 0.5, "retried": 0.0, "abandoned": 0.0}
"""What an application sees its users do with an answer, as a score."""


class Routed:
    """The part of a client that answers for where calls go."""

    _ground: Ground
    _setup: Setup

    def feedback(
        self,
        trace_id: str,
        score: float | None = None,
        *,
        signal: Signal | None = None,
        user: str | None = None,
        tenant: str | None = None,
    ) -> bool:
        """Say how good an answer was: ``score`` from 0 to 1, or what became of it (``signal``).

        The router learns from it, once for each call and as long as it remembers that call; the decision log
        keeps it in any case. ``signal``: ``"accepted"`` counts 1, ``"edited"`` 0.5, ``"retried"`` and
        ``"abandoned"`` 0. The answer: whether the router has learned. Never waits. Raises ``ConfigError``
        for what is no score.

        Ids of traces can be guessed. Where they come from users, say who it is that tells: then nothing is
        taken in unless the call was made for that ``user`` and ``tenant``, here and lately.
        """
        if (score is None) == (signal is None):
            raise ConfigError("feedback(trace_id, ...): give a score from 0 to 1, or a signal")
        if signal is not None:
            if signal not in SIGNALS:
                raise ConfigError(f"feedback(signal={signal!r}): one of {', '.join(SIGNALS)}")
            score = SIGNALS[signal]
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ConfigError(f"feedback(..., {score!r}): give a score from 0 to 1")
        if not isinstance(trace_id, str) or not trace_id:
            kind = type(trace_id).__name__
            raise ConfigError(f"feedback(<{kind}>): give the id of a trace, such as response.trace.id")
        for option, name in (("user", user), ("tenant", tenant)):
            if name is not None and not isinstance(name, str):
                raise ConfigError(f"feedback({option}=<{type(name).__name__}>): give a name, or leave it out")
        if not self._setup.callers.belongs(trace_id, user, tenant):
            return False
        return self._setup.heard(trace_id, float(score), signal or "explicit")

    def explain(self, what: Trace | Response | str) -> str:
        """Where a call went and why, in plain words: of its trace, its response, or its trace's id.

        An id is looked up in the decision log, which reads a file. Raises ``ConfigError`` where the client
        keeps none, or it does not have that call.
        """
        from ..routing.explanation import explained

        if isinstance(what, Response):
            if what.trace is None:
                raise ConfigError("explain(response): this one has no trace; it was not made by a client")
            return explained(what.trace)
        if isinstance(what, Trace):
            return explained(what)
        if not isinstance(what, str):
            raise ConfigError(f"explain(<{type(what).__name__}>): give a response, a trace, or a trace's id")
        decisions = self._setup.decisions
        if decisions is None:
            raise ConfigError(
                "explain(id): this client keeps no decision log: give it decisions=DecisionLog(path), or "
                "give explain the trace itself"
            )
        row = decisions.find(what)
        if row is None:
            raise ConfigError(f"explain({what!r}): the decision log has no such call")
        return explained(row)

    def attainment(
        self,
        tier: str | None = None,
        *,
        contract: str | None = None,
        tenant: str | None = None,
        plan: str | None = None,
        window_s: float | None = None,
    ) -> Report:
        """How far a tier, a contract, a plan or a tier's tenant got what was promised.

        ``window_s`` seconds back; left out, the longest window there is. Raises ``ConfigError`` for one
        that nothing was promised to.
        """
        levels = self._setup.levels
        if levels is None:
            raise ConfigError("attainment(): nothing was promised: give a tier objective=Objective(...)")
        return levels.report(tier, contract, tenant, window_s, plan)

    def shift(
        self, tier: str, deployment: str | None = None, *, away: bool | None, for_s: float | None = None
    ) -> None:
        """Take a deployment out of its tier's calls by hand (``away=True``), keep it in whatever happens
        (``False``), or leave it to the tier's ``Shift`` again (``None``). Without ``deployment``: the tier
        itself, whose calls go to the next one.

        It holds ``for_s`` seconds, or until it is changed. Raises ``ConfigError`` where there is no such
        place, or the tier has no ``shift=``.
        """
        line = self._setup.lines.get(tier)
        if line is None:
            raise unknown_tier("tier", tier, list(self._setup.lines))
        if line.shifting is None:
            raise ConfigError(f"shift({tier!r}): this tier has no shift=Shift(...) to tell")
        names = [place.name for place in line.lines]
        if deployment is not None and deployment not in names:
            raise ConfigError(
                f"shift({tier!r}, {deployment!r}): there is no such deployment; {tier} has {', '.join(names)}"
            )
        if away is not None and not isinstance(away, bool):
            raise ConfigError(f"shift(away={away!r}): give True, False, or None for automatic")
        if for_s is not None and (isinstance(for_s, bool) or not 0 < for_s < math.inf):
            raise ConfigError(f"shift(for_s={for_s!r}): give seconds above 0, or leave it out")
        until = None if for_s is None else self._ground.clock() + for_s
        line.shifting.pin(deployment, away=away, until=until)
