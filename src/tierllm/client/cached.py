"""What a client does with a cache of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..caching.entry import Entry
    from ..caching.result_cache import ResultCache
    from .setup import Setup

__all__ = ["Cached"]


class Cached:
    """The part of a client that has a cache."""

    _setup: Setup

    @property
    def cache(self) -> ResultCache:
        """The client's cache. Raises ``ConfigError`` where it has none."""
        caching = self._setup.caching
        if caching is None:
            raise ConfigError("this client has no cache: give it cache=ResultCache(...)")
        return caching.cache

    def still_made(self, entry: Entry) -> bool:
        """Whether the very deployment that made ``entry`` is here, as far as its settings tell."""
        caching = self._setup.caching
        origin = None if caching is None else caching.origins.place(entry.tier, entry.deployment)
        if origin is None or origin.wording is not None:  # which is another one for each request
            return origin is not None
        return origin.digest == entry.fingerprint
