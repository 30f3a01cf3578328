"""The commands of ``tierllm cache``, each of which gives the exit code."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..cost.ledger_statement import as_table, escaped
from ..errors import ConfigError, StoreUnavailableError, TierLLMError
from .cache_entries import KINDS, Judge, as_lines, counted, slot_of
from .cache_layers import Opened, opened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..caching.layer import Layer
    from .cache_layers import Held

__all__ = ["clear", "get", "invalidate", "stats", "verify"]

NUMBERS = ("entries", "bytes", "at most")


# -- stats ----------------------------------------------------------------------------


def stats(arguments: argparse.Namespace) -> int:
    with opened(arguments.config, read_only=True) as cache:
        layers = [_layer_told(held) for held in cache.held]
        saved = _saved(cache)
    if arguments.json:
        print(json.dumps({"layers": layers, "ledger": saved}, indent=2))
    else:
        rows = [
            [
                layer["layer"],
                layer["state"],
                *("-" if layer[n] is None else str(layer[n]) for n in ("entries", "bytes", "max_bytes")),
            ]
            for layer in layers
        ]
        print(as_table([["layer", "state", *NUMBERS], *rows], numbers=len(NUMBERS)))
        if saved is not None:
            print(
                f"\nby the ledger: {saved['hits']} answers from the cache, which saved "
                f"${saved['saved_usd']}; {saved['provider_calls']} calls to providers"
            )
    return 1 if any(layer["state"] == "out of reach" for layer in layers) else 0


def _layer_told(held: Held) -> dict[str, Any]:
    told: dict[str, Any] = {
        "layer": held.name,
        "state": held.state if held.layer is None else "ok",
        "entries": None,
        "bytes": None,
        "max_bytes": held.table.max_bytes,
    }
    if held.layer is not None:
        try:
            found = held.layer.stats()
            told |= {"entries": found.entries, "bytes": found.bytes}
        except StoreUnavailableError as error:
            held.note(error)
            told["state"] = "out of reach"
    return told


def _saved(cache: Opened) -> dict[str, Any] | None:
    """From the ledger's rows, where the file has one that can be read; of one that cannot, it is told why."""
    from ..config.money import placed
    from ..cost.ledger import UsageLedger

    table = cache.config.ledger
    if not table or table.path is None:
        return None
    path = placed(cache.config.base, table.path)
    if not path.is_file():
        return None
    try:
        with closing(UsageLedger(path, read_only=True)) as ledger:
            lines, total = ledger.report(("outcome",))
    except TierLLMError as error:
        print(f"tierllm cache: {escaped(str(error))}", file=sys.stderr)
        return None
    saved = next((f"{line.saved_usd:f}" for line in lines if line.group["outcome"] == "cached"), "0")
    return {"hits": total.cached, "provider_calls": total.calls - total.cached, "saved_usd": saved}


# -- get ------------------------------------------------------------------------------


def get(arguments: argparse.Namespace) -> int:
    with opened(arguments.config, read_only=True) as cache:
        shared = cache.shared()
        slot = slot_of(cache.config, _prompt(arguments), _options(arguments))
        judge = Judge(cache.config, shared)
        found, missed = [], False
        for held, layer in shared:
            try:
                data = layer.get(slot)
            except StoreUnavailableError as error:
                held.note(error)
                missed = True
                continue
            if data is not None:
                found.append(judge.told(held.name, slot, data, with_text=arguments.text))
    if arguments.json:
        print(json.dumps({"entries": found}, indent=2))
    else:
        nothing = (
            "nothing is kept for this where it could be looked for" if missed else "nothing is kept for this"
        )
        print("\n\n".join(as_lines(entry) for entry in found) or nothing)
    return 0 if any(entry["state"] != "damaged" for entry in found) else 1


def _prompt(arguments: argparse.Namespace) -> Any:
    prompt = arguments.prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace") if sys.stdin else ""
    if arguments.system is None:
        return prompt
    return [{"role": "system", "content": arguments.system}, {"role": "user", "content": prompt}]


def _options(arguments: argparse.Namespace) -> Mapping[str, Any]:
    names = ("sla", "tenant", "user", "session", "max_tokens", "temperature")
    options = {name: getattr(arguments, name) for name in names}
    return {**options, "require": arguments.require, "depends_on": dict(arguments.depends_on)}


# -- what is to be forgotten -------------------------------------------------------------


def invalidate(arguments: argparse.Namespace) -> int:
    named = [
        {kind: name, "tenant": arguments.tenant}
        for kind in ("document", "tag", "prefix")
        for name in getattr(arguments, kind)
    ]
    if arguments.everything:
        if named or arguments.tenant is not None:
            raise ConfigError("--everything goes by itself: leave the other names out")
        named = [{"everything": True}]
    elif not named and arguments.tenant is not None:
        named = [{"tenant": arguments.tenant}]
    if not named:
        raise ConfigError("say what: --document, --tag, --prefix, --tenant or --everything")
    with opened(arguments.config) as cache:
        shared = cache.shared()
        if not shared:
            print("nothing is kept there yet")
            return 0
        told = [_told(held, layer, cache, named) for held, layer in shared]
    reached = [held.name for (held, _), done in zip(shared, told, strict=True) if done]
    if reached:
        print(f"told {', '.join(map(escaped, reached))}, and so the processes that share it")
    return 0 if all(told) else 1


def _told(held: Held, layer: Layer, cache: Opened, named: list[dict[str, Any]]) -> bool:
    """Whether the layer could be told. Each by itself: one that is out of reach keeps it from no other."""
    made = cache.cache.build([layer])
    try:
        for names in named:
            made.invalidate(**names)
    except StoreUnavailableError as error:
        held.note(error.__cause__ or error)
        held.note(f"{held.name} was not told: run this again")
        return False
    return True


def clear(arguments: argparse.Namespace) -> int:
    with opened(arguments.config) as cache:
        shared = cache.shared()
        if not shared:
            print("nothing is kept there yet")
            return 0
        if not arguments.yes and not _agreed([held.name for held, _ in shared]):
            return 1
        code = 0
        for held, layer in shared:
            try:
                layer.clear()
                print(f"cleared {escaped(held.name)}")
            except StoreUnavailableError as error:
                held.note(error)
                code = 1
    return code


def _agreed(names: list[str]) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError("nobody is here to be asked: give --yes")
    try:
        told = input(f"Forget all that is kept in {', '.join(map(escaped, names))}? [y/N] ")
    except EOFError:  # as good as no
        print()
        return False
    return told.strip().lower() in ("y", "yes")


# -- verify ---------------------------------------------------------------------------


def verify(arguments: argparse.Namespace) -> int:
    with opened(arguments.config, read_only=not arguments.delete) as cache:
        shared = cache.shared()
        judge = Judge(cache.config, shared)
        counts: list[tuple[str, dict[str, int]]] = []
        reached = True
        for held, layer in shared:
            count = dict.fromkeys(KINDS, 0)
            counts.append((held.name, count))
            try:
                counted(held, layer, judge, count, delete=arguments.delete)
            except StoreUnavailableError as error:
                held.note(error)
                reached = False
    damaged = sum(count["damaged"] for _, count in counts)
    if arguments.json:
        layers = [{"layer": name, **count} for name, count in counts]
        print(json.dumps({"layers": layers, "damaged": damaged, "complete": reached}, indent=2))
    elif not counts:
        print("nothing is kept there yet")
    else:
        rows = [[name, *map(str, count.values())] for name, count in counts]
        print(as_table([["layer", *KINDS], *rows], numbers=len(KINDS)))
        if damaged:
            told = ", and taken out" if arguments.delete else ": --delete takes out what is"
            print(f"\n{damaged} damaged{told}")
    return 0 if reached and not damaged else 1
