"""The layers of a file's cache that can be looked at from outside the processes that use it."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ..cost.ledger_statement import escaped
from ..errors import ConfigError
from ..events import StoreTrouble, log

if TYPE_CHECKING:
    from ..caching.layer import Layer
    from ..config import Config
    from ..config.cache import CacheTable, LayerTable
    from ..events import Event

__all__ = ["Held", "Opened", "opened"]

PATIENCE_S = 5.0
"""Nobody's call waits here: a busy layer is given more time than the file says."""

NOWHERE = "there is nothing to look at from here: memory belongs to each process, where it is client.cache"


class Held:
    """One layer of the file. ``layer`` is ``None`` for memory, and for a directory that is not there yet.

    ``trouble`` is what the layer told of while it was used.
    """

    def __init__(self, name: str, table: LayerTable, layer: Layer | None) -> None:
        self.name = name
        self.table = table
        self.layer = layer
        self.trouble: list[str] = []
        if layer is not None:
            layer.emit = self._hear

    @property
    def state(self) -> str:
        """Why there is no layer."""
        return "not there yet" if self.table.shared else "in each process"

    def note(self, trouble: object) -> None:
        """To be told on stderr in the end, once."""
        text = str(trouble)
        if not any(text.startswith(known) for known in self.trouble):
            self.trouble.append(text)

    def _hear(self, event: Event) -> None:
        if isinstance(event, StoreTrouble) and not event.ok:
            self.trouble.append(event.text)


class Opened(NamedTuple):
    """A file with a cache, and its layers from the first down."""

    config: Config
    cache: CacheTable
    held: tuple[Held, ...]

    def shared(self) -> list[tuple[Held, Layer]]:
        """Those that can be looked at. Raises ``ConfigError`` where there can be none."""
        if not any(held.table.shared for held in self.held):
            raise ConfigError(NOWHERE)
        return [(held, held.layer) for held in self.held if held.layer is not None]


@contextmanager
def opened(file: str, *, read_only: bool = False) -> Iterator[Opened]:
    """The cache that ``file`` describes. Directories that are not there are not made.

    ``read_only``: nor is anything in them.

    What layers told of is told on stderr in the end.

    Raises ``ConfigError`` for a file that cannot be read or has no cache, and for addresses not set.
    """
    from ..config import Config
    from ..config.addresses import without_address
    from ..config.finding import told

    config = Config.load(file)
    if config.cache is None:
        raise ConfigError(f"{file}: there is no [cache] in it")
    missing = list(without_address(config, ("store",)))
    if missing:
        raise ConfigError(told(file, missing))
    held: list[Held] = []
    quiet = logging.NullHandler()
    log.addHandler(quiet)  # or logging would tell it, too, where nobody has set it up
    try:
        for table in config.cache.layers:
            held.append(_held(config, table, read_only))  # noqa: PERF401 - those made so far are closed if one fails
        yield Opened(config, config.cache, tuple(held))
    finally:
        log.removeHandler(quiet)
        for each in held:
            if each.layer is not None:
                each.layer.close()
            for text in dict.fromkeys(each.trouble):
                print(f"tierllm cache: {escaped(text)}", file=sys.stderr)


def _held(config: Config, table: LayerTable, read_only: bool) -> Held:
    from ..config.cache import DiskLayerTable

    name, base, more = table.kind, config.base, {}
    if isinstance(table, DiskLayerTable):
        database = table.database(base)
        name = f"disk {database.parents[1]}"
        if not (database if read_only else database.parent).exists():
            return Held(name, table, None)
        more = {"read_only": read_only}
    if not table.shared:
        return Held(name, table, None)
    return Held(
        name,
        table,
        table.build(base, os.environ, clock=time.monotonic, wall=time.time, timeout_s=PATIENCE_S, **more),
    )
