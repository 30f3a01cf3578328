"""Shadow: a sample of calls is answered by a second model too, to compare. Nobody sees that answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from ..cost.budget import Budget
from ..errors import ConfigError
from .judges import Agreement, check_judge
from .plan import unknown_tier

if TYPE_CHECKING:
    from .judges import Judge

__all__ = ["Shadow"]

BUDGET = "tierllm-shadow"
"""What its budget is called, in the store and in refusals."""


class Shadow:
    """Sends a sample of calls to a second place too, once they are answered: ``TieredClient(shadow=...)``.

    ``to`` is a tier (``"silver"``) or a deployment of one (``"silver/gpt-5-mini"``), ``share`` the share of
    calls that are sampled. ``judge`` is a function of the request and a response, from 0 to 1, as for a
    ``Cascade``: it judges both answers, apart from the call, and may take its time. ``learn`` is called with
    what came out, ``learn(text, weak=…, strong=…)``, where the two are of different tiers: a
    ``LearnedScorer``'s ``learn``.

    It has a budget of its own: ``hard_usd`` dollars ``per`` day (``"1d"``, or another window of a
    ``Budget``), which no two processes exceed together where the client's store is shared. It is real money
    all the same: the client's own budgets over all calls, a tier or a deployment count it too, and a hard
    one may refuse it. Budgets and limits of a user, a tenant or a plan do not: it runs under the user and
    the tenant ``"shadow"``.

    Never sampled: calls whose ``require`` labels the place has not, calls with one of ``skip_tags``, whose
    model may act (tools), wrapped ones, those that may be made only once; answers from the cache, and
    degraded ones. A call's ``min_tier`` does not matter, since nobody is served. It takes a place only where
    one is free, waits for nothing, is tried once, and is in no attainment, session or decision. Closing the
    client ends it.

    ``mode="observe"`` sends nothing, and counts what would have been. Raises ``ConfigError``.
    """

    __slots__ = ("budget", "judge", "learn", "mode", "share", "skip_tags", "to")

    def __init__(
        self,
        to: str,
        *,
        share: float = 0.01,
        hard_usd: float = 1.0,
        per: str = "1d",
        judge: Judge | None = None,
        learn: Callable[..., object] | None = None,
        skip_tags: Sequence[str] = ("confidential",),
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        if not isinstance(to, str) or not to.partition("/")[0]:
            raise ConfigError(f"Shadow(to={to!r}): give a tier, or a deployment as 'tier/name'")
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or math.isnan(share) or not 0 < share <= 1:
            raise ConfigError(f"Shadow(share={share!r}): give a share above 0 and up to 1, such as 0.01")
        if judge is not None:
            check_judge("Shadow", judge)
        if isinstance(judge, Agreement):
            raise ConfigError("Shadow(judge=Agreement(...)): give a function that judges one answer")
        if learn is not None and not callable(learn):
            raise ConfigError(f"Shadow(learn={learn!r}): give a function, such as a LearnedScorer's learn")
        if learn is not None and judge is None:
            raise ConfigError("Shadow(learn=...): without a judge there is nothing to learn; give judge=")
        if isinstance(skip_tags, str) or not all(isinstance(tag, str) for tag in skip_tags):
            raise ConfigError(f"Shadow(skip_tags={skip_tags!r}): give a list of tags")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"Shadow(mode={mode!r}): 'enforce' or 'observe'")
        try:
            self.budget = Budget(
                hard_usd=hard_usd, window=per, name=BUDGET, scope="process", on_exceed="reject"
            )
        except ConfigError as error:
            raise ConfigError(f"Shadow(hard_usd={hard_usd!r}, per={per!r}): {error}") from None
        self.to = to
        self.share = float(share)
        self.judge = judge
        self.learn = learn
        self.skip_tags = frozenset(skip_tags)
        self.mode = mode

    @property
    def place(self) -> tuple[str, str | None]:
        """The tier, and the deployment where one is named."""
        tier, _, deployment = self.to.partition("/")
        return tier, deployment or None

    def check_tiers(self, tiers: Sequence[str]) -> None:
        """Raises ``ConfigError`` where none of the client's ``tiers`` is the one it goes to."""
        if self.place[0] not in tiers:
            raise unknown_tier("Shadow: to", self.place[0], tiers)

    def __repr__(self) -> str:
        return f"Shadow({self.to!r}, share={self.share:g})"
