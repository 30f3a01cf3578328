"""What an image costs in tokens, by the provider's published rule.

Sources: the vision guides of OpenAI (tiles and patches), Anthropic and Google, read in November
2026. Where a guide and bills seen disagree, the larger figure stands here. The size is read from
the head of a data URL; an image that is only linked, or of a kind not known, counts as the most
that the rule allows (Gemini 2's has no limit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from .media import UNSEEN_TOKENS

__all__ = ["Claude", "Fixed", "GeminiTiles", "ImageRule", "Patches", "Size", "Tiles", "UnknownRule"]


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


class ImageRule(Protocol):
    def tokens(self, size: Size | None, detail: str) -> tuple[int, int]:
        """The best guess and the most; ``detail`` is OpenAI's: low, high, original, auto."""
        ...


@dataclass(frozen=True, slots=True)
class Tiles:
    """OpenAI until 2025: fit into 2,048 square, then the short side to 768; tiles of 512."""

    base: int
    tile: int

    def tokens(self, size: Size | None, detail: str) -> tuple[int, int]:
        if detail == "low":
            return self.base, self.base
        tiles = 8 if size is None else self._tiles(size)  # 2,048 by 768 is 4 by 2
        found = self.base + tiles * self.tile
        return found, found

    @staticmethod
    def _tiles(size: Size) -> int:
        # In whole numbers: a side is numerator / denominator, so that 1,536 never makes 4 tiles.
        long, short = max(size), min(size)
        top, bottom = (2048, long) if long > 2048 else (1, 1)
        if short * top > 768 * bottom:
            top, bottom = 768, short
        return math.prod(-(-side * top // (512 * bottom)) for side in (long, short))


@dataclass(frozen=True, slots=True)
class Patches:
    """OpenAI since: patches of 32, scaled down to a number of them, times a factor of the model.

    ``cap`` holds for ``high``, ``original_cap`` for ``original`` (models that have it), and
    ``auto`` may be either. ``low`` is billed like ``high``, contrary to the guide.
    """

    multiplier: float
    cap: int = 1536
    original_cap: int = 0

    def tokens(self, size: Size | None, detail: str) -> tuple[int, int]:
        most = self.cap if detail in ("low", "high") else max(self.cap, self.original_cap)
        cap = most if detail == "original" else self.cap
        if size is None:
            return self._times(cap), self._times(most)
        plain = _covering(size, 32)
        likely = plain if plain <= cap else self._shrunk(size, cap)
        return self._times(likely), self._times(min(plain, most))

    def _times(self, patches: int) -> int:
        return math.ceil(patches * self.multiplier)

    @staticmethod
    def _shrunk(size: Size, cap: int) -> int:
        across, down = size.width / 32, size.height / 32
        shrink = math.sqrt(cap / (across * down))
        if across * shrink >= 1 and down * shrink >= 1:  # then one side is made a whole number
            fit = min(math.floor(n * shrink) / (n * shrink) for n in (across, down))
            shrink *= fit
        found = math.ceil(across * shrink - 1e-6) * math.ceil(down * shrink - 1e-6)
        return min(found, cap)


@dataclass(frozen=True, slots=True)
class Claude:
    """Patches of 28, about a 750th of the pixels; larger images are scaled down to ``cap``."""

    cap: int

    def tokens(self, size: Size | None, detail: str) -> tuple[int, int]:
        if size is None:
            return self.cap, self.cap
        found = max(_covering(size, 28), math.ceil(size.width * size.height / 750))
        return min(found, self.cap), min(found, self.cap)


@dataclass(frozen=True, slots=True)
class GeminiTiles:
    """Gemini 2: 258 up to 384 square, else 258 a tile; the tile is 256 to 768 wide."""

    def tokens(self, size: Size | None, detail: str) -> tuple[int, int]:
        if size is None:
            return 6 * 258, UNSEEN_TOKENS  # an ordinary photograph; a panorama has any number of tiles
        if max(size) <= 384:
            return 258, 258
        unit = min(768, max(256, math.floor(min(size) / 1.5)))
        tiles = math.prod(max(1, math.ceil(side / unit)) for side in size)
        return 258 * tiles, 258 * tiles


@dataclass(frozen=True, slots=True)
class Fixed:
    """Gemini 3: a budget an image, whatever its size; ``most`` for the finest resolution."""

    likely: int
    most: int

    def tokens(self, size: Size | None, detail: str) -> tuple[int, int]:
        return self.likely, self.most


@dataclass(frozen=True, slots=True)
class UnknownRule:
    """A guess: OpenAI's tiles; at most patches of 28, with a ceiling that open models use."""

    def tokens(self, size: Size | None, detail: str) -> tuple[int, int]:
        likely, most_tiles = Tiles(85, 170).tokens(size, "high")
        patches = 16_384 if size is None else min(_covering(size, 28) + 2, 16_384)
        return likely, max(most_tiles, patches)


def _covering(size: Size, side: int) -> int:
    return -(-size.width // side) * -(-size.height // side)
