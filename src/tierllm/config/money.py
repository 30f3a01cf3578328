"""The tables about money: ``[[budgets]]``, ``[store]``, ``[ledger]`` and ``[prices]``.

Reading them opens nothing: stores, ledgers and price lists are built with the client.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic_core import InitErrorDetails

from ..cost.budget import Budget
from ..cost.ledger import UsageLedger
from ..cost.prices import PriceBook
from ..errors import ConfigError
from .addresses import Addressed, Namespace, Patience, Pause
from .sections import PriceTable
from .table import Count, Money, Name, PathName, Rule, Seconds, Table, named

if TYPE_CHECKING:
    from ..stores import Store

__all__ = [
    "STORES",
    "BudgetTable",
    "DiskTable",
    "LedgerTable",
    "MemoryTable",
    "PricesTable",
    "RedisTable",
    "StoreTable",
    "placed",
    "twins",
]

STORES = ("memory", "disk", "redis")
Lease = Annotated[float, Field(gt=0, le=86_400)]


class BudgetTable(Rule):
    hard_usd: Money | None = None
    soft_usd: Money | None = None
    hard_tokens: int | None = None
    soft_tokens: int | None = None
    hard_calls: int | None = None
    soft_calls: int | None = None
    per: str | list[str] = "client"
    window: str = "total"
    tz: str = "UTC"
    where: dict[str, str | list[str]] = Field(default_factory=dict)
    on_exceed: str | list[str] | None = None
    on_soft: Literal["warn", "downgrade"] = "warn"
    fail: Literal["closed", "open"] = "closed"
    scope: Literal["shared", "process"] = "shared"
    mode: Literal["enforce", "observe"] = "enforce"
    name: Name | None = None

    def build(self) -> Budget:
        budget = Budget(**self.given())
        for limit in budget.limits:
            for kind, amount in (("hard", limit.hard), ("soft", limit.soft)):
                written = getattr(self, f"{kind}_{limit.unit}")
                if amount == 0 and written is not None and Decimal(str(written)) > 0:
                    raise ConfigError(
                        f"Budget({kind}_{limit.unit}={written!r}): give a nano-dollar at least, or 0"
                    )
        return budget


class Kept(Table):
    """A store's table."""

    shared: ClassVar[bool] = True
    """Whether other processes see what is in it, and the next start of this one."""

    @property
    def variables(self) -> list[str]:
        """The environment variables it needs."""
        return []

    @abstractmethod
    def build(self, base: Path, environ: Mapping[str, str]) -> Store | None:
        """``base`` is what a relative path is relative to; ``None`` is the client's own store.

        Raises ``ConfigError``.
        """

    def keywords(self, *leaving: str) -> dict[str, Any]:
        return {name: value for name, value in self.given().items() if name not in ("kind", *leaving)}


class MemoryTable(Kept):
    shared = False
    kind: Literal["memory"]

    def build(self, base: Path, environ: Mapping[str, str]) -> Store | None:
        return None  # the client makes one that goes by its clock


class DiskTable(Kept):
    kind: Literal["disk"]
    directory: PathName
    lease_s: Lease = 60.0
    timeout_s: Patience = 2.0

    def build(self, base: Path, environ: Mapping[str, str]) -> Store:
        from ..stores import DiskStore

        return DiskStore(placed(base, self.directory), **self.keywords("directory"))


class RedisTable(Addressed, Kept):
    kind: Literal["redis"]
    namespace: Namespace = "tierllm"
    lease_s: Lease = 60.0
    timeout_s: Patience = 0.05
    retry_s: Pause = 1.0

    def build(self, base: Path, environ: Mapping[str, str]) -> Store:
        from ..stores import RedisStore

        return RedisStore(self.address(environ), **self.keywords("url", "url_env"))


StoreTable = Annotated[MemoryTable | DiskTable | RedisTable, Field(discriminator="kind")]


class LedgerTable(Table):
    path: PathName | None = None
    retention_days: Seconds | None = None
    max_rows: Count = 100_000
    max_waiting: Count = 100_000

    def build(self, base: Path, clock: Callable[[], float] = time.time) -> UsageLedger:
        """``clock`` tells the time that rows will have. Makes the directory where there is none."""
        settings = {name: value for name, value in self.given().items() if name != "path"}
        if self.path is None:
            return UsageLedger(clock=clock, **settings)
        path = placed(base, self.path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the directory {str(path.parent)!r} cannot be made: {error.strerror}"
            ) from error
        return UsageLedger(path, clock=clock, **settings)


class PricesTable(Table):
    """A list that ``tierllm prices refresh`` wrote, and prices of one's own before it."""

    file: PathName | None = None
    models: dict[Name, PriceTable] = Field(default_factory=dict)

    def build(self, base: Path) -> PriceBook:
        book = PriceBook.bundled() if self.file is None else PriceBook.load(placed(base, self.file))
        return book.with_prices({name: price.build() for name, price in self.models.items()})


def placed(base: Path, path: str) -> Path:
    """``path`` as it is meant in a file in ``base``."""
    return base / Path(path).expanduser()


def twins(budgets: Sequence[BudgetTable]) -> Iterator[InitErrorDetails]:
    """Budgets that could not be told apart: each has accounts under its name."""
    seen: set[str] = set()
    for b, budget in enumerate(budgets):
        name = budget.build().name
        if name in seen:
            problem, remedy = "another budget is called so", "give it a name of its own"
            yield named(("budgets", b, "name"), f"{problem} ({name!r})", remedy)
        seen.add(name)
