"""Counting for one model: bounds at once, the exact number where it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from . import pieces
from .contents import FREE, ROLES, Contents
from .families import Family, family_of
from .kinds import kind_of
from .pieces import utf8_bytes
from .ranks import EncodingName, encoding, is_loaded

__all__ = ["BIG", "Bounds", "ModelTokens", "tokens_for"]

BIG = 100_000
"""Bytes of text above which counting takes milliseconds and belongs off the event loop."""

_LONGEST_TOKEN = 128
_PER_CUT = 2
"""Long text that has no place to be cut at may have one token more, at each cut, than was counted."""
_PER_TEXT = 4
"""What an unknown tokenizer may put before a text: a space that is not there, a mark."""

Messages = Sequence[Mapping[str, object]]


class Bounds(NamedTuple):
    """Tokens that a request has at least and at most."""

    lower: int
    upper: int


class ModelTokens:
    """Counts the input tokens of requests to one model. Immutable, so any thread may use it.

    ``exact``: text is counted with the model's own tokenizer. ``encoding`` is what counting uses,
    for other models times a factor of their family and of the kind of text.

    Messages are chat messages; ``params`` are the call's parameters, of which tools, schemas and
    the like cost tokens. No method raises for what is in them, lone surrogates included.
    """

    __slots__ = ("_family", "_message", "encoding", "exact", "model", "vendor")

    def __init__(self, model: str, vendor: str | None, family: Family) -> None:
        self.model, self.vendor = model, vendor
        self.exact = family.exact
        self.encoding: EncodingName = family.encoding
        self._family = family
        self._message = family.message + 1 + (0 if self.exact else _PER_TEXT)

    def __repr__(self) -> str:
        how = "exact" if self.exact else "estimated"
        return f"ModelTokens({self.model!r}, {self.encoding}, {how})"

    @property
    def loaded(self) -> bool:
        """Whether the encoding is in memory. The first count of a process takes 0.2 s to load it."""
        return is_loaded(self.encoding)

    def load(self) -> None:
        """Load the encoding, so that the first count need not."""
        encoding(self.encoding)

    def bounds(self, messages: Messages, params: Mapping[str, object]) -> Bounds:
        """What the request has at least and at most, without a tokenizer.

        Text has no more tokens than bytes in UTF-8, and no fewer than a 128th of them; images,
        tools and the frame of the chat are added at their most. What cannot be looked into counts as
        ``UNSEEN_TOKENS``: take the smaller of this and the model's window. Only text that is sure to
        be billed is in ``lower``.
        """
        if not FREE.issuperset(params):
            return self._careful_bounds(messages, params)
        size, each = 0, self._message
        for message in messages:
            content = message.get("content")
            if type(content) is not str or len(message) != 2 or message.get("role") not in ROLES:
                return self._careful_bounds(messages, params)
            size += len(content) if content.isascii() else utf8_bytes(content)
        return self._bounds(size, len(messages), self._family.reply + each * len(messages))

    def count(self, messages: Messages, params: Mapping[str, object]) -> int:
        """The best estimate; exact where ``exact`` and there is nothing but text.

        Chat frames, tools and images follow what is known of the provider's rules.
        """
        return self._count(Contents(messages, params, self._family))

    def worst(self, messages: Messages, params: Mapping[str, object]) -> int:
        """A number that the vendor's own count does not exceed, as far as can be known.

        Where ``exact``, the exact count with tools, images and files at their most; else the
        upper bound, since no other is sound for a tokenizer that is not public.
        """
        if not self.exact:
            return self.bounds(messages, params).upper
        contents = Contents(messages, params, self._family)
        total = sum(self._tokens(text, _PER_CUT) for text in (*contents.texts, *contents.maybe))
        total += contents.most
        for shown in contents.shown:  # its form is a guess: a quarter more than the longer one
            total += max(self._tokens(form, _PER_CUT) for form in (shown.likely, shown.most)) * 5 // 4
        return max(total, self._count(contents))

    def text(self, text: str) -> int:
        """The tokens of bare text."""
        found = self._tokens(text)
        scale = self._family.scale
        return found if scale is None else math.ceil(found * getattr(scale, kind_of(text)))

    def _tokens(self, text: str, per_cut: int = 0) -> int:
        encoder = encoding(self.encoding)
        if len(text) <= pieces.PIECE:
            return len(encoder.encode_ordinary(text))
        return pieces.count(text, encoder.encode_ordinary, encoder.decode_bytes, per_cut)

    def _count(self, contents: Contents) -> int:
        total = sum(map(self.text, (*contents.texts, *contents.maybe))) + contents.likely
        for shown in contents.shown:
            total += self.text(shown.likely)
        if self.exact and not contents.shown:
            return total
        lower, upper = self._bounds_of(contents)
        return min(max(total, lower), upper)

    def _careful_bounds(self, messages: Messages, params: Mapping[str, object]) -> Bounds:
        return self._bounds_of(Contents(messages, params, self._family))

    def _bounds_of(self, contents: Contents) -> Bounds:
        size = sum(map(utf8_bytes, contents.texts))
        most = contents.most + sum(map(utf8_bytes, contents.maybe))
        most += sum(utf8_bytes(shown.most) for shown in contents.shown)
        if not self.exact:
            most += _PER_TEXT * (len(contents.texts) + len(contents.maybe) + len(contents.shown))
        return self._bounds(size, contents.messages, most)

    def _bounds(self, size: int, messages: int, most: int) -> Bounds:
        if not self.exact:
            most += self._family.most_hidden
        return Bounds(messages + size // _LONGEST_TOKEN, size + most)


@lru_cache(maxsize=4096)  # immutable, and the same few models come again and again
def tokens_for(model: str, vendor: str | None = None) -> ModelTokens:
    """How to count for ``model`` at ``vendor`` (a provider's name). Cheap: nothing is loaded.

    Counts are exact for OpenAI's models at OpenAI, or where no vendor is named. A name at Azure is one
    that its owner gave, so that nothing is sure there.
    """
    return ModelTokens(model, vendor, family_of(model, vendor))
