"""Long text is counted in pieces: as exactly as in one go, and with bounded work."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tierllm.cost.tokens import tokens_for
from tierllm.cost.tokens.pieces import PIECE, count, repaired, sound_cut, utf8_bytes
from tierllm.cost.tokens.ranks import EncodingName, encoding

NAMES: tuple[EncodingName, ...] = get_args(EncodingName)

ALPHABETS = {
    "english": "etaoin shrdlu ETAOIN.,\n'",
    "chinese": "的一是不了人我在有他这中大来上个国。，",  # noqa: RUF001
    "chinese without a stop": "的一是不了人我在有他这中大来上个国",
    "japanese": "あいうえおカキクケコ漢字、。",
    "arabic": "ابتثجح خد",
    "hindi": "कखगघ ािी",
    "thai": "กขคงจฉชซ",
    "cyrillic": "абвгдеж ",
    "code": "abc(){};=\n    _xyz",
    "base64": "ABCDEFabcdef0123+/",
    "digits": "0123456789",
    "emoji": "😀🎉🚀",
    "white space": " \n\t",
    "marks": "a\u0301e\u0308",
    "rules": "=-_.",
    "two letters": "ab",
    "everything": "aA1 \n\t.'/é中😀'",
}

NASTY = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r/'’.,-=(_aAsSlLrRvVeEtT09中あカǅʰ\u0301²٣😀\u200d\u3000\xa0\u2028\x85\x1c"),  # noqa: RUF001
        st.characters(exclude_categories=["Cs"]),
    ),
    min_size=2,
    max_size=12,
)


class Recorder:
    """An encoder that keeps what it was asked for."""

    def __init__(self, name: EncodingName = "o200k_base") -> None:
        self._encoder = encoding(name)
        self.lengths: list[int] = []

    def encode(self, text: str) -> Sequence[int]:
        self.lengths.append(len(text))
        return self._encoder.encode_ordinary(text)

    def count(self, text: str) -> int:
        return count(text, self.encode, self._encoder.decode_bytes)


@settings(max_examples=1_000, deadline=None)
@given(text=NASTY)
@example(text="don't")
@example(text="}\n/ path")
@example(text="a  b")
@example(text="it'S Ok")
def test_a_sound_cut_changes_no_token(text: str):
    for at in range(1, len(text)):
        if sound_cut(text, at, at):
            for name in NAMES:
                encode = encoding(name).encode_ordinary
                assert encode(text) == encode(text[:at]) + encode(text[at:])


@pytest.mark.parametrize(
    ("text", "at"),
    [("a b", 1), ("a\tb", 1), ("a\n", 1), ("x\ny", 2), ("a1", 1), ("1a", 1), ("中。", 1), ("f(", 1)],
)
def test_there_is_a_cut(text: str, at: int):
    assert sound_cut(text, at, at) == at


@pytest.mark.parametrize(
    ("text", "at"),
    [("ab", 1), ("  ", 1), (".\n", 1), ("\n/", 1), ("a'", 1), ("(a", 1), ("12", 1), ("\n ", 1)],
)
def test_there_is_no_cut(text: str, at: int):
    assert sound_cut(text, at, at) == 0


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
@pytest.mark.parametrize("name", NAMES)
def test_pieces_count_as_the_whole(name: EncodingName, alphabet: str):
    rng = random.Random(alphabet)
    recorder = Recorder(name)
    for _ in range(3):
        text = "".join(rng.choices(alphabet, k=rng.randint(PIECE + 1, 4 * PIECE)))
        whole = len(encoding(name).encode_ordinary(text))
        assert abs(recorder.count(text) - whole) <= whole * 0.0002
    assert max(recorder.lengths) <= PIECE


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_a_piece_is_counted_in_one_go(alphabet: str):
    rng, recorder = random.Random(alphabet), Recorder()
    text = "".join(rng.choices(alphabet, k=PIECE))
    assert recorder.count(text) == len(encoding("o200k_base").encode_ordinary(text))
    assert recorder.lengths == [PIECE]


TRAPS = {
    "spaces": (" " * 1_000_000, 1_000_000 // 128 + 1),
    "line ends": ("\n" * 300_000, None),
    "one letter": ("a" * 1_000_000, 125_000),
    "one digit": ("1" * 1_000_000, 333_334),
    "rule": ("=" * 300_000, None),
    "special token": ("<|endoftext|>" * 20_000, None),
    "no white space": ("中文" * 150_000, None),
    "lone surrogates": ("\ud800" * 100_000, None),
    "surrogate pairs": ("\ud83d\ude00" * 50_000, None),
    "apostrophes": ("'" * 300_000, None),
    "spaces and marks": (" \u0301" * 100_000, None),
    "double spaces": ("  a" * 100_000, None),
    "10 MB": (("The quick brown fox; 素早い茶色の狐。\n\n" * 250_000)[:10_000_000], None),
}


@pytest.mark.parametrize(("text", "tokens"), TRAPS.values(), ids=TRAPS)
def test_work_is_bounded(text: str, tokens: int | None):
    recorder = Recorder()
    found = recorder.count(text)
    assert max(recorder.lengths) <= PIECE
    assert sum(recorder.lengths) <= len(text) * 4 / 3 + PIECE
    assert len(recorder.lengths) <= len(text) // (PIECE // 2) + 1
    assert len(text) / 128 <= found <= utf8_bytes(text)
    if tokens is not None:
        assert found == tokens


def test_a_surrogate_pair_is_one_character_wherever_a_piece_ends():
    pairs = "x" + "\ud83d\ude00" * PIECE
    assert Recorder().count(pairs) == Recorder().count("x" + "😀" * PIECE)


@pytest.mark.parametrize(
    ("text", "sent"),
    [("a\ud800b", "a\ufffdb"), ("\ud83d\ude00", "😀"), ("\ude00\ud83d", "\ufffd\ufffd"), ("é", "é")],
)
def test_surrogates_are_counted_as_they_are_sent(text: str, sent: str):
    assert repaired(text) == sent
    assert utf8_bytes(text) == len(sent.encode())
    assert tokens_for("gpt-5.2").text(text) == tokens_for("gpt-5.2").text(sent)
