"""What a wrapped function returned, as bytes.

Texts, plain JSON data and the answers of known SDKs can be kept. Nothing is imported, and no class made
use of, on the word of what is read: only classes that this process has loaded from those SDKs.

An SDK's object is two lines of JSON: how it was made and what stands beside its fields, then the fields.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from .whole import complete

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Returned", "complete", "pack", "unpack"]

SDKS = (
    *("openai.types", "anthropic.types", "google.genai.types", "ollama._types"),
    *("mistralai.client.models", "mistralai.models", "litellm.types"),
)
"""Where SDKs define their answers. Other classes of theirs do more than hold data when they are made."""

DEEPEST = 64
MOST_PARTS = 500_000
"""Both bound the time that a value may take which holds itself, and the memory that JSON takes."""

_TEXT, _JSON = "text", "json"

_ASIDE = ("_request_id", "_response_ms")
"""What SDKs hang on an answer beside its fields."""

_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))


class Returned(NamedTuple):
    """``kind`` says how ``data`` is read: ``text``, ``json``, or the ``module:name`` of an SDK's class."""

    kind: str
    data: bytes

    def __repr__(self) -> str:  # never what was answered
        return f"<Returned {self.kind}, {len(self.data)} bytes>"


def pack(value: object) -> Returned | None:
    """``value`` as bytes from which ``unpack`` makes its equal, or ``None`` where that cannot be.

    It can be for texts, truth values, finite numbers, lists and dicts of them (and ``None``) whose names
    are texts, and for pydantic objects that ``SDKS`` answer with. ``None`` alone is no answer. Never
    raises.
    """
    kind = type(value)
    try:
        if kind is str:
            return Returned(_TEXT, _encoded(value))  # type: ignore[arg-type]
        if kind in _PLAIN and value is not None:
            return _packed_plain(value)
        if _is_known(kind.__module__):
            return _packed_object(value)
    except Exception:  # another thread may be changing it, and its class may raise anything
        return None
    return None


def unpack(returned: Returned) -> object:
    """The value, made anew each time. Raises ``ValueError`` for what ``pack`` did not write, and for an
    object whose SDK is not loaded here, or has changed.

    Nothing is imported, and nothing called but what makes an SDK's answers.
    """
    try:
        kind, data = returned
        if kind == _TEXT:
            return data.decode("utf-8", "surrogatepass")
        if kind == _JSON:
            value = _read(data)
            if value is None:
                raise ValueError
            return value
        return _object(kind, data)
    except Exception:  # and say nothing of what it holds
        raise ValueError("what a wrapped function returned cannot be read back here") from None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# -- plain data -------------------------------------------------------------------------

_PLAIN = frozenset({str, bool, int, float, list, dict, type(None)})


def _packed_plain(value: object) -> Returned | None:
    if not _is_plain(value):
        return None
    data = _encoded(_WRITER.encode(value))
    # of plain kinds only those are equal that are the same, or which JSON keeps apart (1, 1.0, true)
    return Returned(_JSON, data) if _read(data) == value else None


def _is_plain(value: object) -> bool:
    """Whether it is JSON data of just these types. Raises ``ValueError`` where it is too deep or large."""
    found, at, depth = [value], 0, 0
    while at < len(found):  # level by level
        level, at, depth = found[at:], len(found), depth + 1
        for each in level:
            kind = type(each)
            if kind not in _PLAIN:
                return False
            if kind is dict:
                if any(type(name) is not str for name in each):  # type: ignore[attr-defined]
                    return False
                found += each.values()  # type: ignore[attr-defined]
            elif kind is list:
                found += each  # type: ignore[arg-type]
            if len(found) > MOST_PARTS or depth > DEEPEST:
                raise ValueError("too deep, or too much")
    return True


def _check_parts(data: bytes) -> None:
    """Before JSON is read: each part of it may take a hundred times its bytes."""
    if sum(map(data.count, (b"[", b"{", b","))) > 2 * MOST_PARTS:
        raise ValueError("too much")


def _read(data: bytes) -> Any:
    _check_parts(data)
    value = json.loads(data.decode("utf-8", "surrogatepass"), parse_constant=_no_number)
    if not _is_plain(value):
        raise ValueError
    return value


def _no_number(name: str) -> object:
    raise ValueError(name)


# -- objects of SDKs --------------------------------------------------------------------


def _is_known(module: object) -> bool:
    return isinstance(module, str) and any(module == sdk or module.startswith(f"{sdk}.") for sdk in SDKS)


def _class(kind: str) -> type[BaseModel]:
    """The class of this ``module:name``, which has to be loaded, public, and defined just there."""
    from pydantic import BaseModel

    where, _, name = kind.partition(":")
    module = sys.modules.get(where) if _is_known(where) else None
    if not issubclass(type(module), ModuleType):
        raise ValueError
    found: object = module
    for step in name.split("."):
        if step.startswith("_"):
            raise ValueError
        found = vars(found)[step]  # not getattr: modules and lazy objects make things when asked
        if not issubclass(type(found), type):
            raise ValueError
    if not isinstance(found, type) or not issubclass(found, BaseModel) or found is BaseModel:
        raise ValueError
    if (found.__module__, found.__qualname__) != (where, name):
        raise ValueError
    return found


def _packed_object(value: object) -> Returned | None:
    from pydantic import BaseModel

    cls = type(value)
    kind = f"{cls.__module__}:{cls.__qualname__}"
    if not isinstance(value, BaseModel) or _class(kind) is not cls or not _is_small(value):
        return None
    # the base class's own method: SDKs' overrides leave things out
    body = BaseModel.model_dump_json(
        value, by_alias=True, exclude_unset=True, round_trip=True, warnings=False
    ).encode()
    aside = {name: vars(value)[name] for name in _ASIDE if name in vars(value)}
    private = value.__pydantic_private__
    private = private if private and _is_plain(private) else None
    for way in _ways(cls):
        data = _encoded(_WRITER.encode([way, aside, private])) + b"\n" + body
        try:
            again = _object(kind, data)
        except ValueError:
            continue
        if _is_same(value, again):
            return Returned(kind, data)
    return None


def _ways(cls: type[BaseModel]) -> tuple[str, ...]:
    """How objects of ``cls`` can be made, its SDK's own way first.

    ``construct`` is OpenAI's and Anthropic's: it takes answers as they come, and validates nothing.
    """
    from pydantic import BaseModel

    own = any("construct" in vars(base) for base in cls.__mro__ if base is not BaseModel)
    return ("construct", "validate") if own else ("validate",)


def _object(kind: str, data: bytes) -> BaseModel:
    cls = _class(kind)
    head, _, body = data.partition(b"\n")
    way, aside, private = _read(head)
    if way not in _ways(cls) or not isinstance(aside, dict):
        raise ValueError
    if way == "construct":
        fields = _read(body)
        if "_fields_set" in fields:  # an argument of construct's own
            raise ValueError
        made = cls.construct(**fields)
    else:
        _check_parts(body)
        made = cls.model_validate_json(body)
    if type(made) is not cls:
        raise ValueError
    for name, told in aside.items():
        if name not in _ASIDE or type(told) not in (str, int, float, type(None)):
            raise ValueError
        object.__setattr__(made, name, told)
    if private is not None:
        if not isinstance(private, dict) or not private.keys() <= cls.__private_attributes__.keys():
            raise ValueError
        object.__setattr__(made, "__pydantic_private__", private)
    return made


def _held(value: Any) -> Iterator[object]:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        yield from vars(value).values()
        yield from (value.__pydantic_extra__ or {}).values()
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def _is_small(value: object) -> bool:
    level, parts, depth = [value], 0, 0
    while level:
        parts, depth = parts + len(level), depth + 1
        if parts > MOST_PARTS or depth > DEEPEST:
            return False
        level = [inner for each in level for inner in _held(each)]
    return True


def _is_same(one: Any, other: Any) -> bool:
    """Whether they are equal, and of the same types all through."""
    from pydantic import BaseModel

    kind = type(one)
    if kind is not type(other):
        return False
    if isinstance(one, BaseModel):
        return (
            one.__pydantic_fields_set__ == other.__pydantic_fields_set__
            and _is_same(vars(one), vars(other))
            and _is_same(one.__pydantic_extra__, other.__pydantic_extra__)
            and _is_same(one.__pydantic_private__, other.__pydantic_private__)
        )
    if kind is dict:
        return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
    if kind is list or kind is tuple:
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)
