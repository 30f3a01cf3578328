"""The tables about admission: pools, service plans, and what a tier does under load."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..admission.adaptive import AdaptiveConcurrency
from ..admission.client_throttle import ClientThrottle
from ..admission.consent import Consent
from ..admission.emergency_document import check_name
from ..admission.record import hourly
from ..admission.sampling import AdaptiveSampling
from ..admission.schedule import Hours, Schedule
from ..admission.settings import Admission
from ..admission.steps import Step
from ..errors import ConfigError
from ..resilience.hedge import Hedge
from .finding import Loc, did_you_mean
from .table import Count, Money, Name, OffOrFloat, Rule, Table, named

__all__ = [
    "AdaptiveTable",
    "AdmissionTable",
    "ConsentTable",
    "HedgeTable",
    "Mode",
    "OwnConsentTable",
    "SamplingTable",
    "ThrottleTable",
    "When",
]

Mode = Literal["enforce", "observe"]


# -- a tier's pool -------------------------------------------------------------------------


DAYISH = re.compile("(mo|tu|we|th|fr|sa|su)[a-z]{0,7}")
"""What may be repeated of hours that make no sense: whatever else stands there may be a key."""


def _when(when: str) -> str:
    """Which word of it is wrong is said, where it can be a day; nothing else of it is."""
    try:
        Hours(when, size=1)
    except ConfigError as error:
        said = str(error).removeprefix(f"Hours({when!r}): ")
        problem, _, remedy = said.partition("; ")
        word = re.match("'(.*?)' ", problem)
        if word and not DAYISH.fullmatch(word[1]):
            problem = f"'…' {problem[word.end() :]}"
        raise PydanticCustomError("named", "{problem}", {"problem": problem, "remedy": remedy}) from None
    return when


When = Annotated[str, AfterValidator(_when)]


class HoursTable(Table):
    when: When
    size: Count


class ScheduleTable(Rule):
    hours: Annotated[list[HoursTable], Field(min_length=1)]
    tz: str = "UTC"

    def build(self) -> Schedule:
        return Schedule([Hours(each.when, size=each.size) for each in self.hours], tz=self.tz)


def _hourly(hourly_usd: Money) -> Money:
    try:
        hourly(hourly_usd)
    except ConfigError:
        raise ValueError("should be dollars an hour, 0 or more") from None
    return hourly_usd


class AdmissionTable(Rule):
    max_concurrency: Count | None = None
    max_waiting: Annotated[int, Field(ge=0)] | None = None
    max_wait_s: Annotated[float, Field(ge=0)] | None = None
    on_full: Literal["wait", "step_down", "refuse"] = "wait"
    borrow: float = 0.0
    schedule: ScheduleTable | None = None
    age_s: OffOrFloat = None
    weights: dict[Name, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    hourly_usd: Annotated[Money, AfterValidator(_hourly)] | None = None
    defer_at: float = 0.7
    max_defer_s: float = 3600.0
    shed_at: float | None = None
    shed_below: int = 1
    mode: Mode = "enforce"

    def build(self) -> Admission:
        return Admission(**self.built())


# -- what a tier does under load --------------------------------------------------------------


class StepTable(Rule):
    name: Name
    at: float
    leave: float | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    single: bool = False
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    cheaper: bool = False
    cached: bool = False
    defer_below: int | None = None
    refuse_below: int | None = None

    def build(self) -> Step:
        return Step(**self.given())


def _day(day: object) -> object:
    """A date of TOML's own, or one that is written as a text."""
    if not isinstance(day, str):
        return day
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise ValueError("should be a date such as 2026-11-01") from None


Day = Annotated[date, BeforeValidator(_day)]


class OwnConsentTable(Rule):
    """Consent of whoever's table it stands in."""

    steps: Annotated[list[Name], Field(min_length=1)] | Literal["all"]
    since: Day
    until: Day | None = None

    def build(self) -> Consent:
        return Consent(**self.given())


class ConsentTable(OwnConsentTable):
    plan: Name | None = None
    tenant: Name | None = None
    contract: Name | None = None


class SamplingTable(Rule):
    steps: Annotated[list[StepTable], Field(min_length=1)]
    consent: list[ConsentTable] = Field(default_factory=list)
    dwell_s: float = 60.0
    max_changes_per_hour: int = 4
    emergencies: dict[Name, Annotated[list[Name], Field(min_length=1)]] = Field(default_factory=dict)
    mode: Mode = "enforce"

    def build(self) -> AdaptiveSampling:
        given = self.built(leaving=("steps", "consent"))
        consent = [table.build() for table in self.consent]
        return AdaptiveSampling([table.build() for table in self.steps], consent=consent, **given)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        wrong = list(self._unknown_steps())
        if wrong:
            raise ValidationError.from_exception_data("SamplingTable", wrong)
        self.build()
        return self

    def _unknown_steps(self) -> Iterator[InitErrorDetails]:
        known = [step.name for step in self.steps]
        for s, name in enumerate(known):
            if name in known[:s]:
                problem, remedy = "another step has this name", "give it one of its own"
                yield named(("steps", s, "name"), problem, remedy)
        said: list[tuple[Loc, Sequence[str]]] = [
            (("consent", c, "steps"), consent.steps)
            for c, consent in enumerate(self.consent)
            if consent.steps != "all"
        ]
        for name, steps in self.emergencies.items():
            said.append((("emergencies", name), steps))
            try:
                check_name(name)
            except ConfigError as error:
                yield named(("emergencies", name), "this is no name for one", str(error).partition(": ")[2])
        for loc, names in said:
            for name in names:
                if name not in known:
                    yield named(loc, "there is no such step", did_you_mean(name, known))


class AdaptiveTable(Rule):
    start: Count = 8
    least: Count = 1
    most: Count = 256
    backoff: float = 0.9
    caution: Count = 10
    mode: Mode = "enforce"

    def build(self) -> AdaptiveConcurrency:
        return AdaptiveConcurrency(**self.given())


class ThrottleTable(Rule):
    k: float = 2.0
    window_s: float = 120.0
    min_calls: Count = 10
    most: float = 0.95
    mode: Mode = "enforce"

    def build(self) -> ClientThrottle:
        return ClientThrottle(**self.given())


class HedgeTable(Rule):
    share: float = 0.05
    bank: float = 100.0
    quantile: float = 0.98
    min_samples: Count = 100
    slow_share: float = 0.5
    mode: Mode = "enforce"

    def build(self) -> Hedge:
        return Hedge(**self.given())
