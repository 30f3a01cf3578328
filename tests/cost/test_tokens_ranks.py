"""The packed ranks are the official ones, and what is built from them counts like tiktoken."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import threading
import zlib
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
import tiktoken
import tiktoken_ext.openai_public as official
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.cost.tokens import ranks, tokens_for
from tierllm.cost.tokens.ranks import EncodingName
from tierllm.errors import ConfigError

NAMES: tuple[EncodingName, ...] = get_args(EncodingName)
SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
MODEL = {"o200k_base": "gpt-5.2", "cl100k_base": "gpt-4"}

CORPUS = {
    "empty": "",
    "english": "It was a bright cold day in April, and the clocks weren't striking THIRTEEN yet: we'll see.",
    "german": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich — 1.234,56 €.",
    "japanese": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "chinese": "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏",
    "korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
    "russian": "Все люди рождаются свободными и равными в своём достоинстве и правах.",  # noqa: RUF001
    "python": "def f(x: int) -> str:\n    return f'{x:>8,}'  # padded\n\n\nclass A:\n\tpass\r\n",
    "json": '{"a":[1,2.5,null,true],"b":{"c":"d\\n","e":[]},"price":1234567890}',
    "emoji": "👩🏽‍🚀 flies 🚀🚀 to the 🌕!",
    "spaces": "a  b   c\t\td \n\n  e\n \n f   ",
    "contractions": "I'm you're WE'VE he'd SHE'LL don't 'tis 's'S'rE",
    "special": "<|endoftext|> and <|fim_prefix|><|endofprompt|>",
    "digits": "1 12 123 1234 12345 3.14159 0x1F ٣٤٥ ½",
    "case": "camelCase PascalCase HTTPServer iPhone ǅungla",
    "marks": "e\u0301e\u0301 n\u0303o\u200b\u200d\ufeff",
}


@pytest.fixture(scope="module")
def references() -> dict[str, tiktoken.Encoding]:
    """tiktoken's own encodings, from its own definitions; only the download is replaced."""
    made = {}
    for name in NAMES:
        with pytest.MonkeyPatch.context() as patch:
            loaded = {token: rank for rank, token in enumerate(ranks.unpacked(name))}
            patch.setattr(official, "load_tiktoken_bpe", lambda *a, loaded=loaded, **k: loaded)
            made[name] = tiktoken.Encoding(**getattr(official, name)())
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_official_file_can_be_rebuilt(name: EncodingName):
    lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks.unpacked(name)))
    assert hashlib.sha256(b"".join(lines)).hexdigest() == SHA256[name]


def test_the_checksums_are_those_of_tiktoken():
    source = Path(official.__file__).read_text(encoding="utf-8")
    assert all(checksum in source for checksum in SHA256.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_provenance_names_the_packed_file(name: EncodingName):
    place = files("tierllm.cost.tokens")
    packed = hashlib.sha256(place.joinpath(f"{name}.bin").read_bytes()).hexdigest()
    told = place.joinpath("RANKS.md").read_text(encoding="utf-8")
    assert packed in told
    assert SHA256[name] in told


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS)
@pytest.mark.parametrize("name", NAMES)
def test_counts_like_tiktoken(name: EncodingName, text: str, references: dict[str, tiktoken.Encoding]):
    theirs = references[name].encode(text, disallowed_special=())
    assert ranks.encoding(name).encode_ordinary(text) == theirs
    assert tokens_for(MODEL[name]).text(text) == len(theirs)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=()), max_size=60))
@pytest.mark.parametrize("name", NAMES)
def test_counts_like_tiktoken_whatever_the_text(
    name: EncodingName, text: str, references: dict[str, tiktoken.Encoding]
):
    assert tokens_for(MODEL[name]).text(text) == len(references[name].encode(text, disallowed_special=()))


def test_the_special_tokens_are_the_official_ones(references: dict[str, tiktoken.Encoding]):
    for name in NAMES:
        ours, theirs = ranks.encoding(name), references[name]
        assert ours.special_tokens_set == theirs.special_tokens_set
        assert ours.n_vocab == theirs.n_vocab
        for token in ours.special_tokens_set:
            assert ours.encode(token, allowed_special="all") == theirs.encode(token, allowed_special="all")


OFFLINE = """
import socket, sys
class NoSocket(socket.socket):
    def __init__(self, *args, **kwargs):
        raise RuntimeError("the network was used")
socket.socket = NoSocket
socket.create_connection = socket.getaddrinfo = NoSocket
from tierllm.cost.tokens import tokens_for
assert "tiktoken" not in sys.modules, "tiktoken must wait until something is counted"
tokens_for("gpt-5.2").bounds([{"role": "user", "content": "hello"}], {})
assert "tiktoken" not in sys.modules, "bounds need no tokenizer"
assert not tokens_for("gpt-5.2").loaded
print(tokens_for("gpt-5.2").text("hello world, 吾輩は猫である"), tokens_for("gpt-4").text("hello world"))
assert tokens_for("gpt-5.2").loaded
"""


def test_counts_are_exact_without_network_or_cache(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE],
        env={"TIKTOKEN_CACHE_DIR": str(tmp_path), "DATA_GYM_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    expected = tokens_for("gpt-5.2").text("hello world, 吾輩は猫である")
    assert done.stdout.split() == [str(expected), "2"]
    assert not list(tmp_path.iterdir())


def test_threads_that_meet_build_an_encoding_once(monkeypatch: pytest.MonkeyPatch):
    shelf, asked = ranks._Shelf(), []
    tokens = ranks.unpacked("cl100k_base")

    def unpacked(name: EncodingName) -> list[bytes]:
        asked.append(name)
        return tokens

    monkeypatch.setattr(ranks, "unpacked", unpacked)
    got, gate = [], threading.Barrier(6)

    def reach() -> None:
        gate.wait()
        got.append(shelf.make("cl100k_base"))

    threads = [threading.Thread(target=reach) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    assert len(got) == 6
    assert len(set(map(id, got))) == 1


def test_damaged_ranks_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    packed = zlib.compress(b"\x01a")
    (tmp_path / "o200k_base.bin").write_bytes(packed[:-3] + b"???")
    monkeypatch.setattr(ranks, "files", lambda package: tmp_path)
    for name in NAMES:  # one is damaged, one is missing
        with pytest.raises(ConfigError, match=f"ranks of {name} .* install it again"):
            ranks.unpacked(name)
