"""``tierllm cache``: what the shared layers of a cache hold, and what is to be forgotten of it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import count

if TYPE_CHECKING:
    from .arguments import Commands

__all__ = ["add"]

HERE = "tierllm.toml"
SHA256 = re.compile(r"[0-9a-f]{64}")


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "cache",
        help="what a cache holds: stats, get, invalidate, clear, verify",
        description="Looks at the layers that processes share: Redis and disk. Memory is each process's own.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    for kind in (_stats, _get, _invalidate, _clear, _verify):
        kind(kinds)


def run(arguments: argparse.Namespace) -> int:
    from . import cache_commands

    code: int = getattr(cache_commands, arguments.kind)(arguments)
    return code


def _stats(commands: Commands) -> None:
    parser = commands.add_parser(
        "stats",
        help="what each layer holds, and what the cache has saved",
        description="What each layer holds, and what the cache has saved by the ledger's account. "
        "Exit code 1 where a layer is out of reach.",
    )
    _common(parser)


def _get(commands: Commands) -> None:
    parser = commands.add_parser(
        "get",
        help="what is kept for a prompt, and where",
        description="What is kept for a prompt: in which layer, by whom and until when. The options are the "
        "call's. What was asked with others, such as top_p, seed, stop, tools, response_format or extra, is "
        "not found from here. Exit code 1 where nothing is kept.",
    )
    parser.add_argument("prompt", help="the question; - reads it from stdin")
    parser.add_argument("--sla", metavar="TIER", help="the tier to ask; default: the first")
    for name in ("tenant", "user", "session"):
        parser.add_argument(f"--{name}", metavar="NAME", help="as the call had it")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the question")
    parser.add_argument("--max-tokens", type=count, metavar="N")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument("--require", action="append", default=[], metavar="LABEL", help="may be repeated")
    parser.add_argument(
        "--depends-on",
        action="append",
        default=[],
        type=_document,
        metavar="NAME=FILE",
        help="a document that the call named, with its content, or the SHA-256 of that; may be repeated",
    )
    parser.add_argument("--text", action="store_true", help="show the answer itself, too")
    _common(parser)


def _invalidate(commands: Commands) -> None:
    parser = commands.add_parser(
        "invalidate",
        help="declare answers invalid, in all layers and processes",
        description="From now on these answers are not served any more, by any process that shares a layer "
        "with this file. Exit code 1 where a layer could not be told.",
    )
    for kind, words in (
        ("document", "those that rest on it"),
        ("tag", "those that have it"),
        ("prefix", "those with a document or a tag that begins so"),
    ):
        words = f"{words}; may be repeated"
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="NAME", help=words)
    parser.add_argument("--tenant", metavar="NAME", help="only this tenant's; by itself: all of them")
    parser.add_argument("--everything", action="store_true", help="all there are")
    _common(parser, json=False)


def _clear(commands: Commands) -> None:
    parser = commands.add_parser(
        "clear",
        help="forget what the shared layers hold",
        description="Takes all entries out of the shared layers. What processes have in memory they go on to "
        "serve: invalidate --everything reaches that, too.",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    _common(parser, json=False)


def _verify(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="read every entry of the shared layers, and say what is damaged",
        description="Reads every entry of the shared layers: whether it is whole, where it belongs, in time, "
        "valid, and of a deployment that the file has. Exit code 1 where something is damaged, or out of "
        "reach.",
    )
    parser.add_argument("--delete", action="store_true", help="take out what is damaged")
    _common(parser)


def _document(text: str) -> tuple[str, str | bytes]:
    """A name, and the content of a file or the hash of it."""
    name, sign, content = text.partition("=")
    if not (name and sign and content):
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=FILE")
    if SHA256.fullmatch(content):
        return name, content
    try:
        return name, Path(content).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "this can be no path"
        raise argparse.ArgumentTypeError(f"{content!r} cannot be read: {why}") from error


def _common(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    parser.add_argument("--config", metavar="FILE", default=HERE, help=f"default: {HERE}")
    parser.set_defaults(run=run)
    if json:
        parser.add_argument("--json", action="store_true", help="as JSON")
