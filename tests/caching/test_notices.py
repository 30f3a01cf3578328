"""What is not valid any more: the rules, checked against a model that goes through all that was said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caching.kept import entry_of
from tierllm.caching.layer import Board, Notice
from tierllm.caching.notices import Kind, Notices, name_of

SLOT = bytes(32)
OLD, NEW = "0" * 64, "1" * 64
STRANGE = ["it's", 'a "b"', "a\nb", "a\x00b", "ä", "\ud800", "x" * 100_000, " ", "[]", "null", "a:b", "%s"]


def board(number: int, *names: str, content: str | None = None) -> Board:
    return Board(number, 0, tuple(Notice(name, number, content) for name in names))


def knowing(*boards: Board) -> Notices:
    notices = Notices()
    for each in boards:
        notices.learn(each)
    return notices


def test_without_notices_all_is_valid() -> None:
    assert Notices().allow(entry_of(generation=0), SLOT)
    assert not Notices().outdated((("d", OLD),), None)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        (name_of("all"), True),
        (name_of("tenant", "t"), True),
        (name_of("tenant", "u"), False),
        (name_of("document", "d"), True),
        (name_of("document", "D"), False),
        (name_of("document", "d2"), False),
        (name_of("document", "d", "t"), True),
        (name_of("document", "d", "u"), False),
        (name_of("tag", "a"), True),
        (name_of("tag", "d"), False),
        (name_of("document", "a"), False),
        (name_of("tag", "a", "t"), True),
        (name_of("tag", "a", "u"), False),
        (name_of("prefix", "d"), True),
        (name_of("prefix", "a"), True),
        (name_of("prefix", "ab"), False),
        (name_of("prefix", "d", "t"), True),
        (name_of("prefix", "d", "u"), False),
        (name_of("slot", SLOT.hex()), True),
        (name_of("slot", (b"x" * 32).hex()), False),
    ],
)
def test_what_a_name_means(name: str, gone: bool) -> None:
    entry = entry_of(generation=4, tenant="t", tags=("a",), depends=(("d", OLD),))
    assert knowing(board(5, name)).allow(entry, SLOT) is not gone
    assert knowing(board(5, name)).allow(entry._replace(generation=5), SLOT), "it was made after that"
    assert knowing(board(4, name), board(9)).allow(entry, SLOT)


def test_what_belongs_to_no_tenant_is_not_one_tenants() -> None:
    entry = entry_of(generation=4, tags=("a",), depends=(("d", OLD),))
    for name in (name_of("tenant", "t"), name_of("tag", "a", "t"), name_of("prefix", "", "t")):
        assert knowing(board(5, name)).allow(entry, SLOT)
    assert not knowing(board(5, name_of("tag", "a"))).allow(entry, SLOT)


def test_what_is_below_the_floor_is_gone_whatever_its_names() -> None:
    notices = knowing(Board(9, 5, ()))
    assert not notices.allow(entry_of(generation=4), SLOT)
    assert notices.allow(entry_of(generation=5), SLOT)
    notices.learn(Board(10, 3, ()))
    assert not notices.allow(entry_of(generation=4), SLOT), "a floor never sinks"


@pytest.mark.parametrize("name", STRANGE, ids=range(len(STRANGE)))
def test_any_name_is_only_its_own(name: str) -> None:
    other = entry_of(generation=4, tags=("a",), depends=(("b", OLD),), tenant="t")
    for kind, own in (
        ("document", entry_of(generation=4, depends=((name, OLD),))),
        ("tag", entry_of(generation=4, tags=(name,))),
        ("tenant", entry_of(generation=4, tenant=name)),
        ("prefix", entry_of(generation=4, tags=(name + "and more",))),
    ):
        notices = knowing(board(5, name_of(kind, name)))  # type: ignore[arg-type]
        assert not notices.allow(own, SLOT), kind
        assert notices.allow(other, SLOT), kind


@pytest.mark.parametrize(
    "name",
    [
        "",
        "not json",
        "{}",
        "[]",
        "17",
        "null",
        '["document"]',
        '["document", "d", null, 1]',
        json.dumps(["model", "gpt", None]),
        json.dumps(["document", ["d"], None]),
        json.dumps(["tag", {"a": 1}, None]),
        json.dumps(["tenant", ["t"], None]),
        json.dumps(["slot", [1], None]),
        json.dumps(["prefix", [1], None]),
        json.dumps(["prefix", 7, None]),
        json.dumps(["tag", 7, None]),
        json.dumps(["document", "d", 7]),
        '["all"]',
        "[" * 100_000,
    ],
    ids=range(19),
)
def test_what_is_not_understood_takes_everything_along(name: str) -> None:
    notices = knowing(board(5, name))
    assert not notices.allow(entry_of(generation=4), SLOT)
    assert notices.allow(entry_of(generation=5), SLOT)
    notices.learn(board(6, name_of("tag", "a")))
    assert notices.allow(entry_of(generation=5), SLOT)
    assert not notices.allow(entry_of(generation=5, tags=("a",)), SLOT)


# -- contents --------------------------------------------------------------------------


def changed(number: int, document: str, content: str, tenant: str | None = None) -> Board:
    return board(number, name_of("content", document, tenant), content=content)


def test_what_rests_on_the_very_content_stays() -> None:
    notices = knowing(changed(5, "d", NEW))
    assert notices.allow(entry_of(generation=4, depends=(("d", NEW),)), SLOT)
    assert not notices.allow(entry_of(generation=4, depends=(("d", OLD),)), SLOT)
    assert notices.outdated((("d", OLD),), None)
    assert notices.outdated((("d", OLD),), "t")
    assert not notices.outdated((("d", NEW), ("e", OLD)), None)


def test_one_tenants_content_is_no_others() -> None:
    notices = knowing(changed(5, "d", NEW, "t"))
    assert notices.outdated((("d", OLD),), "t")
    assert not notices.outdated((("d", OLD),), "u")
    assert not notices.outdated((("d", OLD),), None)
    assert notices.allow(entry_of(generation=4, depends=(("d", OLD),), tenant="u"), SLOT)
    assert not notices.allow(entry_of(generation=4, depends=(("d", OLD),), tenant="t"), SLOT)


def test_a_content_that_comes_back_brings_its_answers_back() -> None:
    notices = knowing(changed(5, "d", NEW), changed(7, "d", OLD))
    assert notices.allow(entry_of(generation=4, depends=(("d", OLD),)), SLOT)
    assert not notices.allow(entry_of(generation=6, depends=(("d", NEW),)), SLOT)


def test_telling_the_content_does_not_bring_back_what_was_invalidated() -> None:
    wrong = entry_of(generation=4, depends=(("d", OLD),))
    notices = knowing(board(5, name_of("document", "d")), changed(6, "d", OLD))
    assert not notices.allow(wrong, SLOT)
    assert notices.allow(wrong._replace(generation=5), SLOT)


def test_invalidating_does_not_forget_which_content_is_the_present_one() -> None:
    notices = knowing(changed(5, "d", NEW), board(6, name_of("document", "d")))
    assert notices.outdated((("d", OLD),), None)
    assert not notices.allow(entry_of(generation=5, depends=(("d", NEW),)), SLOT)


def test_an_older_board_changes_nothing() -> None:
    notices = knowing(changed(7, "d", NEW), changed(5, "d", OLD))
    assert notices.number == 7
    assert notices.outdated((("d", OLD),), None)
    assert notices.knows(Notice(name_of("content", "d"), 6, OLD))
    assert not notices.knows(Notice(name_of("content", "d"), 8, OLD))


# -- against a model -------------------------------------------------------------------

TENANTS = st.sampled_from([None, "t", "u"])
NAMES = st.sampled_from(["a", "ab", "b", "ä"])
CONTENTS = st.sampled_from([OLD, NEW])
SAID = st.one_of(
    st.tuples(st.just("all"), st.just(""), st.none(), st.none()),
    st.tuples(st.just("tenant"), st.sampled_from(["t", "u"]), st.none(), st.none()),
    st.tuples(st.sampled_from(["document", "tag", "prefix"]), NAMES, TENANTS, st.none()),
    st.tuples(st.just("content"), NAMES, TENANTS, CONTENTS),
)
Words = tuple[Kind, str, str | None, str | None]


def concerns(words: Words, entry: Any) -> bool:
    kind, value, tenant, content = words
    if kind == "all":
        return True
    if kind == "tenant":
        return bool(entry.tenant == value)
    if tenant is not None and tenant != entry.tenant:
        return False
    documents = [name for name, _ in entry.depends]
    if kind == "tag":
        return value in entry.tags
    if kind == "document":
        return value in documents
    if kind == "content":
        return any(name == value and own != content for name, own in entry.depends)
    return any(name.startswith(value) for name in (*entry.tags, *documents))


@given(
    said=st.lists(SAID, max_size=8),
    generation=st.integers(0, 8),
    tenant=TENANTS,
    tags=st.sets(NAMES, max_size=2),
    depends=st.dictionaries(NAMES, CONTENTS, max_size=3),
)
def test_valid_is_what_nothing_later_concerns(
    said: list[Words], generation: int, tenant: str | None, tags: set[str], depends: dict[str, str]
) -> None:
    entry = entry_of(
        generation=generation, tenant=tenant, tags=tuple(tags), depends=tuple(sorted(depends.items()))
    )
    notices = Notices()
    for number, (kind, value, whose, content) in enumerate(said, 1):
        notices.learn(board(number, name_of(kind, value, whose), content=content))
    # of what was said of one document's content, the last word counts
    last = {words[:3]: words for words in said if words[0] == "content"}
    counts = [
        (number, words)
        for number, words in enumerate(said, 1)
        if words[0] != "content" or (words is last[words[:3]])
    ]
    expected = not any(number > generation and concerns(words, entry) for number, words in counts)
    assert notices.allow(entry, SLOT) is expected
