"""What commands have in common in their arguments."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import Config

__all__ = ["HERE", "Commands", "above_zero", "count", "decisions_of"]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

HERE = "tierllm.toml"
"""The configuration that is read where none is named."""


def count(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number above 0")
    return number


def above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return number


def decisions_of(config: Config) -> Path | None:
    """Where the configuration has its decision log; ``None`` where it has none."""
    from ..config.money import placed

    return None if config.decisions is None else placed(config.base, config.decisions.path)
