"""``tierllm emergency``: declare one, end it, or see which are declared."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..admission.emergency import Emergencies
    from ..config import Config
    from ..stores import Store
    from .arguments import Commands

__all__ = ["add"]

HERE = "tierllm.toml"
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "emergency",
        help="declare an emergency for all processes, or end it",
        description="Declares an emergency, which forces steps of degradation on in all processes that share "
        "the file's store, until its time is over. The tiers of the file say which steps those are: "
        "[tiers.sampling.emergencies].",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="as the file has it")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--until",
        type=_moment,
        metavar="WHEN",
        help="30m, 2h, up to 7d, or a time such as 2026-11-20T18:00; default: an hour from now",
    )
    what.add_argument("--end", action="store_true", help="it is over now")
    what.add_argument("--list", action="store_true", help="say which are declared")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--config", metavar="FILE", default=HERE, help=f"default: {HERE}")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..config import Config

    name = arguments.name
    if (name is None) != arguments.list:
        raise ConfigError("give the NAME of an emergency, or --list")
    config = Config.load(arguments.config)
    if not (arguments.list or arguments.end):
        _check_known(name, arguments.config, config)
    with _opened(arguments.config, config) as known:
        if arguments.list:
            return _tell(known.listing(fresh=True), arguments.json)
        if arguments.end:
            was_on = known.end(name)
            if not was_on:
                _check_name(name, arguments.config, {*_names(config), *known.listing(fresh=True)})
            print(_as_json(name, None) if arguments.json else _ended(name, was_on))
            return 0
        ends = known.declare(name, _resolved(arguments.until))
        print(_as_json(name, ends) if arguments.json else f"{_shown(name)} is declared until {_time(ends)}")
    return 0


def _check_known(name: str, file: str, config: Config) -> None:
    """Raise ``ConfigError`` for an emergency that no tier of the file answers to."""
    known = _names(config)
    if not known:
        raise ConfigError(f"{file}: no tier answers to emergencies: add [tiers.sampling.emergencies]")
    _check_name(name, file, known)


def _check_name(name: str, file: str, known: Set[str]) -> None:
    from ..config.finding import did_you_mean

    if name not in known:
        like = f": {did_you_mean(name, sorted(known))}" if known else ""
        raise ConfigError(f"{file}: there is no emergency {name!r}{like}")


def _names(config: Config) -> set[str]:
    return {each for tier in config.tiers if tier.sampling for each in tier.sampling.emergencies}


@contextmanager
def _opened(file: str, config: Config) -> Iterator[Emergencies]:
    """What the file's store knows. Raises ``ConfigError`` where processes share none."""
    from ..admission.emergency import Emergencies
    from ..config.addresses import without_address
    from ..config.finding import told

    table = config.store
    if table is None or not table.shared:
        raise ConfigError(
            f'{file}: an emergency reaches other processes by a shared store: add [store] with kind = "disk" '
            'or "redis"'
        )
    missing = list(without_address(config, ("cache",)))
    if missing:
        raise ConfigError(told(file, missing))
    store: Store | None = table.build(config.base, os.environ)
    assert store is not None  # only memory is made by the client
    try:
        yield Emergencies(store)
    finally:
        store.close()


# -- times ----------------------------------------------------------------------------


def _moment(text: str) -> timedelta | datetime:
    ahead = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if ahead is not None:
        return timedelta(**{UNITS[ahead[2]]: int(ahead[1])})
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give 30m, 2h, 1d, or a time such as 2026-11-20T18:00"
        ) from error


def _resolved(until: timedelta | datetime | None) -> float | datetime | None:
    """Raises ``ConfigError`` for a span that is longer than emergencies are without saying until when."""
    from ..admission.emergency import LONGEST_FOR_S

    if not isinstance(until, timedelta):
        return until
    ends = time.time() + until.total_seconds()
    if until.total_seconds() > LONGEST_FOR_S:
        such_as = "2026-11-20T18:00" if until.days > 366 else _time(ends).replace(" ", "T")
        raise ConfigError(
            f"--until {until.total_seconds() / 86_400:g}d: {LONGEST_FOR_S / 86_400:g}d at most; for an "
            f"emergency that lasts longer, within a year, give the time of its end, such as {such_as}"
        )
    return ends


def _time(ends: float) -> str:
    """As the clock on the wall has it here, to the second."""
    return datetime.fromtimestamp(ends, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


# -- what is told ----------------------------------------------------------------------


def _tell(declared: Mapping[str, float], as_json: bool) -> int:
    if as_json:
        print(json.dumps({"emergencies": dict(declared)}, indent=2))
    elif not declared:
        print("none is declared")
    else:
        for name, ends in declared.items():
            print(f"{_shown(name)} until {_time(ends)}")
    return 0


def _ended(name: str, was_on: bool) -> str:
    return f"{_shown(name)} is over" if was_on else f"{_shown(name)} was not declared"


def _as_json(name: str, until: float | None) -> str:
    return json.dumps({"name": name, "until": until})


def _shown(name: str) -> str:
    from ..cost.ledger_statement import escaped

    return escaped(name)
