"""Test doubles: a scripted provider, a clock that moves when told to, and what they recorded.

    fake = FakeProvider()
    fake.script("gpt-5.2", Fail.rate_limited(retry_after_s=2), Reply("hi"))
    ...
    fake.journal.assert_retry_after_honoured()

The names load when first used: this package is imported by every pytest run (its fixtures
``fake_provider`` and ``fake_clock`` are a pytest plugin), and must cost such a run nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .clock import FakeClock
    from .fake import FakeProvider
    from .journal import Journal, JournalEntry
    from .latency import Latency
    from .replies import Fail, Reply
    from .script import ScriptExhausted

__all__ = [
    "Fail",
    "FakeClock",
    "FakeProvider",
    "Journal",
    "JournalEntry",
    "Latency",
    "Reply",
    "ScriptExhausted",
]

_HOMES = {
    "Fail": "replies",
    "FakeClock": "clock",
    "FakeProvider": "fake",
    "Journal": "journal",
    "JournalEntry": "journal",
    "Latency": "latency",
    "Reply": "replies",
    "ScriptExhausted": "script",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
