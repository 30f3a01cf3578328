"""Entries as ``tierllm cache`` sees them: where a call's would be, and what is to be said of one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..caching.entry import Entry
from ..caching.key import blake2b_256
from ..caching.memory_layer import MemoryLayer
from ..caching.notices import Notices
from ..caching.written import MAGIC
from ..cost.ledger_statement import escaped
from ..errors import ConfigError, StoreUnavailableError, TierLLMError

if TYPE_CHECKING:
    from ..caching.layer import Layer
    from ..client import TieredClient
    from ..config import Config
    from ..pipeline.provider import Provider
    from .cache_layers import Held

__all__ = ["KINDS", "Judge", "as_lines", "counted", "slot_of"]

KINDS = ("fresh", "stale", "over", "invalid", "homeless", "foreign", "damaged")
"""What becomes of an entry.

``stale``: served while it is made anew, or when all tiers are out. ``over``: past its time. ``invalid``:
invalidated since. ``homeless``: the very deployment that made it, settings and all, is not in the file.
``foreign``: written by another version of tierllm. ``damaged``: it cannot be read, or lies where it does
not belong.
"""

VERSION = len(MAGIC) - 1
"""Where the form's version stands."""


class _Noting(MemoryLayer):
    """Keeps nothing, and notes under which slot a call looks for its answer."""

    slot: bytes | None = None

    def find(self, slot: bytes) -> object | None:
        self.slot = slot
        return None


def slot_of(config: Config, prompt: Any, options: Mapping[str, Any]) -> bytes:
    """Where the answer to such a call is kept. Nobody is called.

    Raises ``ConfigError`` for options that make no sense.
    """
    from ..testing import FakeProvider

    noting = _Noting()
    nobody = {name: FakeProvider(name=name) for name in config.used()}
    with _client(config, nobody, noting) as client:
        try:
            client.complete(prompt, **options, cache="always")
        except TierLLMError:
            if noting.slot is None:
                raise
    if noting.slot is None:
        raise ConfigError("such a call has no place in the cache")
    return noting.slot


def _client(config: Config, providers: Mapping[str, Provider], layer: Layer) -> TieredClient:
    """The file's, but for whatever would be counted or kept."""
    from ..client import TieredClient

    assert config.cache is not None
    made = config.arguments(
        providers=providers,
        cache=config.cache.build([layer]),
        store=None,
        ledger=False,
        budgets=(),
        breaker=False,
        simple_reply=None,
    )
    return TieredClient(**made)


class Judge:
    """Says what becomes of entries, by the file and by what the layers' boards say now."""

    def __init__(self, config: Config, shared: Sequence[tuple[Held, Layer]]) -> None:
        makers = {name: source.build(name, None) for name, source in config.used().items()}
        with _client(config, makers, MemoryLayer()) as client:  # nobody is called, so that no key is needed
            self._still_made = client.still_made
        self._notices = Notices()
        for _, layer in shared:
            try:
                self._notices.learn(layer.board())
            except StoreUnavailableError:
                pass  # told where the layer itself is asked

    def kind_of(self, slot: bytes, data: bytes) -> tuple[str, Entry | None]:
        """One of ``KINDS``, and the entry where there is one."""
        entry = Entry.decode(data)
        if entry is None:
            head = data[: len(MAGIC)]
            foreign = len(head) > VERSION and head[:VERSION] == MAGIC[:VERSION] and head != MAGIC
            return ("foreign" if foreign else "damaged"), None
        if blake2b_256(entry.canonical) != slot:
            return "damaged", None
        now = time.time()
        if now >= max(entry.fresh_until, entry.stale_until):
            return "over", entry
        if not self._notices.allow(entry, slot):
            return "invalid", entry
        if not self._still_made(entry):
            return "homeless", entry
        return ("fresh" if now < entry.fresh_until else "stale"), entry

    def told(self, layer: str, slot: bytes, data: bytes, *, with_text: bool) -> dict[str, Any]:
        kind, entry = self.kind_of(slot, data)
        told: dict[str, Any] = {"layer": layer, "state": kind, "bytes": len(data)}
        if entry is None:
            return told
        told |= {
            "tier": entry.tier,
            "deployment": entry.deployment,
            "model": entry.model,
            "tenant": entry.tenant,
            "made_at": _when(entry.made_at),
            "fresh_until": _when(entry.fresh_until),
            "stale_until": _when(max(entry.fresh_until, entry.stale_until)),
            "cost_usd": None if entry.cost_usd is None else f"{entry.cost_usd:f}",
            "tags": list(entry.tags),
            "depends_on": dict(entry.depends),
        }
        if with_text:
            told["text"] = entry.text
        return told


def counted(held: Held, layer: Layer, judge: Judge, counts: dict[str, int], *, delete: bool) -> None:
    """Add up the layer's entries by their kinds. Raises ``StoreUnavailableError``.

    What a layer finds damaged by itself it has moved aside already, and told of.
    """
    before = len(held.trouble)
    for slot, data in layer.scan():
        kind, _ = judge.kind_of(slot, data)
        counts[kind] += 1
        if delete and kind == "damaged":
            layer.delete(slot)
    counts["damaged"] += len(held.trouble) - before


def as_lines(told: Mapping[str, Any]) -> str:
    """For readers; what users named cannot command their terminal."""
    lines = [escaped(told["layer"]), f"  state      {told['state']}, {told['bytes']} bytes"]
    if "tier" in told:
        place = f"{told['tier']}/{told['deployment']}"
        lines += [
            f"  answer of  {escaped(place)}" + (f", model {escaped(told['model'])}" if told["model"] else ""),
            f"  made       {told['made_at']}",
            f"  fresh      until {told['fresh_until']}",
            f"  stale      until {told['stale_until']}",
        ]
        if told["cost_usd"] is not None:
            lines.append(f"  cost       ${told['cost_usd']}")
        if told["tenant"] is not None:
            lines.append(f"  tenant     {escaped(told['tenant'])}")
        if told["tags"]:
            lines.append(f"  tags       {', '.join(map(escaped, told['tags']))}")
        lines += [
            f"  rests on   {escaped(name)} ({escaped(digest[:12])}…)"
            for name, digest in told["depends_on"].items()
        ]
    if "text" in told:
        lines += ["", *map(escaped, told["text"].split("\n"))]
    return "\n".join(lines)


def _when(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):  # an entry is read as a stranger's
        return f"{at:g} s since 1970"
