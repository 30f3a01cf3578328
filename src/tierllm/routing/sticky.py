"""Sticky sessions: who came here before goes where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .bindings import Bindings, Returns

if TYPE_CHECKING:
    from ..events import Event
    from ..pipeline.clock import Clock
    from ..stores import Store
    from ..types import Call
    from .sticking import Sticking

__all__ = ["StickySessions"]

PER = ("session", "user", "session only")
LONGEST_S = 30 * 86_400.0
MOST_SESSIONS = 10_000_000


class StickySessions:
    """A session keeps its tier and its deployment, and so its style and the vendor's prompt cache.

    ``per="session"`` goes by the call's session or, where it has none, by its user of its tenant;
    ``"session only"`` leaves calls without one alone; ``"user"`` goes by the user, whatever the session.

    The first answer that a provider gives **binds** the session. Its home is the tier that routing had it
    begin in, and the place there that answered; where it was answered elsewhere it is away from the first.
    From then on its calls begin in that tier, at that deployment. Difficulty has no say in a bound session.
    In that of a user it has: where the client chooses by difficulty, or cascades, a user keeps but its
    deployment within whatever tier is chosen.

    A tier that the caller names (``sla=``), or that one call was important enough for, is for that call: it
    makes no home and lifts none. A rule's ``tier=`` goes before the binding's, too, and leaves the binding
    alone for as long as the place it is bound to is warm. Who is granted a better tier than when it was
    bound (another plan, another rule) goes there.

    It **leaves** where its place is out of order, avoided by a shift, or not admissible any more, and after
    three answers in a row that came from elsewhere (a race lost, an attempt that failed). A floor above its
    tier lifts it for good: where it is then is home.

    It **goes back** home once that is admissible and in order again:

    - from a lower tier, ``return_up_after_s`` after it left;
    - from a higher tier, ``return_after_s`` after it left;
    - from another deployment of its tier, ``return_after_s`` after it left and not before the vendor's
      prompt cache has gone cold there (``cache_ttl_s`` without an answer): until then, staying is cheaper.

    **It moves four times in any hour at most**, however its places come and go: leaving takes the room for
    coming back as well, so that who has moved too often is bound to its home, and goes elsewhere only for
    the calls that home cannot serve.

    Cached answers and failed calls bind nothing; a cancelled call changes nothing.

    The ``max_sessions`` used last are remembered, each until it was not used for ``ttl_s``; about 300 bytes
    each. Where the client's store is ``shared``, processes share what they know: by names that are hashed
    (with ``salt``, if one is given). What is known here is not looked up; what is not is read once. Where
    the store is out of reach sessions stick as far as this process knows them.

    ``mode="observe"`` binds and moves on paper, writes down where calls would have gone, and changes
    nothing. Raises ``ConfigError`` for settings that make no sense.
    """

    def __init__(
        self,
        *,
        per: Literal["session", "user", "session only"] = "session",
        ttl_s: float = 3600.0,
        max_sessions: int = 100_000,
        return_after_s: float = 300.0,
        return_up_after_s: float = 30.0,
        cache_ttl_s: float = 300.0,
        shared: bool = True,
        salt: str = "",
        mode: Literal["enforce", "observe"] = "enforce",
        clock: Clock = time.monotonic,
    ) -> None:
        if per not in PER:
            raise ConfigError(f"StickySessions(per={per!r}): one of {', '.join(map(repr, PER))}")
        for name, seconds in (
            ("return_after_s", return_after_s),
            ("return_up_after_s", return_up_after_s),
            ("cache_ttl_s", cache_ttl_s),
            ("ttl_s", ttl_s),
        ):
            least = 1 if name == "ttl_s" else 0
            if not _number(seconds) or not least <= seconds <= LONGEST_S:
                raise ConfigError(
                    f"StickySessions({name}={seconds!r}): give seconds, from {least} to {LONGEST_S:.0f}"
                )
        if type(max_sessions) is not int or not 1 <= max_sessions <= MOST_SESSIONS:
            raise ConfigError(
                f"StickySessions(max_sessions={max_sessions!r}): give a whole number up to {MOST_SESSIONS:,}"
            )
        if not isinstance(shared, bool):
            raise ConfigError(f"StickySessions(shared={shared!r}): give True or False")
        if not isinstance(salt, str):
            raise ConfigError("StickySessions(salt=...): give a text, the same in all processes")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"StickySessions(mode={mode!r}): 'enforce' or 'observe'")
        self.per: str = per
        self.ttl_s = ttl_s
        self.max_sessions = max_sessions
        self.returns = Returns(return_after_s, return_up_after_s, cache_ttl_s)
        self.shared = shared
        self.salt = salt
        self.mode: str = mode
        self.clock = clock
        self._alone = Bindings(max_sessions, ttl_s)
        renew_after_fork(self)

    def bound(
        self,
        *,
        clock: Clock,
        wall: Clock,
        store: Store | None,
        usable: Callable[[Call, str, str], bool],
        tiers: Sequence[str],
        emit: Callable[[Event], None] | None = None,
        soon: Callable[[Callable[[], object]], object] | None = None,
        before: Sticking | None = None,
        settle: Callable[[Call], None] | None = None,
        chosen: bool = False,
    ) -> Sticking:
        """The policy for one client.

        ``usable(call, tier, deployment)`` says whether that place is there, has the labels that the call
        requires and would serve it now; with ``""`` for the deployment: whether any of the tier would.
        ``tiers`` are listed best first. ``soon`` does short I/O in the background. The
        table of the one ``before`` it (the client has been given another configuration) is taken over.
        ``settle(call)`` sends a call on whose tier is chosen, where that tier sends calls down. ``chosen``:
        the client chooses tiers by difficulty, or cascades.
        """
        from .sticking import Sticking

        return Sticking(
            self,
            clock=clock,
            wall=wall,
            store=store,
            usable=usable,
            tiers=tiers,
            emit=emit,
            soon=soon,
            before=before,
            settle=settle,
            chosen=chosen,
        )

    def keep(
        self, session: str, places: Sequence[str], usable: Callable[[str], bool] = lambda place: True
    ) -> str:
        """Alone, without a client: which of ``places`` the ``session`` is to go to now.

        The one it is bound to while ``usable(place)``, else the first that is, by the rule above; where
        none is, the first. Thread-safe. Raises ``ConfigError`` where there are no places.
        """
        if isinstance(places, str) or not places:
            raise ConfigError("keep(places=...): give a list of names, at least one")
        table = self._alone
        now = self.clock()
        binding = table.get(session, now)
        if binding is None:
            first = next((name for name in places if usable(name)), places[0])
            return table.bind(session, ("", first), now).place[1]
        home, here = binding.home, binding.place
        after_s = self.returns.after_s
        if binding.away and self.returns.due(binding, now) and home[1] in places and usable(home[1]):
            table.move(binding, home, "", now, now)
        elif here[1] not in places or not usable(here[1]):
            others = (home[1], *places) if home[1] in places else places
            name = next((name for name in others if name != here[1] and usable(name)), None)
            if name is None:
                return places[0] if here[1] not in places else here[1]
            table.move(binding, ("", name), "unusable", now, now + after_s)
            return name
        binding.used_at = now
        return binding.place[1]

    def renew(self) -> None:
        """After a fork."""
        self._alone.renew()

    def __repr__(self) -> str:
        return f"StickySessions(per={self.per!r}, ttl_s={self.ttl_s:g}, max_sessions={self.max_sessions})"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
