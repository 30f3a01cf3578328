"""Who made an answer, and whether that very deployment could serve a call today."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Origin:
    """A deployment as a maker of answers.

    ``digest`` tells it from any other, its settings included; ``None``: its settings cannot be written
    down, so that nothing it says can be kept. ``wording`` gives the messages as it gets them, where
    its tier's prompt is a function. ``params`` gives the parameters, tier's and deployment's included.
    """

    tier: str
    name: str
    labels: frozenset[str]
    digest: bytes | None
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
        return cls(tier, name, labels, None if written is None else written.digest, wording, params)

    def fingerprint(self, request: Request) -> bytes | None:
        """What an answer to ``request`` from here is known by. ``None``: nothing from here can be kept."""
        if self.wording is None or self.digest is None:
            return self.digest
        try:
            worded = key_of(Request(messages=self.wording(request.messages)), scope="")
        except Exception:  # the application's own function; the call itself will tell
            return None
        return None if worded is None else blake2b_256(self.digest + worded.canonical)


class Origins:
    """The deployments of a client, tier by tier, best first."""

    def __init__(self, origins: Sequence[Origin]) -> None:
        self._ranks = {tier: rank for rank, tier in enumerate(dict.fromkeys(o.tier for o in origins))}
        self._places = {(origin.tier, origin.name): origin for origin in origins}
        self._firsts = {origin.tier: origin for origin in reversed(origins)}
        self._warm = {
            tier: any((o.params({}).get("temperature") or 0) > 0 for o in origins if o.tier == tier)
            for tier in self._ranks
        }

    def maker(self, entry: Entry, request: Request) -> Origin | None:
        """The deployment that made ``entry``, where it is still the same and may serve ``request``."""
        origin = self._places.get((entry.tier, entry.deployment))
        if origin is None or not request.require <= origin.labels:
            return None
        made_by = origin.fingerprint(request)
        return None if made_by is None or made_by != entry.fingerprint else origin

    def place(self, tier: str | None, deployment: str | None) -> Origin | None:
        return self._places.get((tier or "", deployment or ""))

    def wording(self, tier: str, request: Request) -> bytes | None:
        """What ``tier`` is known by just now: another one, where its prompt's function says other words."""
        first = self._firsts.get(tier)
        return None if first is None else first.fingerprint(request)

    def above(self, tier: str, other: str) -> bool:
        """Whether ``tier`` is a higher one than ``other``."""
        return self._ranks[tier] < self._ranks[other]

    def is_warm(self, tier: str, request: Request) -> bool:
        """Whether the temperature there is above 0, said by the call or by the tier's own settings."""
        given = request.params.get("temperature")
        if self._warm[tier] if given is None else given > 0:
            return True
        return bool(request.extra) and any(map(_heats, request.extra.values()))


def _heats(options: object) -> bool:
    """Whether options for a vendor, which come last, set a temperature above 0."""
    if not isinstance(options, Mapping):
        return False
    given = options.get("temperature")
    return (isinstance(given, int | float) and given > 0) or _heats(options.get("extra_body"))
