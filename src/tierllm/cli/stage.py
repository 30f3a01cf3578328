"""Where the demo is shown: in color where there are a terminal and rich, else as plain lines."""

from __future__ import annotations

import importlib.util
import time
from abc import abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from .story import Line, Story

__all__ = ["Stage", "plain_stage", "rich_stage"]

INTRO = """\
Three tiers on one model, each with its own prompt and length of answer; every call asks for gold.
The outages are scripted. Retries, breakers, fallback and recovery are the real thing."""
COLORS = {"gold": "yellow", "silver": "bright_white", "bronze": "orange3", "-": "red"}
LAMPS = {"closed": ("●", "green"), "open": ("○", "red"), "half_open": ("◐", "yellow")}
NARROW = 100
REFRESH_S = 0.08


class Stage:
    """A context manager that is told what happens; ``speaking`` comes with every piece of an answer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    @abstractmethod
    def open(self, story: Story) -> None: ...

    @abstractmethod
    def chapter(self, at_s: float, told: str) -> None: ...

    @abstractmethod
    def line(self, line: Line) -> None: ...

    @abstractmethod
    def news(self, at_s: float, tier: str, state: str, reason: str) -> None: ...

    @abstractmethod
    def close(self, summary: list[str]) -> None: ...

    def speaking(self, text: str) -> None:
        pass


def plain_stage() -> Stage:
    return _Plain()


def rich_stage() -> Stage | None:
    """The stage in color; ``None`` where rich is not installed."""
    return _Rich() if importlib.util.find_spec("rich") else None


def _times(line: Line) -> str:
    first = "  -  " if line.first_s is None else f"{line.first_s:5.2f}"
    return f"{first} / {line.total_s:.2f} s"


class _Plain(Stage):
    def open(self, story: Story) -> None:
        print(f"tierllm demo. {story.why}\n{INTRO}\n", flush=True)
        print(
            f"{'time':>6}  {'phase':9}  {'tier':6}  {'deployment':10}  {'model':12}  "
            f"{'first / total':14}  {'breakers (gold silver bronze)':29}  answer"
        )

    def chapter(self, at_s: float, told: str) -> None:
        print(f"{at_s:6.1f}  -- {told}", flush=True)

    def line(self, line: Line) -> None:
        breakers = " ".join(f"{state:9}" for state in line.breakers.values())
        print(
            f"{line.at_s:6.1f}  {line.phase:9}  {line.tier:6}  {line.deployment:10}  {line.model:12}  "
            f"{_times(line):14}  {breakers:29}  {' '.join(line.text.split())[:60]}",
            flush=True,
        )

    def news(self, at_s: float, tier: str, state: str, reason: str) -> None:
        print(f"{at_s:6.1f}  ** {tier}'s breaker is {state.replace('_', '-')}: {reason}", flush=True)

    def close(self, summary: list[str]) -> None:
        print("\n" + "\n".join(summary), flush=True)


class _Rich(Stage):
    """Finished calls scroll up; the call under way and the breakers stay in a panel below."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._story: Story | None = None
        self._refreshed_at = 0.0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def open(self, story: Story) -> None:
        from rich.markup import escape
        from rich.panel import Panel

        self._story = story
        self._console.print(
            Panel(
                f"{escape(story.why)}\n[dim]{INTRO}[/]",
                title="[bold]tierllm demo[/]",
                title_align="left",
                border_style="cyan",
                padding=(0, 1),
            )
        )
        titles = ("time", "phase", "tier", "deployment", "model", "first / total", "g s b", "answer")
        self._console.print(self._row(*(f"[bold]{title}[/]" for title in titles)))
        self._live.start()

    def chapter(self, at_s: float, told: str) -> None:
        from rich.rule import Rule
        from rich.text import Text

        self._live.console.print(Rule(Text(told, style="bold"), style="cyan", align="left"))
        self._refresh("")

    def speaking(self, text: str) -> None:
        if time.monotonic() >= self._refreshed_at + REFRESH_S:
            self._refresh(text)

    def _refresh(self, text: str) -> None:
        from rich.panel import Panel
        from rich.text import Text

        story = self._story
        assert story is not None
        self._refreshed_at = time.monotonic()
        done = min(1.0, story.at_s() / story.seconds)
        bar = "━" * round(done * 30) + "╌" * (30 - round(done * 30))
        lamps = "   ".join(
            f"[{COLORS[tier]}]{tier}[/] {self._lamp(state)} [dim]{state.replace('_', '-')}[/]"
            for tier, state in story.breakers().items()
        )
        state = Text.from_markup(f"{lamps}   [cyan]{bar}[/] {story.at_s():.0f} s\n")
        said = Text(" ".join(text.split()) or "…", no_wrap=True, overflow="ellipsis", style="italic")
        self._live.update(Panel(state + said, border_style="dim", padding=(0, 1)), refresh=True)

    def line(self, line: Line) -> None:
        from rich.markup import escape

        color = COLORS.get(line.tier, "white")
        self._live.console.print(
            self._row(
                f"{line.at_s:.1f}",
                f"[dim]{line.phase}[/]",
                f"[bold {color}]{escape(line.tier)}[/]",
                escape(line.deployment),
                f"[dim]{escape(line.model)}[/]",
                _times(line),
                " ".join(self._lamp(state) for state in line.breakers.values()),
                escape(" ".join(line.text.split())),
            )
        )

    def news(self, at_s: float, tier: str, state: str, reason: str) -> None:
        from rich.markup import escape

        told = f"[{COLORS[tier]}]{tier}[/]'s breaker is [bold]{state.replace('_', '-')}[/]: {escape(reason)}"
        self._live.console.print(f"[dim]{at_s:6.1f}[/]  {self._lamp(state)} {told}")

    def close(self, summary: list[str]) -> None:
        from rich.panel import Panel
        from rich.text import Text

        self._live.stop()
        well = self._story is not None and self._story.recovered
        self._console.print(
            Panel(Text("\n".join(summary)), border_style="green" if well else "red", padding=(0, 1))
        )

    def _lamp(self, state: str) -> str:
        sign, color = LAMPS[state]
        return f"[{color}]{sign}[/]"

    def _row(self, *cells: str) -> Any:
        from rich.table import Table

        widths: list[int | None] = [6, 9, 6, 10, 12, 14, 5, None]
        shown = list(zip(cells, widths, strict=True))
        if self._console.width < NARROW:
            del shown[3:5]  # deployment and model: the tier tells them
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for _, width in shown:
            table.add_column(width=width, ratio=None if width else 1, no_wrap=True, overflow="ellipsis")
        table.columns[0].justify = "right"
        table.add_row(*(cell for cell, _ in shown))
        return table
