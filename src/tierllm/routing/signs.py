"""Signs of what a prompt asks for: the table of ``RuleScorer``, and features that are learned from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import ConfigError

__all__ = ["SIGNS", "Sign", "check_points", "signs_in"]


def check_points(what: str, points: object) -> None:
    if isinstance(points, bool) or not isinstance(points, int | float) or not -100 <= points <= 100:
        raise ConfigError(f"{what}={points!r}): give a number from -100 to 100")


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Something that a text may have, and how many points each occurrence is worth, up to ``most`` of them.

    ``words`` are counted as whole words, whatever their case; a ``pattern`` (a regular expression) is
    counted wherever it matches. Points below 0 speak for the weak model. Only the first 3,000 and the last
    1,000 characters are read. Raises ``ConfigError`` for what makes no sense.
    """

    name: str
    points: float
    words: str = ""
    pattern: str = ""
    most: int = 1
    compiled: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"Sign(name={self.name!r}): give it a name, such as 'code'")
        check_points(f"Sign({self.name!r}, points", self.points)
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise ConfigError(f"Sign({self.name!r}, most={self.most!r}): give a whole number of at least 1")
        for option, text in (("words", self.words), ("pattern", self.pattern)):
            if not isinstance(text, str):
                raise ConfigError(f"Sign({self.name!r}, {option}=...): give a text")
        if not self.words.split() and not self.pattern:
            raise ConfigError(f"Sign({self.name!r}): give words or a pattern to look for")
        try:
            compiled = re.compile(self.pattern) if self.pattern else None
        except re.error as error:
            raise ConfigError(f"Sign({self.name!r}, pattern={self.pattern!r}): {error}") from None
        object.__setattr__(self, "compiled", compiled)


SIGNS: tuple[Sign, ...] = (
    # what has to be worked out
    Sign(
        name="reasoning",
        points=0.5,
        most=4,
        words="prove proof derive deduce infer explain why justify analyze analyse compare contrast evaluate "
        "argue critique design optimize optimise plan strategy tradeoff tradeoffs implications step steps "
        "reason reasoning therefore thus hence suppose assume given determine show",
    ),
    Sign(
        name="mathematics",
        points=0.5,
        most=4,
        words="solve equation equations integral derivative polynomial matrix theorem probability function "
        "triangle angle circle radius area volume perimeter sum product ratio fraction percent percentage "
        "average mean total remainder divisible integer integers prime modulo calculate compute evaluate "
        "simplify graph vector much many twice half times",
    ),
    Sign(name="formulas", points=0.4, most=3, pattern=r"\\[a-zA-Z]{2,}|\$[^$\s]|[=<>≤≥]|\^\{?\w|[∑∫√±÷]"),
    Sign(
        name="code",
        points=0.8,
        most=3,
        words="code python javascript java sql function class program script algorithm implement debug "
        "refactor regex api compile array string list dictionary loop recursion return def import assert",
    ),
    Sign(name="code itself", points=0.8, most=2, pattern=r"```|\bdef \w+\(|=>|\w\(\)|[{};]\s*\n|>>> "),
    # what has to be kept in mind at once
    Sign(
        name="constraints",
        points=0.1,
        most=5,
        words="must should only exactly without except unless least most between each every neither either "
        "both not never always if following",
    ),
    Sign(name="several questions", points=0.3, most=3, pattern=r"\?[^?]*(?=\?)"),
    Sign(name="parts", points=0.1, most=5, pattern=r"(?m)^[ \t]*(?:\d+[.)]|[-*•]|\([a-z]\))[ \t]"),
    # what needs more than everyday knowledge
    Sign(
        name="special knowledge",
        points=0.4,
        most=3,
        words="energy force mass velocity temperature pressure cell cells gene genes protein species acid "
        "reaction molecule molecules atom atoms electron chemical organism organisms physics chemistry "
        "biology medical patient diagnosis treatment disease clinical legal law statute liability contract "
        "clause tax audit revenue interest investment portfolio accounting security encryption protocol "
        "kernel compiler",
    ),
    Sign(
        name="which of several",
        points=0.5,
        pattern=r"(?i)\bwhich (?:of|one of|statement|sequence|best)\b|\bbest\b",
    ),
    Sign(name="long words", points=0.1, most=6, pattern=r"[^\W\d_]{11,}"),
    Sign(name="other scripts", points=0.5, pattern=r"[\u0370-\u1dff\u1f00-\u1fff\u2e80-\ud7ff\uf900-\ufaff]"),
    # what any model does
    Sign(
        name="everyday",
        points=-0.5,
        most=2,
        words="hi hello hey thanks thank please translate summarize summarise rephrase rewrite paraphrase "
        "spell synonym joke greeting",
    ),
    Sign(
        name="looking up",
        points=-0.8,
        pattern=r"(?i)^\W*(?:who|when|where|how old|(?:in )?(?:which|what) (?:year|day|city|country))\b",
    ),
)
"""The table of ``RuleScorer``, to be taken apart and put together anew.

A ``LearnedScorer`` reads these signs, too: where a name, a word or a pattern changes here, saved scorers do
not mean the same any more, and ``scorer_file.VERSION`` goes up.
"""

_NAMES: dict[str, tuple[str, ...]] = {
    word: tuple(sign.name for sign in SIGNS if word in sign.words.split())
    for word in " ".join(sign.words for sign in SIGNS).split()
}
_NEEDED = {"which of several": {"which", "best"}}
"""Words of which a sign's pattern needs one: looking for them first is a tenth of the work."""
_PATTERNS = tuple((sign.name, sign.compiled.search) for sign in SIGNS if sign.compiled is not None)


def signs_in(text: str, words: set[str]) -> list[str]:
    """The names of the signs that a text of these words has, in an order that is always the same."""
    names = {name for word in _NAMES.keys() & words for name in _NAMES[word]}
    names.update(
        name
        for name, search in _PATTERNS
        if (name not in _NEEDED or not words.isdisjoint(_NEEDED[name])) and search(text) is not None
    )
    return sorted(names)
