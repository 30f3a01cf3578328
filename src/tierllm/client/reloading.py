"""Another configuration while calls are under way."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ..errors import ClientClosedError, ConfigError
from ..events import ConfigRejected, ConfigReloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..config import Config
    from ..events import Event
    from ..pipeline.provider import Provider
    from .ground import Ground
    from .origin import Closable, Origin
    from .setup import Setup
    from .watching import Watch

__all__ = ["Reloaded", "Reloading"]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload has changed: the tables by name, such as ``"plans.free"`` or ``"tiers.gold"``.

    Empty where the configuration says what it said before: nothing was done then. ``config`` is the hash
    of what holds now.
    """

    changed: tuple[str, ...]
    config: str

    def __bool__(self) -> bool:
        return bool(self.changed)


class Reloading:
    """The part of a client that may come to go by another configuration."""

    _ground: Ground
    _setup: Setup
    _origin: Origin | None = None
    _watch: Watch | None = None

    def reload(self, config: Config | str | os.PathLike[str] | None = None) -> Reloaded:
        """Go by ``config``, a path or a ``Config``, from now on; left out: read the client's file again.

        All of it is checked first; where anything is wrong, everything stays as it was. Calls that have
        begun end under the configuration they began with; what later ones inherit is in the docs: money
        spent stays spent, pools stay as full as they are, breakers as open. Store, ledger, cache and clock
        are for life. For a client made by ``from_file`` or ``from_config``. Thread-safe; it may read files
        and open connections, so call it off an event loop.

        Raises ``ConfigError`` and ``ClientClosedError``.
        """
        origin = self._origin
        if origin is None:
            raise ConfigError(
                "reload(): this client was made in code; build it by TieredClient.from_file(path), or "
                "from_config(Config.load(path))"
            )
        source = origin.config.source if config is None else str(getattr(config, "source", config))
        return self._go_by(origin, lambda: origin.read(config), source)

    def _go_by(
        self, origin: Origin, read: Callable[[], Config], source: str, known: str | None = None
    ) -> Reloaded:
        """Go by what ``read`` gives. Nobody is told of an error that is ``known``: it was told before."""
        event: Event | None = None
        try:
            with origin.lock:
                config = read()
                source = config.source
                done = self._become(origin, config)
        except ConfigError as error:
            if str(error) != known:
                event = ConfigRejected(source=source, error=str(error))
            raise
        else:
            if done.changed:
                event = ConfigReloaded(source=source, config=done.config, changed=done.changed)
            return done
        finally:  # outside the lock: a listener may reload in its turn
            if event is not None and self._ground.emit is not None:
                self._ground.emit(event)

    def watch(self, every_s: float = 2.0) -> Watch:
        """Reload whenever the client's file changes, looking at it every so many seconds, in a thread.

        Ends with the client, or by ``close()`` of what it gives. A file that makes no sense, or is half
        written, is told of (``ConfigRejected``) and looked at again when it changes. Raises ``ConfigError``
        for a client that has no file.
        """
        from .watching import Watch

        origin = self._origin
        if origin is None or origin.config.path is None:
            raise ConfigError("watch(): this client has no file; build it by TieredClient.from_file(path)")
        with origin.lock:
            if self._ground.host.closed:
                raise ClientClosedError("this client is closed: build a new one")
            if self._watch is not None:
                self._watch.close()
            self._watch = Watch(self, every_s)
            self._watch.start()
            return self._watch

    @classmethod
    def _of(
        cls, config: Config, providers: Mapping[str, Provider] | None, overrides: Mapping[str, object]
    ) -> Self:
        """A client that may reload."""
        from ..config.kept import Kept
        from .checks import close_made
        from .origin import Origin

        origin, kept = Origin(config, providers, overrides), Kept()
        arguments = origin.arguments(config, kept)
        try:
            client = cls(**arguments)
        except BaseException:
            close_made(arguments, overrides)
            kept.undone()
            raise
        kept.settled()
        origin.kept = kept
        client._origin = origin
        client._setup.config = config.digest
        client._setup.tenure = weakref.ref(origin.tenure)
        return client

    def _become(self, origin: Origin, config: Config) -> Reloaded:
        """All that can fail comes first."""
        from ..config.kept import Kept
        from .origin import Tenure

        ground, old = self._ground, self._setup
        if ground.host.closed:
            raise ClientClosedError("this client is closed: build a new one")
        changed = origin.differs(config)
        kept = Kept(origin.kept)
        arguments = origin.arguments(config, kept)
        if not changed:  # but for keys in the environment
            changed = tuple(dict.fromkeys(f"providers.{name}" for name in kept.new_providers()))
            if not changed:
                origin.config, old.config = config, config.digest
                return Reloaded((), config.digest)
        try:
            new = self._next(arguments, old)
        except BaseException:
            kept.undone()
            raise
        tenure = Tenure()
        new.config = config.digest
        new.tenure = weakref.ref(tenure)
        ours = {id(provider): provider for provider in origin.kept.providers()}
        stays = {id(provider) for provider in (*kept.providers(), *new.providers())}
        dropped: list[Closable] = [provider for at, provider in ours.items() if at not in stays]
        if old.decisions is not None and old.decisions is not new.decisions:
            dropped.append(old.decisions)
        new.succeed(old)
        with origin.turning:
            if not origin.over:
                self._setup = new  # calls begin under it from here on
                origin.became(config, kept, old, dropped, tenure)
                return Reloaded(changed, config.digest)
        kept.undone()  # another thread closes the client, and sees nothing of this
        raise ClientClosedError("this client is closed: build a new one")

    def _last(self) -> Setup:
        """The setup that the client ends with: no other takes its place from now on."""
        origin = self._origin
        if origin is None:
            return self._setup
        with origin.turning:
            origin.over = True
            return self._setup

    def _next(self, arguments: Mapping[str, Any], old: Setup) -> Setup:
        """The setup that these arguments describe, to take the place of ``old``."""
        from .origin import settings_of
        from .setup import Setup

        ground = self._ground
        before = ground.retry_budget
        ground.retry_budget = arguments["retry_budget"]
        ground.retry_budget.bind(ground.clock)
        try:
            return Setup(ground, old.owner, **settings_of(arguments), before=old)
        except BaseException:
            ground.retry_budget = before
            raise

    def _renew_origin(self) -> None:
        """After a fork: the file is watched anew."""
        if self._origin is not None:
            self._origin.renew()
        if self._watch is not None:
            self._watch.renew()

    def _leave_origin(self) -> list[Closable]:
        """Stop watching; what is still to be closed of earlier configurations."""
        if self._watch is not None:
            self._watch.close()
        return [] if self._origin is None else self._origin.leaving()
