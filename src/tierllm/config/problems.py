"""What pydantic found wrong, in the file's own terms and without the values written there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any, get_args

from .addresses import URLS_GO
from .cache import LAYERS
from .finding import Finding, Loc, did_you_mean, dotted
from .finding import error as wrong
from .judging import JUDGES
from .money import STORES
from .providers import KINDS
from .routing import SCORERS
from .table import KEYS_GO, SECRETS, Table

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

__all__ = ["problems"]

REMEDIES = {
    ("list_type", "tiers"): "write [[tiers]]",
    ("list_type", "deployments"): "write [[tiers.deployments]]",
    ("list_type", "budgets"): "write [[budgets]]",
    ("list_type", "limits"): "write [[limits]]",
    ("list_type", "rules"): "write [[rules]]",
    ("list_type", "tenants"): 'write tenants = ["acme"]',
    ("model_type", "sessions"): "leave it out for none",
    ("model_type", "shift"): "write true or false, or burn and dwell_s in a table",
    ("list_type", "consent"): "write [[tiers.sampling.consent]]",
    ("greater_than", "size"): "a schedule closes no pool",
    ("list_type", "hours"): 'write hours = [{when = "22:00-06:00", size = 8}]',
    ("missing", "since"): "from which day on it holds, such as since = 2026-11-01",
    ("list_type", "layers"): "write [[cache.layers]]",
    ("model_type", "cache"): "leave it out for none",
    ("model_type", "breaker"): "write false for none",
    ("model_type", "ledger"): "write ledger = false for none",
    ("model_type", "retry"): "write false for none",
    ("model_type", "fallback"): "write true or false, or content_filter and mode in a table",
    ("model_type", "adaptive"): "write true or false, or start, least and most in a table",
    ("model_type", "throttle"): "write true or false, or k and window_s in a table",
    ("model_type", "hedge"): "write true or false, or share and bank in a table",
    ("model_type", "schedule"): "write [tiers.admission.schedule] with hours and tz",
}
KNOWN = {"store": STORES, "cache": LAYERS, "router": SCORERS, "cascade": JUDGES, "shadow": ("format",)}
"""Kinds in tables of these names; elsewhere they are providers'."""

REFUSED = re.compile(
    r"Value error, (?:\w+\((?:'?…'?, )?(\w+)=.*?\)|(\w+)=…): (?:(\w+)(?:=.*?)?: )?(.*)", re.DOTALL
)
WORDS = (
    (r"^Value error, (\w+\(…?\): )?", ""),
    (r"^Input should be ", "should be "),
    (r"a valid dictionary.*", "a table"),
    (r"a valid (integer|boolean|number|string|list)", r"a \1"),
    (r"\ba integer", "a whole number"),
    (r"a boolean", "true or false"),
    (r"should be False", "should be a table, or false for none"),
    (r"^Field required$", "is missing"),
    (r"List should have at least 1 item.*", "should have at least one entry"),
    (r"String should have at least 1 character", "should not be empty"),
)


def problems(error: ValidationError, data: Mapping[str, Any], model: type[Table]) -> list[Finding]:
    """One finding for each key that is wrong in ``data``, which ``model`` refused."""
    found: dict[str, Finding] = {}
    for detail in error.errors(include_url=False, include_context=True, include_input=False):
        finding = _finding(detail, _written(detail["loc"], data, detail["type"]), data, model)
        earlier = found.get(finding.key)
        if earlier is None:
            found[finding.key] = finding
        elif finding.problem not in earlier.problem:  # of several forms it fits none
            both = f"{earlier.problem}, or {finding.problem.removeprefix('should be ')}"
            found[finding.key] = wrong(finding.key, both, earlier.remedy or finding.remedy)
    return list(found.values())


def _finding(detail: ErrorDetails, loc: Loc, data: Any, model: type[Table]) -> Finding:
    key, name = dotted(loc), str(loc[-1]) if loc else ""
    match detail["type"]:
        case "extra_forbidden" if SECRETS.fullmatch(name):
            return wrong(key, "a key has no place in this file", URLS_GO if loc[0] in KNOWN else KEYS_GO)
        case "extra_forbidden":
            return wrong(key, "there is no such key", did_you_mean(name, _keys_at(loc, model)))
        case "union_tag_invalid" | "union_tag_not_found":
            known = KNOWN.get(str(loc[0]), tuple(KINDS))
            kinds = str(detail["ctx"].get("expected_tags", ", ".join(map(repr, known))))
            return wrong(f"{key}.kind", f"should be one of {kinds}")
        case "named":  # said by this package, with a remedy
            context = detail["ctx"]
            return wrong(key, detail["msg"], str(context["remedy"]))
    problem = detail["msg"]
    if detail["type"] == "value_error":  # what is built from the table tells of it in terms of Python
        for text in _texts(reduce(getitem, loc, data)):
            problem = problem.replace(repr(text), "…")
        if refused := REFUSED.match(problem):
            key, problem = ".".join(filter(None, (key, *refused.group(1, 2, 3)))), refused[4]
    for pattern, word in WORDS:
        problem = re.sub(pattern, word, problem)
    return wrong(key, problem, REMEDIES.get((detail["type"], name), ""))


def _written(loc: Loc, data: Any, kind: str) -> Loc:
    """``loc`` as the file has it: without the names that pydantic gives to the forms a value may take."""
    kept: list[str | int] = []
    for at, part in enumerate(loc):
        within = range(len(data)) if isinstance(data, list) else data if isinstance(data, Mapping) else ()
        if part in within:
            data = data[part]
        elif not (kind in ("missing", "named") and at == len(loc) - 1):
            continue
        kept.append(part)
    return tuple(kept)


def _texts(written: Any) -> Iterator[str]:
    if isinstance(written, str):
        yield written
    elif isinstance(written, Mapping | list):
        for inner in written.values() if isinstance(written, Mapping) else written:
            yield from _texts(inner)


def _keys_at(loc: Loc, model: type[Table]) -> list[str]:
    """The keys that the table around ``loc`` may have."""
    tables = [model]
    for part in loc[:-1]:
        if isinstance(part, str):
            named = [t.model_fields[part].annotation for t in tables if part in t.model_fields]
            tables = [inner for annotation in named for inner in _tables_in(annotation)] or tables
    return sorted({field.alias or key for table in tables for key, field in table.model_fields.items()})


def _tables_in(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_in(argument)
