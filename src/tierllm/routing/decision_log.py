"""The decision log: for each call, what was asked, decided, tried and answered, as a line of JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..events import Event
from . import lenient
from .decision_file import DecisionFile
from .decision_ids import KnownCalls
from .decision_line import VERSION, Prompts, Who, encoded, line_of
from .decision_rows import find_decision
from .decision_writer import DecisionWriter
from .scorers import check_outcome

if TYPE_CHECKING:
    from ..types import Request, Response, Trace
    from .course import Course
    from .decision_rows import DecisionRow

__all__ = ["DecisionLog"]


class DecisionLog:
    """A line of JSON for each call, in the file at ``path``; for training, reports and explanations.

    Of a prompt it keeps nothing unless ``prompts`` says so: ``"hashed"`` the numbers of the buckets that the
    scorer sorts its words into, ``"text"`` 4,000 characters of its last message. Numbers of buckets are no
    secret: whoever tries words finds out which of them the prompt may have had. ``who`` says how users,
    tenants and sessions are named: ``"full"`` (sessions by a pseudonym all the same), ``"hashed"`` (by
    pseudonyms, which whoever tries names can find again, unless there is a secret ``salt``), or ``"none"``.

    A file that would grow beyond ``max_bytes`` becomes ``path.1``, that one ``path.2``, and so on up to
    ``keep``. Threads, and any number of processes, may write one log. A call never waits for the log and
    never fails by it: lines wait in memory for a flush, at most ``max_waiting`` of them, while the file
    cannot be written; those that come while so many wait are lost, and so are those that are no plain data,
    or longer than 256 KiB. After trouble it is tried again with the next call, a second later at the soonest,
    and by ``close``. The file is at most a twentieth of a second behind.
    Trouble is told as ``StoreTrouble`` (in the program's log where nobody listens), once a minute at most,
    and so is its end. What a flush has written survives ``kill -9``, but maybe not a power cut.

    ``clock`` tells the seconds since 1970. A file that is made belongs to its owner alone (mode 0600).
    Raises ``ConfigError`` where there can be no such file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 100_000_000,
        keep: int = 5,
        prompts: Prompts = "none",
        who: Who = "full",
        salt: bytes = b"",
        max_waiting: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_whole(max_bytes=max_bytes, keep=keep, max_waiting=max_waiting)
        for name, value, known in (
            ("prompts", prompts, ("none", "hashed", "text")),
            ("who", who, ("full", "hashed", "none")),
        ):
            if value not in known:
                raise ConfigError(f"DecisionLog({name}={value!r}): one of {', '.join(known)}")
        if not isinstance(salt, bytes):
            raise ConfigError(f"DecisionLog(salt=<{type(salt).__name__}>): give bytes")
        self._writer = DecisionWriter(
            DecisionFile(path, max_bytes=max_bytes, keep=keep), max_waiting=max_waiting, clock=clock
        )
        self.path = self._writer.file.path
        self.prompts: Prompts = prompts
        self.who: Who = who
        self._salt = salt
        self._known = KnownCalls(clock)
        self._buckets: Callable[[str], Sequence[int]] | None = None

    def bind(
        self,
        *,
        emit: Callable[[Event], None] | None = None,
        soon: Callable[[Callable[[], object]], None] | None = None,
        buckets: Callable[[str], Sequence[int]] | None = None,
    ) -> None:
        """For a client: who hears of trouble, who runs a flush off the call's path, what words become.

        Without ``soon``, each line is written at once, by whoever notes it. ``buckets`` gives a prompt's
        numbers (``prompts="hashed"``) where no choice was made that has them. Of several clients with one
        log, the last one counts.
        """
        self._writer.emit = emit or self._writer.emit
        self._writer.soon = soon or self._writer.soon
        self._buckets = buckets or self._buckets

    # -- writing ---------------------------------------------------------------

    def note(
        self, trace: Trace, request: Request, course: Course | None = None, response: Response | None = None
    ) -> None:
        """Write down a call that has ended. Never raises; waits for nothing where ``soon`` is bound."""
        self._known.note(trace.id)
        self._writer.post(partial(self._line, trace, request, course, response))

    def _line(
        self, trace: Trace, request: Request, course: Course | None, response: Response | None
    ) -> bytes:
        return encoded(
            line_of(
                trace,
                request,
                course,
                response,
                prompts=self.prompts,
                who=self.who,
                salt=self._salt,
                buckets=self._buckets,
            )
        )

    def feedback(self, trace_id: str, score: float, source: str = "explicit") -> None:
        """Write down how good a call's answer was: ``score`` from 0 (useless) to 1 (as good as can be).

        ``source`` says who says so: ``"explicit"`` is a person. Of calls that were not noted here lately,
        only so much is written as cannot drive real calls out of the files, and nothing of ids longer than
        200 characters; ``status()`` counts the rest as ``refused``. Raises ``ConfigError`` for what is no
        score.
        """
        said: dict[str, object] = {"score": check_outcome("score", score), "source": source}
        self._say("feedback", trace_id, said)

    def compared(
        self,
        trace_id: str,
        *,
        weak: float,
        strong: float,
        weak_usd: float | None = None,
        strong_usd: float | None = None,
        source: str = "shadow",
    ) -> None:
        """Write down how good the answers of both models were to the prompt of that call, and their cost.

        Raises ``ConfigError`` for what is no score.
        """
        said: dict[str, object] = {
            "weak": check_outcome("weak", weak),
            "strong": check_outcome("strong", strong),
            "source": source,
        }
        for name, usd in (("weak_usd", weak_usd), ("strong_usd", strong_usd)):
            if (paid := lenient.usd(usd)) is not None:
                said[name] = paid
        self._say("compared", trace_id, said)

    def flush(self) -> bool:
        """Write what waits. False where it has to wait for better times; it is then kept, in order.

        May be called from any thread.
        """
        return self._writer.flush()

    def _say(self, kind: str, trace_id: str, said: Mapping[str, object]) -> None:
        if not self._known.admits(trace_id):
            return
        at = round(self._writer.clock(), 3)
        self._writer.post(encoded({"v": VERSION, "kind": kind, "id": trace_id, **said, "at": at}))

    # -- reading ---------------------------------------------------------------

    def find(self, trace_id: str) -> DecisionRow | None:
        """The row of that call, from the files; ``None``: there is none. Goes through all of them."""
        self.flush()
        return find_decision(self.path, trace_id)

    def status(self) -> dict[str, Any]:
        """How it goes, as plain data. ``trouble`` says why nothing can be written, if so."""
        writer = self._writer
        return {
            "path": self.path,
            "prompts": self.prompts,
            "who": self.who,
            "written": writer.written,
            "waiting": writer.waiting,
            "lost": writer.lost,
            "unfit": writer.unfit,
            "refused": self._known.refused,
            "trouble": writer.trouble or None,
        }

    def close(self) -> None:
        """Flush, with more patience than usual. Safe to call twice; what comes later is still written."""
        self._writer.close()

    def __repr__(self) -> str:
        return f"DecisionLog({self.path!r}, prompts={self.prompts!r}, who={self.who!r})"


def _check_whole(**numbers: int) -> None:
    for name, value in numbers.items():
        least = 0 if name == "keep" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"DecisionLog({name}={value!r}): give a whole number of at least {least}")
