"""Where a client's configuration comes from, and what was made of it."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..config import Config
from ..config.changes import FOR_LIFE, changed
from ..config.kept import Kept
from ..cost.prices import PriceBook
from ..errors import ConfigError
from ..events import log_failure
from ..resilience.retry import RetryBudget

if TYPE_CHECKING:
    from ..pipeline.provider import Provider
    from .setup import Setup

__all__ = ["Closable", "Origin", "Tenure", "settings_of"]

OF_THE_GROUND = ("clock", "rng", "listeners")
"""What a client has from its beginning to its end, beside its store, ledger and cache."""


class Closable(Protocol):
    """A provider, or a log."""

    def close(self) -> None: ...


class Tenure:
    """The time in which calls begin under one setup. It lasts until no call that began in it is left, nor
    in one before it: what is closed when a tenure ends, calls of earlier ones may have, too."""

    __slots__ = ("__weakref__", "after")

    def __init__(self) -> None:
        self.after: Tenure | None = None


class Origin:
    """The configuration that a client goes by, and all that is needed to go by another.

    ``providers`` and ``overrides`` are what the application gave beside it, which holds for later ones too.
    Whoever changes something holds ``lock``.
    """

    def __init__(
        self, config: Config, providers: Mapping[str, Provider] | None, overrides: Mapping[str, Any]
    ) -> None:
        self.config = config
        self.providers = dict(providers or {})
        self.overrides = dict(overrides)
        self.kept = Kept()
        self.tenure = Tenure()
        self.retiring: set[Retirement] = set()
        self.lock = threading.RLock()
        self.turning = threading.RLock()
        """Held while one setup takes another's place, and by who closes the client."""
        self.over = False
        """No other setup comes any more."""
        self._left: tuple[weakref.ref[Setup], ...] = ()

    def read(self, given: Config | str | os.PathLike[str] | None) -> Config:
        """The configuration that is asked for; ``None``: the file again. Raises ``ConfigError``."""
        if given is None:
            if self.config.path is None:
                raise ConfigError(
                    "reload(): this client was made from a Config that is no file; give it the new Config, "
                    "or a path"
                )
            return Config.load(self.config.path)
        if isinstance(given, Config):
            return given
        if not isinstance(given, str | os.PathLike):
            raise ConfigError(f"reload({type(given).__name__}): give a Config or the path of a file")
        return Config.load(given)

    def arguments(self, config: Config, kept: Kept) -> dict[str, Any]:
        """What a client of ``config`` is to be made with. Raises ``ConfigError``."""
        known = {*config.providers, *config.used()}
        given = self.providers
        if config is not self.config:  # what is not there any more may come back
            given = {name: provider for name, provider in given.items() if name in known}
        arguments = config.arguments(providers=given, kept=kept, **self.overrides)
        if "prices" not in arguments:
            arguments["prices"] = kept.once(("prices",), "bundled", PriceBook.bundled)
        if "retry_budget" not in arguments:
            arguments["retry_budget"] = kept.once(("retry_budget",), "usual", RetryBudget)
        return arguments

    def differs(self, config: Config) -> tuple[str, ...]:
        """The tables that are not the same. Raises ``ConfigError`` where a client cannot go on with them."""
        found = tuple(
            name for name in changed(self.config, config) if name.partition(".")[0] not in self.overrides
        )
        for name in FOR_LIFE:
            if name in found:
                raise ConfigError(
                    f"{config.source}: {name}: a client keeps its {name} for life; restart with the new one, "
                    "or put the table back as it was"
                )
        return found

    def became(
        self, config: Config, kept: Kept, left: Setup, dropped: Sequence[Closable], tenure: Tenure
    ) -> None:
        """Calls go by ``config`` now, and no longer by ``left``. What was ``dropped`` is closed once no call
        remains that has it."""
        self._left = (*(ref for ref in self._left if ref() is not None), weakref.ref(left))
        earlier, self.tenure = self.tenure, tenure
        earlier.after = tenure
        self.config, self.kept = config, kept
        kept.settled()
        if dropped:
            self.retiring.add(Retirement(dropped, earlier, self.retiring))

    def left(self) -> list[Setup]:
        """Earlier setups that calls still go by, the oldest first."""
        return [setup for ref in self._left if (setup := ref()) is not None]

    # -- life ------------------------------------------------------------------

    def leaving(self) -> list[Closable]:
        """What is no longer used, and not closed yet."""
        return [thing for each in tuple(self.retiring) for thing in each.take()]

    def renew(self) -> None:
        """After a fork: the parent sees to what it has under way."""
        self.lock, self.turning = threading.RLock(), threading.RLock()
        self.retiring = set()


class Retirement:
    """What waits for the last call of a tenure to end, and is closed then, by a thread of its own.

    A tenure may end anywhere, in a finalizer too, which garbage collection runs in the middle of whatever a
    thread does: so all that is done there is to put something into a queue that bears it.
    """

    def __init__(self, things: Sequence[Closable], tenure: Tenure, among: set[Retirement]) -> None:
        self._things = list(things)
        self._among = among
        over: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._over = over
        self._watched = weakref.ref(tenure, lambda _: over.put(None))
        threading.Thread(target=self._wait, name="tierllm-retiring", daemon=True).start()

    def take(self) -> list[Closable]:
        """Somebody else sees to them."""
        taken, self._things = self._things, []
        self._over.put(None)
        return taken

    def _wait(self) -> None:
        self._over.get()
        taken, self._things = self._things, []
        self._among.discard(self)
        for thing in taken:
            try:  # one that fails must not save the others
                thing.close()
            except Exception:
                log_failure(f"closing {type(thing).__name__} failed")


def settings_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a setup is made with, of all that a client is."""
    return {
        name: value
        for name, value in arguments.items()
        if name not in OF_THE_GROUND and name != "retry_budget"
    }
