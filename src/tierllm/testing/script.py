"""The queues in which scripted replies and failures wait for their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, cycle
from itertools import repeat as again

from ..errors import ConfigError
from ..types import Call
from .replies import Fail, Item, Reply

__all__ = ["Script", "ScriptExhausted", "Scripts"]


class ScriptExhausted(AssertionError):
    """A call came for which a strict provider or script has nothing left.

    Not a provider's error: no policy catches, retries or falls back from it.
    """


class Script:
    """Items for the calls to one model, those that ``when`` accepts, one after the other."""

    __slots__ = ("_items", "left", "strict", "when")

    def __init__(
        self,
        items: Sequence[Item],
        *,
        repeat: int = 1,
        forever: bool = False,
        strict: bool = False,
        when: Callable[[Call], bool] | None = None,
    ) -> None:
        if not items:
            raise ConfigError("script(): give at least one item, such as Reply('hi') or Fail.unavailable()")
        for item in items:
            if not isinstance(item, Reply | Fail | str):
                raise ConfigError(f"script(): {item!r} is neither a Reply, nor a Fail, nor a str")
        if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
            raise ConfigError(f"script(repeat={repeat!r}): give 1 or more, or forever=True")
        self.left = 1 if forever else len(items) * repeat  # one item shows that it was met at all
        self._items: Iterator[Item] = cycle(items) if forever else chain.from_iterable(again(items, repeat))
        self.strict = strict
        self.when = when

    def accepts(self, call: Call) -> bool:
        return self.when is None or self.when(call)

    def take(self) -> Item | None:
        """The next item; ``None`` when there is none left."""
        self.left -= self.left > 0
        return next(self._items, None)


class Scripts:
    """All scripts and outages of a provider. Not thread-safe: its owner locks."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._outages: dict[str, Fail | None] = {}  # None: up again while all others are down
        self._queues: dict[str, list[Script]] = {}
        self._ended: dict[str, Script] = {}
        self.idle = not strict

    def add(self, model: str, script: Script) -> None:
        self._queues.setdefault(model, []).append(script)
        self.idle = False

    def down(self, model: str, fail: Fail) -> None:
        if model == "*":
            self._outages = {name: own for name, own in self._outages.items() if own is not None}
        self._outages[model] = fail
        self.idle = False

    def up(self, model: str) -> None:
        if model == "*":
            self._outages.clear()
        elif "*" in self._outages:
            self._outages[model] = None
        else:
            self._outages.pop(model, None)

    def left(self) -> list[str]:
        """What no call has met yet, a line for each script."""
        return [
            f"{script.left} {'items' if script.left > 1 else 'item'} for {model!r}"
            for model, queue in self._queues.items()
            for script in queue
            if script.left
        ]

    def clear(self) -> None:
        self._outages.clear()
        self._queues.clear()
        self._ended.clear()
        self.idle = not self.strict

    def take(self, call: Call) -> Item | None:
        """What this call meets: an outage, the next item of its first script, or nothing special."""
        if self.idle:
            return None
        names = (call.model, "*")
        outage = self._outages.get(call.model, self._outages.get("*"))
        if outage is not None:
            return outage
        for name in names:
            item = self._next(name, call)
            if item is not None:
                return item
        for name in names:
            ended = self._ended.get(name)
            if ended is not None and ended.accepts(call):
                return _exhausted(call.model) if ended.strict else None
        return _exhausted(call.model) if self.strict else None

    def _next(self, name: str, call: Call) -> Item | None:
        queue = self._queues.get(name, ())
        for script in tuple(queue):
            if script.accepts(call):
                item = script.take()
                if item is not None:
                    return item
                self._queues[name].remove(script)
                self._ended[name] = script
        return None


def _exhausted(model: str) -> Fail:
    text = f"the script for {model!r} has nothing left: script more items, or leave strict out"
    return Fail.error(ScriptExhausted(text))
