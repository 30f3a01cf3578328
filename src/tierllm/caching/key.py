"""The key under which an answer is kept: everything in a request that can change the answer.

A request is written down in one canonical form, every part with its kind and its length before it, so
that no two requests read alike; then it is hashed. The form is kept next to the hash, and compared on
a hit.

    s<characters>:text   i<hex>;  r<hex>;   T  F  N      text, whole and other numbers, true, false, none
    b<bytes>:latin-1     l<items>:…         d<pairs>:…   bytes, lists, mappings in the order of their names
    c name schema        o name fields extra private given       a pydantic class; an object of one
    m messages           a value                         at the end: those sent instead; what else counts
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..types import Message, Request

__all__ = ["Key", "blake2b_256", "key_of"]

HEAD = "tierllm-key-1:"
"""Another form needs another number: what was kept under the old one is then never found again."""

DEEPEST = 64
MOST_PARTS = 500_000
"""Both bound the time that a value may take which holds itself."""

Schemas = MutableMapping[type, str]


class Key(NamedTuple):
    """``canonical`` is the whole request, prompt and all; ``digest`` its hash."""

    digest: bytes
    canonical: bytes

    def __repr__(self) -> str:  # never the prompt
        return f"<Key {self.digest.hex()[:16]}, {len(self.canonical)} bytes>"


def blake2b_256(canonical: bytes) -> bytes:
    return hashlib.blake2b(canonical, digest_size=32).digest()


def key_of(
    request: Request,
    *,
    scope: str,
    messages: tuple[Message, ...] | None = None,
    also: object = None,
    hasher: Callable[[bytes], bytes] = blake2b_256,
    schemas: Schemas | None = None,
) -> Key | None:
    """The key of ``request`` among those of ``scope`` (a tenant), or ``None`` where it has none.

    In it are the messages with all their parts, the parameters, and the vendors' options. Who asks,
    how urgently, and where the call may go is not. The order of names in a mapping does not matter,
    nor does ``1`` or ``1.0``, a list or a tuple, one ``stop`` or a list of it; everything else does: ``1``
    is neither ``True`` nor ``"1"``, and texts are compared character by character.

    A pydantic class counts by its name and JSON schema, an object of one by all that it holds. Without
    a key are requests that show no prompt, and those with anything else in them than plain data: an
    object of an unknown class, a number that is none (NaN), a value that holds itself. Never raises.

    ``messages`` are those that a policy put in place of the request's own: others count too. ``also`` is
    whatever else the answer depends on: the name of a wrapped function, and its arguments.

    ``schemas`` remembers the schemas of classes, which take pydantic long to make: hand in the same
    ``WeakKeyDictionary`` each time; threads may share it.
    """
    try:
        canonical = _canonical(request, scope, messages, also, schemas)
    except Exception:  # mappings and objects of the caller's own may raise anything
        return None
    return None if canonical is None else Key(hasher(canonical), canonical)


def _canonical(
    request: Request, scope: str, sent: tuple[Message, ...] | None, also: object, schemas: Schemas | None
) -> bytes | None:
    messages = request.messages
    if not messages:  # a wrapped call that shows no prompt: all of its calls would look alike
        return None
    head = f"{HEAD}s{len(scope)}:{scope}"
    out = [f"{head}l{len(messages)}:"]
    for message in messages:
        if type(message) is dict and len(message) == 2:
            role, content = message.get("role"), message.get("content")
            if type(role) is str and type(content) is str:  # what _write would come to, in one step
                out.append(f"d2:s4:roles{len(role)}:{role}s7:contents{len(content)}:{content}")
                continue
        _write(message, out, 1, schemas)
    others = _others(messages, sent, head, out, schemas)
    for options in (_with_stops(request.params), _without_empty(request.extra)):
        if options:
            _write(options, out, 1, schemas)
        else:
            out.append("d0:")
    if others is not None:
        out += ("m", others)
    if also is not None:
        out.append("a")
        _write(also, out, 1, schemas)
    # lone surrogates have a form of their own, so that two of them are not taken for one emoji
    return "".join(out).encode("utf-8", "surrogatepass")


def _others(
    messages: tuple[Message, ...],
    sent: tuple[Message, ...] | None,
    head: str,
    out: list[str],
    schemas: Schemas | None,
) -> str | None:
    """The messages ``sent``, unless they read like the request's own, which have just been written."""
    if sent is None or sent is messages:
        return None
    written: list[str] = []
    _write(sent, written, 0, schemas)
    others = "".join(written)
    return None if head + others == "".join(out) else others


def _with_stops(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """One text to stop at is a list of one."""
    stop = params.get("stop") if params else None
    return {**params, "stop": [stop]} if isinstance(stop, str) else params


def _without_empty(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """No options for a vendor are the same as none said."""
    return {vendor: options for vendor, options in extra.items() if options != {}} if extra else extra


def _write(value: object, out: list[str], depth: int, schemas: Schemas | None) -> None:
    kind = type(value)
    if kind is str:
        out.append(f"s{len(value)}:{value}")  # type: ignore[arg-type]
    elif kind is dict:
        _write_mapping(value, out, depth, schemas)  # type: ignore[arg-type]
    elif kind is list or kind is tuple:
        _write_list(value, out, depth, schemas)  # type: ignore[arg-type]
    elif (plain := _scalar(value)) is not None:
        out.append(plain)
    elif isinstance(value, Mapping):
        _write_mapping(value, out, depth, schemas)
    elif isinstance(value, list | tuple):
        _write_list(value, out, depth, schemas)
    elif isinstance(value, bytes | bytearray):
        out.append(f"b{len(value)}:{value.decode('latin-1')}")
    elif isinstance(value, type) and hasattr(value, "model_json_schema"):
        out.append(_class(value, depth, schemas))
    elif hasattr(kind, "model_dump"):
        _write_object(value, out, depth, schemas)
    else:
        raise TypeError(kind.__name__)


def _scalar(value: object) -> str | None:
    """Texts and numbers. Those of derived classes (enums, numpy's floats) are what a vendor is sent."""
    if value is None:
        return "N"
    if value is True:
        return "T"
    if value is False:
        return "F"
    if isinstance(value, str):
        text = str.__str__(value)
        return f"s{len(text)}:{text}"
    if isinstance(value, int):
        return f"i{int.__int__(value):x};"  # hexadecimal: decimals of a huge number take quadratic time
    if isinstance(value, float):
        number = float.__float__(value)
        if not math.isfinite(number):
            raise ValueError("not a number")
        return f"i{int(number):x};" if number.is_integer() else f"r{number.hex()};"
    return None


def _write_mapping(
    value: Mapping[object, object], out: list[str], depth: int, schemas: Schemas | None
) -> None:
    _check_bounds(len(value), out, depth)
    pairs = [(_name(name), inner) for name, inner in value.items()]
    pairs.sort(key=itemgetter(0))
    out.append(f"d{len(pairs)}:")
    for name, inner in pairs:
        out.append(name)
        _write(inner, out, depth + 1, schemas)


def _name(name: object) -> str:
    if type(name) is str:
        return f"s{len(name)}:{name}"
    plain = _scalar(name)
    if plain is None:
        raise TypeError(type(name).__name__)
    return plain


def _write_list(value: Iterable[object], out: list[str], depth: int, schemas: Schemas | None) -> None:
    items = tuple(value)  # should another thread change it meanwhile, number and items still agree
    _check_bounds(len(items), out, depth)
    out.append(f"l{len(items)}:")
    for inner in items:
        _write(inner, out, depth + 1, schemas)


def _check_bounds(more: int, out: list[str], depth: int) -> None:
    if depth > DEEPEST or len(out) + more > MOST_PARTS:
        raise ValueError("too deep, or too much")


# -- pydantic ---------------------------------------------------------------------------


def _class(model: Any, depth: int, schemas: Schemas | None) -> str:
    known = None if schemas is None else schemas.get(model)
    if known is None:
        parts = ["c", _name(model.__name__)]
        _write(model.model_json_schema(), parts, depth, schemas)
        known = "".join(parts)
        if schemas is not None:
            schemas[model] = known
    return known


def _write_object(value: Any, out: list[str], depth: int, schemas: Schemas | None) -> None:
    """All that it holds, private or not, and what of it was given: some SDKs send only that."""
    _check_bounds(1, out, depth)
    kind = type(value)
    held = {n: v for n, v in vars(value).items() if not isinstance(getattr(kind, n, None), cached_property)}
    out += ("o", _name(kind.__qualname__))
    for part in (held, value.__pydantic_extra__, value.__pydantic_private__, sorted(value.model_fields_set)):
        _write(part, out, depth + 1, schemas)
