"""The tables of answers that are judged: ``[cascade]`` and ``[shadow]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ..routing.cascade import Cascade
from ..routing.judges import Agreement, FormatCheck
from ..routing.learned_judge import LearnedJudge
from ..routing.shadow import Shadow
from .admission import Mode
from .table import Count, Money, Name, Rule, Share

__all__ = ["JUDGES", "AgreementTable", "CascadeTable", "LearnedJudgeTable", "ShadowTable"]

JUDGES = ("format", "agreement", "learned")


class FormatTable(Rule):
    kind: Literal["format"] = "format"
    json_: bool | dict[str, Any] | None = Field(None, alias="json")
    pattern: str | None = None
    min_chars: Annotated[int, Field(ge=0)] = 1
    refusals: bool | list[str] = False

    def build(self) -> FormatCheck:
        given = {"json" if name == "json_" else name: value for name, value in self.given().items()}
        given.pop("kind", None)
        return FormatCheck(**given)


class AgreementTable(Rule):
    kind: Literal["agreement"] = "agreement"
    other: Name
    compare: Literal["text", "number", "words"] = "text"

    def build(self) -> Agreement:
        return Agreement(**self.built(leaving=("kind",)))


class LearnedJudgeTable(Rule):
    kind: Literal["learned"] = "learned"
    min_samples: Count = 100
    compare: Literal["words", "text", "number"] = "words"
    explore: Share = 0.0

    def build(self) -> LearnedJudge:
        return LearnedJudge(**self.built(leaving=("kind",)))


def _judge(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


JudgeTable = Annotated[
    Annotated[FormatTable | AgreementTable | LearnedJudgeTable, Field(discriminator="kind")],
    BeforeValidator(_judge),
]


class CascadeTable(Rule):
    judge: JudgeTable | None = None
    cheap: Name | None = None
    strong: Name | None = None
    at_least: float = 0.5
    max_judge_s: float | None = None
    mode: Mode = "enforce"

    def build(self, judge: Any = None) -> Cascade:
        """``judge`` is one of the application's own; without any it shows only whether it can be built."""
        judge = judge or (FormatCheck() if self.judge is None else self.judge.build())
        return Cascade(judge, **self.built(leaving=("judge",)))


class ShadowTable(Rule):
    to: Name
    share: float = 0.01
    hard_usd: Money = 1.0
    per: str = "1d"
    judge: Annotated[FormatTable, BeforeValidator(_judge)] | None = None
    learn: bool = False
    skip_tags: list[Name] = Field(default_factory=lambda: ["confidential"])
    mode: Mode = "enforce"

    def build(self, learn: Callable[..., object] | None = None) -> Shadow:
        """``learn`` is the scorer's."""
        return Shadow(**self.built(leaving=("learn",)), learn=learn if self.learn else None)
