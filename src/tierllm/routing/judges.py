"""Judges: whether an answer will do, without asking a stronger model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import ConfigError
from ..providers.parsing import reader
from .shapes import fits

if TYPE_CHECKING:
    from ..types import Request, Response

__all__ = ["Agreement", "FormatCheck", "Judge", "as_score", "check_judge"]

REFUSALS = (
    "i cannot help with",
    "i can't help with",
    "i'm unable to",
    "i am unable to",
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "i am sorry, but i can't",
    "i am sorry, but i cannot",
    "as an ai language model",
    "i don't know",
    "i do not know",
)
"""How models begin answers that are none."""

BEGINNING = 200
"""A refusal has no more characters than these."""

MOST = 100_000
"""Longer texts are compared by their beginnings."""

MARKS = " .,;:!?\"'`*()[]"

NUMBER = re.compile(r"-?\d+(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")


class Judge(Protocol):
    """Says how good an answer is: from 0 to 1, or a bool; a coroutine function where calls are async."""

    def __call__(self, request: Request, response: Response, /) -> float | bool | Awaitable[float | bool]: ...


def check_judge(where: str, judge: object) -> None:
    """Raises ``ConfigError`` for what cannot judge."""
    if isinstance(judge, type) or not (callable(judge) or isinstance(judge, Agreement)):
        raise ConfigError(
            f"{where}(judge={judge!r}): give a function of the request and the response, FormatCheck(), "
            "Agreement(...) or LearnedJudge()"
        )


def as_score(value: object) -> float | None:
    """A judge's word as a score; ``None`` for what is no number from 0 to 1."""
    if isinstance(value, bool):
        return 1.0 if value else 0.0
    if isinstance(value, int | float) and 0 <= value <= 1:  # which a NaN is not
        return float(value)
    return None


class FormatCheck:
    """A judge that asks whether the answer is there, whole, and in the form that was wanted: 1.0 or 0.0.

    An answer that is empty, was cut (``finish_reason="length"``) or filtered will not do, nor one with tool
    calls whose arguments are no JSON. One with tool calls has no text to look at; any other must:

    - be JSON, with ``json=True``; or fit a JSON schema, ``json={...}``, of which the keywords ``type``,
      ``enum``, ``const``, ``properties``, ``required``, ``additionalProperties`` (false), ``items``,
      ``minItems``, ``maxItems``, ``minimum``, ``maximum``, ``anyOf`` and ``oneOf`` are looked at. Left out,
      what the call's own ``response_format`` says, if it says anything: a schema, or a pydantic class;
    - match ``pattern`` somewhere (a regular expression);
    - satisfy ``check``, a function of the text;
    - have at least ``min_chars`` characters;
    - with ``refusals``, not begin with words like "I'm unable to" (``True``: English ones), or those given.

    Raises ``ConfigError`` for settings that make no sense. Thread-safe.
    """

    __slots__ = ("check", "json", "min_chars", "pattern", "refusals")

    def __init__(
        self,
        *,
        json: bool | Mapping[str, Any] | None = None,
        pattern: str | re.Pattern[str] | None = None,
        check: Callable[[str], object] | None = None,
        min_chars: int = 1,
        refusals: bool | Sequence[str] = False,
    ) -> None:
        if json is not None and not isinstance(json, bool | Mapping):
            raise ConfigError(f"FormatCheck(json={json!r}): give True, or a JSON schema")
        if check is not None and not callable(check):
            raise ConfigError(f"FormatCheck(check={check!r}): give a function of the text")
        if isinstance(min_chars, bool) or not isinstance(min_chars, int) or min_chars < 0:
            raise ConfigError(f"FormatCheck(min_chars={min_chars!r}): give a whole number, 0 or more")
        try:
            self.pattern = None if pattern is None else re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ConfigError(f"FormatCheck(pattern=...): no regular expression: {error}") from None
        if isinstance(refusals, str) or not isinstance(refusals, bool | Sequence):
            raise ConfigError("FormatCheck(refusals=...): give True, or a list of beginnings")
        words: Sequence[str] = () if refusals is False else REFUSALS if refusals is True else refusals
        if not all(isinstance(each, str) and each.strip() for each in words):
            raise ConfigError("FormatCheck(refusals=[...]): give texts that are not empty")
        self.json = json
        self.check = check
        self.min_chars = min_chars
        self.refusals = tuple(" ".join(each.casefold().split()) for each in words)

    def __call__(self, request: Request, response: Response, /) -> float:
        return 1.0 if self._will_do(request, response) else 0.0

    def _will_do(self, request: Request, response: Response) -> bool:
        if response.finish_reason in ("length", "content_filter"):
            return False
        if response.tool_calls:
            return all(_is_json(call.arguments or "{}") and bool(call.name) for call in response.tool_calls)
        text = response.text
        if len(text.strip()) < self.min_chars:
            return False
        if not self._is_in_form(request, text):
            return False
        if self.pattern is not None and self.pattern.search(text) is None:
            return False
        if self.refusals:
            begins = " ".join(text[:BEGINNING].casefold().replace("\u2019", "'").split()).lstrip(MARKS)
            if any(
                begins.startswith(each) and not begins[len(each) :][:1].isalnum() for each in self.refusals
            ):
                return False
        return self.check is None or bool(self.check(text))

    def _is_in_form(self, request: Request, text: str) -> bool:
        wanted = self.json
        if wanted is None:
            asked = request.params.get("response_format")
            if isinstance(asked, type):  # a class of pydantic's
                return _reads(reader(asked), text)
            wanted = _asked_for(asked)
        return wanted is False or wanted is None or _has_form(text, wanted)

    def __repr__(self) -> str:
        return "FormatCheck()"


class Agreement:
    """A judge that asks a second cheap model at the same time, and compares: what two agree on will do.

    ``other`` is a tier (``"bronze"``) or a deployment of one (``"bronze/gpt-5-nano-eu"``), best from another
    vendor: two of a kind err alike. It costs a second cheap call each time, and no time beyond the slower of
    the two. Where the second does not answer, is another deployment of the first's model, or where one of the
    two is empty, cut or filtered, the answer counts as not good enough.

    ``compare`` is ``"text"`` (the same but for case, spaces and outer punctuation; or the same JSON),
    ``"number"`` (the last number in each is the same), ``"words"`` (the share of words in common, Dice's
    coefficient), or a function of the two responses. Raises ``ConfigError``.
    """

    __slots__ = ("compare", "other")

    def __init__(
        self,
        other: str,
        *,
        compare: Literal["text", "number", "words"] | Callable[[Response, Response], object] = "text",
    ) -> None:
        if not isinstance(other, str) or not all(other.partition("/")[:1]):
            raise ConfigError(f"Agreement(other={other!r}): give a tier, or a deployment as 'tier/name'")
        if not callable(compare) and compare not in COMPARISONS:
            raise ConfigError(
                f"Agreement(compare={compare!r}): one of {', '.join(COMPARISONS)}, or a function of two "
                "responses"
            )
        self.other = other
        self.compare = compare

    @property
    def place(self) -> tuple[str, str | None]:
        """The tier, and the deployment where one is named."""
        tier, _, deployment = self.other.partition("/")
        return tier, deployment or None

    def score(self, first: Response, second: Response) -> float | None:
        """How far they agree; ``None`` where that cannot be said. May raise what ``compare`` raises."""
        if not (_says_something(first) and _says_something(second)):
            return None
        if callable(self.compare):
            return as_score(self.compare(first, second))
        if first.tool_calls or second.tool_calls:
            return 1.0 if _wanted(first) == _wanted(second) else 0.0
        return COMPARISONS[self.compare](first.text[:MOST], second.text[:MOST])

    def __repr__(self) -> str:
        return f"Agreement({self.other!r})"


# -- forms --------------------------------------------------------------------------


def _asked_for(wanted: object) -> bool | Mapping[str, Any] | None:
    """What the call's own ``response_format`` says of the answer's form."""
    if not isinstance(wanted, Mapping):
        return None
    kind, schema = wanted.get("type"), wanted.get("json_schema")
    if kind == "json_schema" and isinstance(schema, Mapping) and isinstance(schema.get("schema"), Mapping):
        found: Mapping[str, Any] = schema["schema"]
        return found
    return True if kind in ("json_object", "json_schema") else None


def _reads(read: Callable[[str], object] | None, text: str) -> bool:
    try:
        return read is None or read(text) is not None
    except (ValueError, RecursionError):  # pydantic's ValidationError is the former
        return False


def _has_form(text: str, wanted: bool | Mapping[str, Any]) -> bool:
    try:
        found = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return isinstance(wanted, bool) or fits(found, wanted)


def _no_json(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _is_json(text: str) -> bool:
    return _has_form(text, True)


# -- comparisons --------------------------------------------------------------------


def _says_something(response: Response) -> bool:
    if response.finish_reason in ("length", "content_filter"):
        return False
    return bool(response.tool_calls) or bool(response.text.strip())


def _wanted(response: Response) -> list[tuple[str | None, object]]:
    """The tools it calls, and with what."""
    return [(call.name, _read(call.arguments or "{}")) for call in response.tool_calls]


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _same_text(first: str, second: str) -> float:
    plain = _plain(first)
    if plain == _plain(second) and (plain or first.split() == second.split()):
        return 1.0
    one, other = _read(first), _read(second)
    alike = isinstance(one, dict | list) and type(one) is type(other) and one == other
    return 1.0 if alike else 0.0


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(MARKS)


def _same_number(first: str, second: str) -> float | None:
    """``None`` where one of them has no number."""
    one, other = NUMBER.findall(first), NUMBER.findall(second)
    if not one or not other:
        return None
    a, b = float(one[-1].replace(",", "")), float(other[-1].replace(",", ""))
    return 1.0 if math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) else 0.0


def _same_words(first: str, second: str) -> float | None:
    """``None`` where neither has any."""
    one, other = _words(first), _words(second)
    if not one and not other:
        return None
    return 2 * len(one & other) / (len(one) + len(other))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


COMPARISONS: Mapping[str, Callable[[str, str], float | None]] = {
    "text": _same_text,
    "number": _same_number,
    "words": _same_words,
}
