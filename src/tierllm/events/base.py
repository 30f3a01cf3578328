"""What all events have in common, and who listens to them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from traceback import format_exception
from typing import Protocol

__all__ = ["Event", "Listener", "emitter", "log", "log_failure"]

log = logging.getLogger("tierllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""


class Listener(Protocol):
    """Anything that takes an event."""

    def __call__(self, event: Event, /) -> object: ...


def log_failure(what: str) -> None:
    """Log the exception being handled, of the application's own code, with its traceback.

    Without the exceptions before it: those may be a vendor's, whose words may quote the prompt.
    """
    kind, error, traceback = sys.exc_info()
    log.error("%s\n%s", what, "".join(format_exception(kind, error, traceback, chain=False)))


def emitter(listeners: Iterable[Listener]) -> Callable[[Event], None]:
    """One callable that tells all ``listeners``, whatever they raise."""
    audience = tuple(listeners)

    def emit(event: Event) -> None:
        for listener in audience:
            try:
                listener(event)
            except Exception:
                log_failure(f"a listener failed on {type(event).__name__}")

    return emit
