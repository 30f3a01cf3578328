"""Who made an answer, and whether that very deployment could serve a call today."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..types import Request
from .key import blake2b_256, key_of

if TYPE_CHECKING:
    from ..types import Message
    from .entry import Entry

__all__ = ["Origin", "Origins"]

Wording = Callable[[tuple["Message", ...]], tuple["Message", ...]]

NESTED = ("extra_body", "options", "config", "generation_config", "generationConfig", "inferenceConfig")
"""Where servers take a temperature beside the usual place."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A deployment as a maker of answers.

    ``digest`` tells it from any other, its settings included. ``own``: they cannot be written down, so that
    its answers count for this very object alone. ``wording`` gives the messages as it gets them, where
    its tier's prompt is a function. ``params`` gives the parameters, tier's and deployment's included.
    """

    tier: str
    name: str
    labels: frozenset[str]
    digest: bytes
    own: bool
    wording: Wording | None
    params: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any],
        *,
        tier: str,
        name: str,
        labels: frozenset[str],
        wording: Wording | None,
        params: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> Origin:
        written = key_of(Request(messages=({"role": "origin", "content": settings},)), scope="")
        digest = os.urandom(32) if written is None else written.digest
        return cls(tier, name, labels, digest, written is None, wording, params)

    def fingerprint(self, request: Request) -> bytes | None:
        """What an answer to ``request`` from here is known by. ``None``: nothing from here can be kept."""
        return self.digest if self.wording is None else self.signed(self.words(request))

    def words(self, request: Request) -> bytes | None:
        """The messages as its tier's prompt words them just now, where that is a function; ``None``:
        nobody can tell."""
        if self.wording is None:
            return b""
        try:
            worded = key_of(Request(messages=self.wording(request.messages)), scope="")
        except Exception:  # the application's own function; the call itself will tell
            return None
        return None if worded is None else worded.canonical

    def signed(self, words: bytes | None) -> bytes | None:
        """What an answer from here to these ``words`` is known by."""
        if words is None:
            return None
        return blake2b_256(self.digest + words) if words else self.digest


class Origins:
    """The deployments of a client, tier by tier, best first."""

    def __init__(self, origins: Sequence[Origin]) -> None:
        self._ranks = {tier: rank for rank, tier in enumerate(dict.fromkeys(o.tier for o in origins))}
        self._places = {(origin.tier, origin.name): origin for origin in origins}
        self._firsts = {origin.tier: origin for origin in reversed(origins)}
        self._all = tuple(origins)
        self._warm_unasked = {tier: self._sends_warm(tier, {}) for tier in self._ranks}
        self._warm_at_0 = {tier: self._sends_warm(tier, {"temperature": 0}) for tier in self._ranks}

    def all_own(self, tier: str) -> bool:
        """Whether other clients could not use what ``tier`` says."""
        return all(origin.own for origin in self._all if origin.tier == tier)

    def maker(self, entry: Entry, request: Request) -> Origin | None:
        """The deployment that made ``entry``, where it is still the same and may serve ``request``."""
        origin = self._places.get((entry.tier, entry.deployment))
        if origin is None or not request.require <= origin.labels:
            return None
        made_by = origin.fingerprint(request)
        return None if made_by is None or made_by != entry.fingerprint else origin

    def place(self, tier: str | None, deployment: str | None) -> Origin | None:
        return self._places.get((tier or "", deployment or ""))

    def words(self, tier: str, request: Request) -> bytes | None:
        """The messages as ``tier`` words them just now."""
        first = self._firsts.get(tier)
        return None if first is None else first.words(request)

    def sent(self, tier: str | None, deployment: str | None, request: Request) -> Mapping[str, Any]:
        """The parameters of ``request`` as that deployment gets them."""
        origin = self.place(tier, deployment)
        return request.params if origin is None else origin.params(request.params)

    def above(self, tier: str, other: str) -> bool:
        """Whether ``tier`` is a higher one than ``other``."""
        return self._ranks[tier] < self._ranks[other]

    def is_warm(self, tier: str, request: Request) -> bool:
        """Whether a temperature above 0 is sent from there, whoever says it: call, settings, or ``extra``."""
        given = request.params.get("temperature")
        if given is None:
            warm = self._warm_unasked[tier]
        elif given == 0:
            warm = self._warm_at_0[tier]
        else:
            warm = self._sends_warm(tier, {"temperature": given})
        return warm or (bool(request.extra) and any(map(_heats, request.extra.values())))

    def _sends_warm(self, tier: str, asked: Mapping[str, Any]) -> bool:
        return any(_heats(origin.params(asked)) for origin in self._all if origin.tier == tier)


def _heats(options: object, deep: int = 3) -> bool:
    """Whether they set a temperature above 0, themselves or in what they hold for the server."""
    if not isinstance(options, Mapping):
        return False
    given = options.get("temperature")
    if isinstance(given, int | float) and given > 0:
        return True
    return deep > 0 and any(_heats(options.get(name), deep - 1) for name in NESTED)
