"""A small world of easy and difficult questions, and the log of a router that works in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from tierllm.routing.course import Course
from tierllm.routing.decision_log import DecisionLog
from tierllm.routing.decision_rows import DecisionRow, read_decisions
from tierllm.routing.difficulty import Choice
from tierllm.types import Attempt, Request, Response, Trace

EASY = ("colour", "greeting", "weather", "hello", "thanks", "opening", "hours", "price")
HARD = ("theorem", "prove", "integral", "induction", "complexity", "lemma", "bound", "derive")
FILLER = tuple(f"word{number}" for number in range(40))

WEAK = {True: 0.25, False: 0.85}
"""How often the weak model does well on difficult and on easy questions."""

STRONG = 0.9


class Question(NamedTuple):
    text: str
    hard: bool
    weak: float
    strong: float


def questions(count: int, seed: int = 0, *, learnable: bool = True) -> Iterator[Question]:
    rng = random.Random(seed)
    for _ in range(count):
        hard = rng.random() < 0.4
        words = (HARD if hard else EASY) if learnable else EASY
        text = " ".join([*rng.sample(FILLER, 4), *rng.sample(words, 3)])
        yield Question(text, hard, float(rng.random() < WEAK[hard]), float(rng.random() < STRONG))


def write(
    path: Path,
    asked: list[Question],
    *,
    explore: float = 0.3,
    share: float = 0.3,
    compared: float = 0.0,
    feedback: float = 1.0,
    users: int = 0,
    seed: int = 0,
    prompts: str = "text",
) -> Path:
    """The log of calls for which the router guessed the difficulty right four times of five."""
    rng = random.Random(seed)
    log = DecisionLog(path, prompts=prompts, clock=lambda: 0.0)  # type: ignore[arg-type]
    from tierllm.routing.learned_scorer import LearnedScorer

    log.bind(buckets=LearnedScorer(buckets=4096).buckets_of)
    for number, question in enumerate(asked):
        guess = question.hard == (rng.random() < 0.8)
        explored = rng.random() < explore
        strong = rng.random() < share if explored else guess
        chance = explore * (share if strong else 1 - share) + (1 - explore) * (strong == guess)
        course = Course()
        course.choice = Choice("strong" if strong else "weak", float(guess), chance, explored)
        tier = "gold" if strong else "bronze"
        cost = Decimal("0.02") if strong else Decimal("0.001")
        trace = Trace(f"t{number}", granted=tier, served=tier, deployment="m", outcome="ok", duration_s=1.0)
        trace.started_at = 1_790_000_000.0 + number
        trace.attempts = [Attempt(tier, "m", "m", outcome="ok", cost_usd=cost)]
        request = Request(
            messages=({"role": "user", "content": question.text},),
            user=f"u{number % users}" if users else None,
            importance="high" if number % 10 == 0 else None,
        )
        log.note(trace, request, course, Response("x", tier=tier, model="m"))
        if rng.random() < feedback:
            log.feedback(trace.id, question.strong if strong else question.weak)
        if rng.random() < compared:
            log.compared(trace.id, weak=question.weak, strong=question.strong)
    log.close()
    return path


def rows(path: Path, asked: list[Question], **options: float | int | str) -> list[DecisionRow]:
    return list(read_decisions(write(path, asked, **options)))  # type: ignore[arg-type]
