"""What routing decided for one call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..types import Request, Response
    from .choice import Choice
    from .routing_table import Decision

__all__ = ["Course", "key_of"]

Place = tuple[str, str]
"""A deployment as it is called in its tier: ``("gold", "gpt-5.2-eu")``."""


class Course:
    """What was decided for one call, and what has to be remembered of it; shared by all its copies.

    ``key`` stands for those who are treated alike over time: a session, or a user of a tenant; empty where
    nobody is named. ``fixed``: the caller or a rule has named the tier, ``bound``: its session is kept in
    one; either way its difficulty has no say. ``home`` is the tier that it is to begin in, whatever a budget,
    the load or a shift make of it: there its session will be at home (``None``: where it is answered).
    ``rule`` is the rule that matched, ``balance`` the share of calls like it that go
    to a stronger model (0 is cost, 1 is quality), ``request_class`` how difficult it is, as far as known,
    ``choice`` what was chosen for it by that.

    The place in ``prefer`` is asked first in its tier, those in ``avoid`` last. The answer of the tier
    ``judged`` is judged before anybody sees it; ``spare`` is one that was not good enough, kept in case
    nothing better comes. ``important``: when in doubt, it goes to the stronger model. ``shifts``: it may go
    to a lower tier where its own sheds. ``score`` and ``buckets`` are what the scorer has said of it already;
    ``observed`` is what rules that only observe say of it.
    """

    __slots__ = (
        "avoid",
        "balance",
        "bound",
        "buckets",
        "choice",
        "fixed",
        "home",
        "important",
        "judged",
        "key",
        "observed",
        "prefer",
        "request_class",
        "rule",
        "score",
        "shifts",
        "spare",
    )

    def __init__(self, key: str = "", *, fixed: bool = False) -> None:
        self.key = key
        self.fixed = fixed
        self.bound = False
        self.home: str | None = None
        self.important = False
        self.shifts = True
        self.rule: str | None = None
        self.balance: float | None = None
        self.score: float | None = None
        self.buckets: Sequence[int] | None = None
        self.observed: Decision | None = None
        self.request_class: str | None = None
        self.choice: Choice | None = None
        self.prefer: Place | None = None
        self.avoid: Collection[Place] = ()
        self.judged: str | None = None
        self.spare: Response | None = None


def key_of(request: Request) -> str:
    """Who is to be treated alike: the session, else the user of the tenant; empty where neither is named."""
    if request.session is not None:
        return f"s:{request.tenant or ''}\0{request.session}"
    if request.user is not None:
        return f"u:{request.tenant or ''}\0{request.user}"
    return ""
