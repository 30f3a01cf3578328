"""The cost-quality curve of an evaluation as a picture: SVG, without anything else to load."""

from __future__ import annotations

import math
from html import escape

from .evaluation import Evaluation

__all__ = ["curve_svg"]

WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 48, 60

STYLE = """
  .paper { fill: #ffffff } .ink { fill: #1f2328 } .faint { fill: #59636e }
  .grid { stroke: #d1d9e0; stroke-width: 1 } .chance { stroke: #818b98; stroke-dasharray: 5 5 }
  .curve { stroke: #0969da; stroke-width: 2.5; fill: none } .band { fill: #0969da; opacity: .15 }
  .end { fill: #1f2328 } .here { fill: #bc4c00 }
  text { font: 13px system-ui, sans-serif } .small { font-size: 12px }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .ink, .end { fill: #f0f6fc } .faint { fill: #9198a1 }
    .grid { stroke: #3d444d } .chance { stroke: #9198a1 }
    .curve { stroke: #4493f8 } .band { fill: #4493f8; opacity: .2 } .here { fill: #db6d28 }
  }
"""


def curve_svg(evaluation: Evaluation, *, weak: str | None = None, strong: str | None = None) -> str:
    """Quality against cost (against the share of strong calls, where costs are not known).

    With the 95 % band, always-weak, always-strong and chance between them, and the share that was asked
    about. It follows the reader's light or dark scheme, and loads nothing.
    """
    curve = evaluation.curve
    priced = all(point.usd is not None for point in curve)
    xs = [1000 * (point.usd or 0.0) if priced else 100 * point.share for point in curve]
    lows = [point.quality.low for point in curve]
    highs = [point.quality.high for point in curve]
    across = _Axis([*xs], LEFT, WIDTH - RIGHT)
    up = _Axis([*lows, *highs, *(point.quality.value for point in curve)], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{escape(_told(evaluation))}">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="ink" x="{LEFT}" y="24">{escape(_told(evaluation))}</text>',
    ]
    for tick in up.ticks:
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="faint small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{up.label(tick)}</text>"
        )
    for tick in across.ticks:
        x = across.at(tick)
        parts.append(
            f'<text class="faint small" x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
            f"{across.label(tick)}</text>"
        )
    what = "dollars for 1,000 calls" if priced else "% of calls that go to the strong model"
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="faint" x="{middle:.1f}" y="{HEIGHT - 16}" text-anchor="middle">{what}</text>'
        f'<text class="faint" transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">quality</text>'
    )
    there = [(across.at(x), up.at(high)) for x, high in zip(xs, highs, strict=True)]
    back = [(across.at(x), up.at(low)) for x, low in zip(xs, lows, strict=True)]
    parts.append(f'<polygon class="band" points="{_points([*there, *reversed(back)])}"/>')
    line = [(across.at(x), up.at(point.quality.value)) for x, point in zip(xs, curve, strict=True)]
    (x1, y1), (x2, y2) = line[0], line[-1]
    parts.append(f'<line class="chance" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    parts.append(f'<polyline class="curve" points="{_points(line)}"/>')
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    parts.append(f'<text class="faint small" x="{middle_x + 8:.1f}" y="{middle_y + 18:.1f}">chance</text>')
    for (x, y), name, anchor in (
        (line[0], f"always {weak or 'weak'}", "start"),
        (line[-1], f"always {strong or 'strong'}", "end"),
    ):
        parts.append(f'<circle class="end" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        shift = 10 if anchor == "start" else -10
        below = 16 if anchor == "start" else -10
        parts.append(
            f'<text class="ink small" x="{x + shift:.1f}" y="{y + below:.1f}" text-anchor="{anchor}">'
            f"{_legal(name)}</text>"
        )
    here = evaluation.at_share
    x = across.at(1000 * (here.usd or 0.0) if priced else 100 * here.share)
    y = up.at(here.quality.value)
    parts.append(
        f'<circle class="here" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        f'<text class="here small" x="{x + 9:.1f}" y="{y + 16:.1f}">{here.share:.0%} strong</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legal(name: str) -> str:
    """A name as XML may have it: without what no XML can hold."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name))


class _Axis:
    """From values to places, with round ticks."""

    def __init__(self, values: list[float], begin: float, end: float) -> None:
        known = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(known), max(known)
        if high - low < 1e-12:
            low, high = low - 0.5, high + 0.5
        step = 10.0 ** math.floor(math.log10((high - low) / 4))
        step *= next((m for m in (1, 2, 5) if (high - low) / (m * step) <= 6), 10)
        first = math.floor(low / step + 1e-9)
        last = math.ceil(high / step - 1e-9)
        self.ticks = [number * step + 0.0 for number in range(first, last + 1)]
        self._places = max(0, -math.floor(math.log10(step) + 1e-9))
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        part = (value - low) / (high - low) if math.isfinite(value) else 0.0
        return self._begin + part * (self._end - self._begin)

    def label(self, tick: float) -> str:
        return f"{tick:,.{self._places}f}"


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _told(evaluation: Evaluation) -> str:
    apgr = evaluation.apgr
    if not math.isfinite(apgr.value + apgr.low + apgr.high):
        return f"{evaluation.calls:,} calls: no claim can be made"
    sure = "" if not evaluation.doubts else ": no claim can be made"
    return f"APGR {apgr.value:.2f} ({apgr.low:.2f}…{apgr.high:.2f}) of {evaluation.calls:,} calls{sure}"
