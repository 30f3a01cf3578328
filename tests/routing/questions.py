"""Made-up questions for a weak and a strong model, of which it is known who can answer them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

KINDS = {
    # what anybody can, what only the strong one can, what nobody can
    "chitchat weather greeting small talk": (0.95, 0.95),
    "riddle settle puzzle clever knot": (0.15, 0.9),
    "paradox unanswerable oracle fate": (0.05, 0.1),
    "recipe soup kitchen salt": (0.6, 0.85),
}
FILLING = [
    "the",
    "of",
    "a",
    "for",
    "me",
    "and",
    "please",
    "about",
    "this",
    "my",
    "in",
    "it",
    "with",
    "to",
    "how",
]


class Question(NamedTuple):
    text: str
    weak: float
    strong: float


def questions(count: int, seed: int) -> list[Question]:
    return list(_questions(count, seed))


def _questions(count: int, seed: int) -> Iterator[Question]:
    rng = random.Random(seed)
    kinds = list(KINDS.items())
    for _ in range(count):
        words, (weak, strong) = rng.choice(kinds)
        text = rng.choices(words.split(), k=2) + rng.choices(FILLING, k=rng.randint(3, 12))
        rng.shuffle(text)
        yield Question(" ".join(text), float(rng.random() < weak), float(rng.random() < strong))


def apgr(score: Callable[[str], float], asked: Sequence[Question]) -> float:
    """The area under the share of the gap recovered, against the share of strong calls."""
    ranked = sorted(asked, key=lambda q: -score(q.text))
    gap = sum(q.strong - q.weak for q in asked)
    gained = area = 0.0
    for q in ranked:
        area += gained + (q.strong - q.weak) / 2
        gained += q.strong - q.weak
    return area / gap / len(ranked)
