"""What the tables of ``tierllm.toml`` have in common: how they are read, and how they are built from."""

from __future__ import annotations

import re
from abc import abstractmethod
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .finding import Loc

__all__ = [
    "BEARS_ONE",
    "KEYS_GO",
    "SECRETS",
    "Count",
    "Money",
    "Name",
    "OffOrFloat",
    "OffOrInt",
    "OrOff",
    "OrSwitch",
    "PathName",
    "Rule",
    "Seconds",
    "Share",
    "Table",
    "based",
    "layered",
    "named",
    "same",
    "secret_in",
    "switch",
    "variable",
    "written",
]


class Table(BaseModel):
    """Keys that are not known are refused; errors never repeat what was written."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    def given(self) -> dict[str, Any]:
        """What the file says; what it leaves out keeps the default of what is built from this."""
        fields = type(self).model_fields
        return {name: getattr(self, name) for name in fields if name in self.model_fields_set}


class Rule(Table):
    """A table that one object is built from, with the same keywords."""

    def built(self, leaving: Sequence[str] = ()) -> dict[str, Any]:
        """What the file says but ``leaving``, with what its own tables stand for."""
        given = {name: value for name, value in self.given().items() if name not in leaving}
        return {name: value.build() if isinstance(value, Rule) else value for name, value in given.items()}

    @abstractmethod
    def build(self) -> object:
        """Raises ``ConfigError`` for settings that make no sense."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        self.build()
        return self


def _off(value: object) -> object:
    return None if value is False else value


def switch(value: object) -> str:
    return "switch" if isinstance(value, bool) else "table"


R = TypeVar("R", bound=Table)
OffOrFloat = Annotated[float | None, BeforeValidator(_off)]
OffOrInt = Annotated[int | None, BeforeValidator(_off)]
OrOff = Annotated[
    Annotated[R, Tag("table")] | Annotated[Literal[False], Tag("switch")], Discriminator(switch)
]
OrSwitch = Annotated[Annotated[R, Tag("table")] | Annotated[bool, Tag("switch")], Discriminator(switch)]
Money = int | float | str
"""A float is taken as it is written: 0.1 is a tenth."""

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("should be a path, without a zero byte")
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise ValueError("should begin with the home of a user that there is") from None
    return text


PathName = Annotated[Name, AfterValidator(_path)]

SECRETS = re.compile(
    r"key|(.*[_-])?((api|access|secret|private|subscription)[_-]?key|token|secret|passw(or)?d|passphrase"
    r"|bearer|authorization|credentials?)",
    re.IGNORECASE,
)
"""Names of what has no place in a file."""

BEARS_ONE = re.compile(r"bearer\s+\S{8,}|sk-[\w-]{12,}", re.IGNORECASE)
"""Values that are keys, whatever they are called."""
KEYS_GO = "keys come from the environment only: take it out and name its variable in api_key_env"


def secret_in(address: str) -> bool:
    """Whether a query holds something that has no place in a file."""
    return any(SECRETS.fullmatch(name) for name, _ in parse_qsl(urlsplit(address).query))


def variable(name: str, such_as: str) -> str:
    """``name``, if it can be that of an environment variable."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):  # capitals only: what else is in here may be a key
        raise ValueError(
            f"should be the name of an environment variable in capitals, such as {such_as}; "
            "a key itself has no place in this file"
        )
    return name


def named(loc: Loc, problem: str, remedy: str) -> InitErrorDetails:
    """Something wrong at ``loc`` that a table could not see by itself."""
    return InitErrorDetails(
        type=PydanticCustomError("named", "{problem}", {"problem": problem, "remedy": remedy}),
        loc=loc,
        input=None,
    )


def written(value: object) -> object:
    """What the file says there, as plain data; other values as they are."""
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, Table) else value


def same(one: object, other: object) -> bool:
    """Whether both are written alike: 1 is not 1.0, nor ``true``. Objects are alike only if they are one."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str | bytes | int | float | PurePath):
        return type(one) is type(other) and repr(one) == repr(other)
    return one is other


PATHS = ("path", "file", "directory")
"""Keys of what lies beside the file, where it is not given from the root."""


def based(table: Table, base: Path) -> Path | None:
    """``base``, where it matters to ``table`` and those within it: a path in there is relative to it."""
    return base if any(_relative(written(table))) else None


def _relative(plain: object) -> Iterator[bool]:
    if isinstance(plain, dict):
        for key, value in plain.items():
            if key in PATHS and isinstance(value, str):
                yield not Path(value).expanduser().is_absolute()
            else:
                yield from _relative(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from _relative(value)


def layered(levels: Sequence[R | Literal[False] | None]) -> R | Literal[False] | None:
    """One setting from several levels, the outermost first: a nearer table changes the keys it names."""
    found: R | Literal[False] | None = None
    for level in levels:
        if level is None:
            continue
        found = level.model_copy(update={**found.given(), **level.given()}) if level and found else level
    return found
