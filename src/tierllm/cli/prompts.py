"""Prompts from a file: a text, messages as JSON, or a batch with one of them a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError

__all__ = ["Asked", "Batch", "PromptError", "read"]

MOST_TOKENS = 1_000_000_000
OPTIONS = ("max_tokens", "tools", "response_format", "route")
"""What may stand beside a prompt: all that an estimate depends on."""

UNREAD = ("id", "custom_id", "metadata")
GIVE = 'give a text, a list of {"role": ..., "content": ...} messages, or {"prompt": "..."}'


class PromptError(Exception):
    """There is no prompt; the text says why, and nothing of what is in the file."""


class Asked(NamedTuple):
    """A prompt, with the options that came with it."""

    prompt: Any
    options: dict[str, Any]


class Batch:
    """Many of them, each read when its turn comes. Raises ``PromptError`` that names the line."""

    def __init__(self, source: str, lines: list[str]) -> None:
        self._source = source
        self._lines = lines

    def __iter__(self) -> Iterator[Asked]:
        for number, line in enumerate(self._lines, 1):
            if line.strip():
                where = f"{self._source}, line {number}"
                yield _asked(_parsed(line, where), where)


def read(file: str) -> Asked | Batch:
    """What is in ``file`` (``-``: on stdin). Raises ``PromptError``.

    The name says what it is: ``.json``, ``.jsonl`` or ``.ndjson``, ``.txt`` or ``.md``. Under other names
    it is what it looks like.
    """
    source = "stdin" if file == "-" else file
    text = _text(file, source)
    if not text.strip():
        raise PromptError(f"{source}: there is nothing in it")
    kind = Path(file).suffix.lower()
    lines = text.split("\n")  # no other line ends: texts in JSON may hold those
    if kind in (".jsonl", ".ndjson"):
        return Batch(source, lines)
    if kind == ".json":
        return _asked(_parsed(text, source), source)
    if kind not in (".txt", ".md"):
        for form, looked_at in ((Asked, text), (Batch, next(filter(str.strip, lines)))):
            if _is_prompt(looked_at):
                return Batch(source, lines) if form is Batch else _asked(_parsed(text, source), source)
    return _asked(text, source)


def _is_prompt(text: str) -> bool:
    """Whether it is JSON that can be meant as nothing but a prompt."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(data, list):
        return bool(data) and all(isinstance(message, dict) and "role" in message for message in data)
    return isinstance(data, dict) and ("prompt" in data or "messages" in data)


def _text(file: str, source: str) -> str:
    try:
        text = _bytes(file).decode("utf-8-sig")
    except FileNotFoundError:
        raise PromptError(f"{source}: there is no such file") from None
    except IsADirectoryError:
        raise PromptError(f"{source}: this is a directory; give a file") from None
    except OSError as error:
        raise PromptError(f"{source}: cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise PromptError(f"{source}: this is no text in UTF-8") from None
    if "\0" in text:
        raise PromptError(f"{source}: this is no text, but something binary")
    return text


def _bytes(file: str) -> bytes:
    if file != "-":
        return Path(file).read_bytes()
    return sys.stdin.buffer.read() if sys.stdin else b""


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f" (line {error.lineno}, column {error.colno})" if "\n" in text.strip() else ""
        raise PromptError(f"{where}: this is not valid JSON{at}") from None
    except (ValueError, RecursionError):
        raise PromptError(f"{where}: this is JSON that cannot be read: too deep, or too large") from None


def _asked(data: object, where: str) -> Asked:
    from ..routing.ask import check_params, read_messages

    options: dict[str, Any] = {}
    if isinstance(data, Mapping):
        forms = [name for name in ("prompt", "messages") if name in data]
        if len(forms) != 1:
            raise PromptError(f"{where}: {GIVE}")
        for name, value in data.items():
            if name in OPTIONS:
                options[name] = value
            elif name not in (*forms, *UNREAD):
                known = ", ".join((*OPTIONS, *UNREAD))
                raise PromptError(f"{where}: {name!r} is not known; beside a prompt there may be {known}")
        data = data[forms[0]]
    elif not isinstance(data, str | list):
        raise PromptError(f"{where}: {GIVE}")
    _check(options, where)
    try:
        check_params(options)
        return Asked(read_messages(data), options)
    except ConfigError as error:
        raise PromptError(f"{where}: {error}") from None


def _check(options: Mapping[str, Any], where: str) -> None:
    """What matters to an estimate alone."""
    if not isinstance(options.get("route"), str | None):
        raise PromptError(f"{where}: route: give a text")
    if isinstance(most := options.get("max_tokens"), int) and most > MOST_TOKENS:
        raise PromptError(f"{where}: max_tokens: give a whole number up to {MOST_TOKENS:,}")
