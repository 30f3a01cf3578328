"""What is not valid any more: pure state, learnt from boards."""

from __future__ import annotations

import json
from typing import Literal, NamedTuple, Protocol

from .layer import MOST_NOTICES, Board, Notice

__all__ = ["Begun", "Dated", "Kind", "Notices", "name_of"]

Kind = Literal["all", "tenant", "document", "content", "tag", "prefix", "slot"]


def name_of(kind: Kind, value: str = "", tenant: str | None = None) -> str:
    """A notice's name: entries of ``tenant`` only, or of everybody.

    ``content`` is about a document's present content, which spares the entries that rest on it. A name of
    its own, so that it takes nothing back of what was said of the document.
    """
    return json.dumps([kind, value, tenant])


class Dated(Protocol):
    """What notices are about: an entry, or what will be one."""

    @property
    def generation(self) -> int: ...
    @property
    def tenant(self) -> str | None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def depends(self) -> tuple[tuple[str, str], ...]: ...


class Begun(NamedTuple):
    """An answer that is being made."""

    generation: int
    tenant: str | None
    tags: tuple[str, ...]
    depends: tuple[tuple[str, str], ...]


class Notices:
    """The notices known here, by what they are about. ``number`` is the last one's.

    One thread learns at a time; others may ask meanwhile.
    """

    def __init__(self) -> None:
        self.number = 0
        self._floor = 0
        self._tenants: dict[str, int] = {}
        self._slots: dict[str, int] = {}
        self._tags: dict[tuple[str, str | None], int] = {}
        self._documents: dict[tuple[str, str | None], int] = {}
        self._contents: dict[tuple[str, str | None], tuple[int, str]] = {}
        self._prefixes: dict[tuple[str, str | None], int] = {}
        self._numbers: dict[str, int] = {}

    def learn(self, board: Board) -> None:
        self._floor = max(self._floor, board.floor)
        for notice in board.notices:
            if notice.number > self._numbers.get(notice.name, 0):
                self._numbers[notice.name] = notice.number
                self._note(notice)
        if len(self._numbers) > MOST_NOTICES:
            self._sum_up()
        self.number = max(self.number, board.number)  # last: who sees it finds the rest

    def _sum_up(self) -> None:
        """The older half goes into the floor, as on a board."""
        numbers = sorted(self._numbers.values())
        self._floor = floor = max(self._floor, numbers[len(numbers) // 2])
        self._numbers = {name: number for name, number in self._numbers.items() if number > floor}
        self._tenants = {name: number for name, number in self._tenants.items() if number > floor}
        self._slots = {name: number for name, number in self._slots.items() if number > floor}
        self._tags = {about: number for about, number in self._tags.items() if number > floor}
        self._documents = {about: number for about, number in self._documents.items() if number > floor}
        self._contents = {about: said for about, said in self._contents.items() if said[0] > floor}
        self._prefixes = {about: number for about, number in self._prefixes.items() if number > floor}

    def knows(self, notice: Notice) -> bool:
        return self._numbers.get(notice.name, 0) >= notice.number

    def _note(self, notice: Notice) -> None:
        number = notice.number
        match _words(notice.name):
            case ["tenant", str(tenant), _]:
                self._tenants[tenant] = number
            case ["slot", str(slot), _]:
                self._slots[slot] = number
            case ["tag", str(tag), str() | None as whose]:
                self._tags[tag, whose] = number
            case ["document", str(document), str() | None as whose]:
                self._documents[document, whose] = number
            case ["content", str(document), str() | None as whose] if notice.content is not None:
                self._contents[document, whose] = (number, notice.content)
            case ["prefix", str(prefix), str() | None as whose]:
                self._prefixes = {**self._prefixes, (prefix, whose): number}  # others may go through it
            case _:  # everything, or words of a later version: better all is made anew
                self._floor = max(self._floor, number)

    def allow(self, entry: Dated, slot: bytes) -> bool:
        """Whether ``entry`` is still valid, so far as is known here."""
        since = entry.generation
        if since >= self.number:
            return True
        tenant = entry.tenant
        if since < self._floor or self._slots.get(slot.hex(), 0) > since:
            return False
        if tenant is not None and self._tenants.get(tenant, 0) > since:
            return False
        for whose in (None, tenant) if tenant is not None else (None,):
            for tag in entry.tags:
                if self._tags.get((tag, whose), 0) > since:
                    return False
            for document, content in entry.depends:
                if self._documents.get((document, whose), 0) > since:
                    return False
                number, current = self._contents.get((document, whose), (0, content))
                if number > since and current != content:
                    return False
        return not self._prefixes or not self._under_prefix(entry, since)

    def outdated(self, depends: tuple[tuple[str, str], ...], tenant: str | None) -> bool:
        """Whether one of these contents is known to be another by now."""
        for whose in (None, tenant) if tenant is not None else (None,):
            for document, content in depends:
                if self._contents.get((document, whose), (0, content))[1] != content:
                    return True
        return False

    def _under_prefix(self, entry: Dated, since: int) -> bool:
        names = (*entry.tags, *(document for document, _ in entry.depends))
        return any(
            number > since and whose in (None, entry.tenant) and name.startswith(prefix)
            for (prefix, whose), number in self._prefixes.items()
            for name in names
        )


def _words(name: str) -> object:
    try:
        return json.loads(name)
    except (ValueError, RecursionError):
        return None
