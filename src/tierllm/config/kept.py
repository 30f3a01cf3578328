"""What was built from a configuration, for the next one: where tables are the same, so are the objects."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from .table import same

if TYPE_CHECKING:
    from ..pipeline.provider import Provider

__all__ = ["Kept"]

T = TypeVar("T")


class Kept:
    """The objects made of a configuration's tables, by where those stand.

    ``before`` is that of the configuration that went before this one: what it made of the same table is
    used again, with all that it knows. Not thread-safe: one configuration is built at a time.
    """

    def __init__(self, before: Kept | None = None) -> None:
        self._before = {} if before is None else before._made
        self._made: dict[Hashable, tuple[object, Any]] = {}
        self._new: dict[Hashable, Any] = {}

    def once(self, where: Hashable, written: object, build: Callable[[], T]) -> T:
        """What ``build`` makes; what it made before, where the same was ``written`` there.

        Objects in ``written`` are the same only if they are the very ones.
        """
        found = self._made.get(where)
        if found is None or not same(found[0], written):
            found = self._before.get(where)
            if found is None or not same(found[0], written):
                found = (written, build())
                self._new[where] = found[1]
            self._made[where] = found
        made: T = found[1]
        return made

    def was(self, where: Hashable) -> Any:
        """What stood there before, whatever was written; ``None`` for nothing."""
        found = self._before.get(where)
        return None if found is None else found[1]

    def settled(self) -> None:
        """It is in use: what went before is needed no more."""
        self._before, self._new = {}, {}

    def new_providers(self) -> list[str]:
        """The names of those that were made for this configuration alone."""
        return [str(where[1]) for where in self._new if _is_provider(where)]

    def providers(self) -> list[Provider]:
        """The providers that were made, of this configuration or the one before."""
        return [made for where, (_, made) in self._made.items() if _is_provider(where)]

    def undone(self) -> None:
        """It is not to be used after all: close what was opened for it alone."""
        for where, made in self._new.items():
            if _is_provider(where) or where == ("decisions",):
                made.close()


def _is_provider(where: Hashable) -> TypeGuard[tuple[Hashable, ...]]:
    return isinstance(where, tuple) and where[0] == "providers"
