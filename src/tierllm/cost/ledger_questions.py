"""What can be asked of a ledger: rows, sums, statements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ledger_entry import Entry
    from .ledger_file import LedgerFile
    from .ledger_memory import LedgerMemory
    from .ledger_statement import Statement
    from .ledger_summary import UsageLine, Wanted

__all__ = ["Questions"]


class Questions:
    """The part of a ledger that answers. ``_ready`` writes what waits, as far as that is possible."""

    _rows: LedgerFile | LedgerMemory

    def _ready(self) -> None:
        raise NotImplementedError

    def entries(
        self,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> Iterator[Entry]:
        """The rows with ``since`` ≤ time < ``until``, oldest first, after a flush. Where that could not
        write, what waits is not among them (``waiting``).

        ``where``: ``user``, ``tenant``, ``plan``, ``contract``, ``tag``, ``tier``, ``deployment``, ``model``,
        ``route``, ``run``, ``trace_id``, ``request_id``, ``outcome`` or ``budget``, equal to what is given
        (``None``: not set). Raises ``ConfigError`` for others, ``StoreUnavailableError`` where nothing can be
        read.
        """
        wanted = self._wanted(since, until, where)
        return self._rows.entries(wanted)

    def usage(
        self,
        by: Sequence[str] = ("user",),
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        *,
        tz: tzinfo | None = None,
        **where: str | None,
    ) -> list[UsageLine]:
        """Sums for each group, dearest first (where ``by`` holds a time: in its order first).

        ``by``: names as in ``entries``, and ``hour``, ``day`` and ``month`` in ``tz`` (UTC). A call with
        several tags counts in the group of each, or of the one tag that is asked for. Raises as
        ``entries`` does.
        """
        return self._lines((by,), self._wanted(since, until, where), tz)[0]

    def total(
        self,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> UsageLine:
        """The sum over all rows wanted, each counted once. Raises as ``entries`` does."""
        return self._lines(((),), self._wanted(since, until, where))[0][0]

    def report(
        self,
        by: Sequence[str] = ("user",),
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        *,
        tz: tzinfo | None = None,
        **where: str | None,
    ) -> tuple[list[UsageLine], UsageLine]:
        """``usage`` and ``total`` of one moment, so that they add up while others write."""
        lines, (total,) = self._lines((by, ()), self._wanted(since, until, where), tz)
        return lines, total

    def estimate_error(
        self,
        by: Sequence[str] = ("model",),
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> list[UsageLine]:
        """Groups whose estimates can be held against reported costs, worst first.

        See ``mean_error_usd``, ``mean_abs_error_usd`` and ``error_share`` of each line.
        """
        (lines,) = self._lines((by,), self._wanted(since, until, where))
        return sorted(
            (line for line in lines if line.compared), key=lambda line: -abs(line.error_share or 0.0)
        )

    def statement(
        self,
        *,
        tenant: str | None = None,
        tag: str | None = None,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        by: Sequence[str] = ("tier", "model", "user"),
        currency: str = "USD",
        rate: Decimal | int | str = 1,
        tz: tzinfo | None = None,
    ) -> Statement:
        """What ``tenant`` or ``tag`` used, to be handed on. ``rate``: ``currency`` for a dollar."""
        from .ledger_statement import stated

        return stated(
            self, tenant=tenant, tag=tag, since=since, until=until, by=by, currency=currency, rate=rate, tz=tz
        )

    def _lines(
        self, bys: Sequence[Sequence[str]], wanted: Wanted, tz: tzinfo | None = None
    ) -> list[list[UsageLine]]:
        from .ledger_summary import grouped

        return grouped(self._rows, bys, wanted, tz)

    def _wanted(
        self, since: float | datetime | None, until: float | datetime | None, where: dict[str, str | None]
    ) -> Wanted:
        from .ledger_summary import wanted

        made = wanted(since, until, where)
        self._ready()
        return made
