"""What is to be said about a configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Finding", "Loc", "did_you_mean", "dotted", "error", "told", "warning"]

Severity = Literal["error", "told", "warning"]
Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark: where (``key``, such as ``tiers[0].deployments[1].model``), what, and what to do."""

    severity: Severity
    key: str
    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        told = f"{self.key}: {self.problem}" if self.key else self.problem
        return f"{told}; {self.remedy}" if self.remedy else told

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def error(key: str, problem: str, remedy: str = "") -> Finding:
    return Finding("error", key, problem, remedy)


def warning(key: str, problem: str, remedy: str) -> Finding:
    return Finding("warning", key, problem, remedy)


def dotted(loc: Loc) -> str:
    """``("tiers", 0, "name")`` as ``tiers[0].name``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def did_you_mean(name: str, known: list[str]) -> str:
    """A remedy for a name that is not among ``known``."""
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(known)}" if known else ""


def told(source: str, findings: list[Finding]) -> str:
    """``findings`` about one file, in one line where there is one, else a line each."""
    if len(findings) == 1:
        return f"{source}: {findings[0]}"
    return f"{source}: {len(findings)} problems" + "".join(f"\n  {finding}" for finding in findings)
