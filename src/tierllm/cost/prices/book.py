"""Prices by model and vendor."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import ConfigError
from ...pipeline.fork import renew_after_fork
from ..price import Price
from .catalogue import AGAIN, Catalogue, ModelInfo

__all__ = ["ModelInfo", "PriceBook"]


class PriceBook:
    """A price list, and users' own prices before it. Immutable, and safe to share between threads.

    ``source`` says whose list it is and ``as_of`` which day's; ``len`` is the number of models.
    ``clock`` gives seconds since 1970: prices change on days that are told beforehand.
    """

    def __init__(
        self,
        prices: Mapping[str, Price] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A book of ``prices`` alone; for those with a list see ``bundled`` and ``load``."""
        self._read: Callable[[], Catalogue] | None = None
        self._own = _own(prices or {})
        self._clock = clock
        self._list: Catalogue | None = None
        self._reading = threading.Lock()
        renew_after_fork(self)

    def renew(self) -> None:
        """After a fork: a thread of the parent may have been reading."""
        self._reading = threading.Lock()

    @classmethod
    def bundled(cls, *, clock: Callable[[], float] = time.time) -> PriceBook:
        """The list that comes with the package. It is read when first asked."""
        book = cls(clock=clock)
        book._read = _bundled
        return book

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> PriceBook:
        """The list in a file, as ``tierllm prices refresh`` writes it.

        Raises ``ConfigError`` where there is none, or it cannot be understood.
        """
        try:
            raw = Path(path).read_bytes()
        except OSError as exc:
            raise ConfigError(f"{os.fspath(path)}: {exc.strerror or exc}; {AGAIN}") from exc
        book = cls(clock=clock)
        book._list = Catalogue(raw, os.fspath(path))
        book._list.check()
        return book

    def with_prices(self, prices: Mapping[str, Price]) -> PriceBook:
        """This book with ``prices`` before it: by the model's name, or ``"vendor/model"`` for one vendor."""
        book = PriceBook({**self._own, **_own(prices)}, clock=self._clock)
        book._read, book._list = self._read, self._list
        return book

    def find(self, model: str, vendor: str | None = None, at: float | None = None) -> ModelInfo | None:
        """What is known of ``model`` at ``vendor``, or at its own maker's; ``None`` where nothing is.

        ``at``: seconds since 1970 (now). Names are matched as the list says, in any case of letters:
        a name that only resembles one has no price. Raises ``ConfigError`` if the list is broken.
        """
        name = model.strip().lower()
        seller = vendor.strip().lower() if vendor else None
        moment = self._clock() if at is None else at
        listed = self._catalogue()
        info = listed.find(name, seller, moment) if listed else None
        if not self._own:
            return info
        own = self._priced(name, seller, info)
        if own is None:
            return info
        window = info.context_window if info else None
        return ModelInfo(
            model=info.model if info else model,
            vendor=info.vendor if info else vendor,
            price=own,
            context_window=window,
        )

    def now(self) -> float:
        """The moment that is asked about where none is given: seconds since 1970."""
        return self._clock()

    def left_out(self, model: str, vendor: str | None = None, at: float | None = None) -> str | None:
        """Why the list names ``model`` but has no price: ``"it asks by the page"``. Asked as ``find`` is."""
        listed = self._catalogue()
        if listed is None:
            return None
        moment = self._clock() if at is None else at
        return listed.left_out(model.strip().lower(), vendor.strip().lower() if vendor else None, moment)

    def names(self) -> list[str]:
        """Every model, as ``vendor/model``, sorted; users' own prices under the names they were given."""
        listed = self._catalogue()
        return sorted({*(listed.names() if listed else ()), *self._own})

    @property
    def source(self) -> str | None:
        """Whose list it is: ``"genai-prices 0.2.3"``. ``None`` for users' prices alone."""
        listed = self._catalogue()
        return listed.source if listed else None

    @property
    def as_of(self) -> str | None:
        """The day of the list: ``"2026-11-09"``."""
        listed = self._catalogue()
        return listed.as_of if listed else None

    def __len__(self) -> int:
        listed = self._catalogue()
        return (len(listed) if listed else 0) + len(self._own)

    def __bool__(self) -> bool:
        return True  # also without reading the list

    def __repr__(self) -> str:
        whose = self._list.source if self._list else "not read yet" if self._read else "own prices"
        return f"PriceBook({whose}, {len(self._own)} own)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a PriceBook is not pickled: load it where it is needed")

    def _catalogue(self) -> Catalogue | None:
        if self._list is None and self._read is not None:
            with self._reading:
                if self._list is None:
                    self._list = self._read()
        return self._list

    def _priced(self, name: str, seller: str | None, info: ModelInfo | None) -> Price | None:
        names = [name]
        if info is not None:
            names.append(info.model.lower())
        vendors = [v for v in (seller, info.vendor if info else None) if v]
        for key in (*(f"{each}/{known}" for known in names for each in vendors), *names):
            if key in self._own:
                return self._own[key]
        return None


@functools.cache  # read once for all books of a process, and never changed
def _bundled() -> Catalogue:
    return Catalogue(Path(__file__).with_name("prices.json").read_bytes(), "the bundled prices")


def _own(prices: Mapping[str, Price]) -> dict[str, Price]:
    for name, price in prices.items():
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"prices={{{name!r}: …}}: give the name of a model")
        if not isinstance(price, Price):
            raise ConfigError(f"prices={{{name!r}: …}}: give a Price")
    return {name.strip().lower(): price for name, price in prices.items()}
