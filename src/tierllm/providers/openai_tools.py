"""Tool calls that arrive in pieces, and how servers mark which piece belongs to which call."""

from __future__ import annotations

__all__ = ["Places"]


class Places:
    """Which tool call of an answer each piece belongs to.

    An id that is known goes on with its call. A new one begins a call, even under an index in use,
    if the piece has a name; without a name it goes by index, since some servers make up an id for
    every piece. What has neither id nor index goes on with the call before it.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, int] = {}
        self._by_index: dict[int, int] = {}
        self._latest: int | None = None

    def find(self, call_id: str | None, name: str | None, index: int | None) -> int:
        place = None if call_id is None else self._by_id.get(call_id)
        if place is None and index is not None and (call_id is None or name is None):
            place = self._by_index.get(index)
        elif place is None and call_id is None:
            place = self._latest
        if place is None:
            used = {*self._by_id.values(), *self._by_index.values()}
            place = max(used, default=-1) + 1 if index is None or index in used else index
        self._by_index[place if index is None else index] = self._latest = place
        if call_id is not None:
            self._by_id[call_id] = place
        return place
