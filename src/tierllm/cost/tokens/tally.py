"""What was found in a request, added up."""

from __future__ import annotations

from .media import UNSEEN_TOKENS
from .pieces import utf8_bytes
from .tools import as_json

__all__ = ["Tally"]


class Tally:
    """``texts`` are to be counted, and are sure to be billed; ``maybe`` are texts found where nobody knows.

    ``likely`` and ``most`` are tokens beside them.
    """

    __slots__ = ("_unseen", "likely", "maybe", "most", "texts")

    def __init__(self, tokens: int) -> None:
        self.texts: list[str] = []
        self.maybe: list[str] = []
        self.likely = self.most = tokens
        self._unseen = False

    def add(self, likely: int, most: int) -> None:
        self.likely += likely
        self.most += most

    def unseen(self) -> None:
        """There is something, and nobody knows how much; all of it together fits into one window."""
        if not self._unseen:
            self._unseen = True
            self.add(0, UNSEEN_TOKENS)

    def aside(self, value: object) -> None:
        """What is most likely not billed, but may be."""
        text = as_json(value)
        if text is None:
            self.unseen()
        else:
            self.add(0, utf8_bytes(text))

    def scalar(self, value: object) -> None:
        """A text or a number as it is written."""
        if not isinstance(value, str | int | float | None):
            self.unseen()
            return
        try:
            self.maybe.append(str(value))
        except ValueError:  # a number of thousands of digits
            self.unseen()

    def plain(self, value: object) -> None:
        """What is sent as JSON, whatever it holds."""
        text = as_json(value)
        if text is None:
            self.unseen()
            return
        self.maybe.append(text)
        self.add(0, 8 * (text.count(":") + text.count(",")))
