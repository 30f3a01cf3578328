"""What images cost, and how their size is read."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.cost.tokens import tokens_for
from tierllm.cost.tokens.image_size import size_of, size_of_base64
from tierllm.cost.tokens.images import (
    Claude,
    Fixed,
    GeminiTiles,
    ImageRule,
    Patches,
    Size,
    Tiles,
    UnknownRule,
)
from tierllm.cost.tokens.media import UNSEEN_TOKENS


def png(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", width, height, 8, 6, 0, 0, 0) + b"\0" * 4
    )


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH3B", width, height, 0, 0, 0)


def jpeg(width: int, height: int, *, ballast: int = 0, frame: int = 0xC0) -> bytes:
    segments = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + b"\0" * 9
    while ballast > 0:
        length = min(ballast, 60_000)
        segments += (
            b"\xff\xe2" + struct.pack(">H", length + 2) + b"\xff\xc0" * (length // 2) + b"\0" * (length % 2)
        )
        ballast -= length
    segments += b"\xff\xc4" + struct.pack(">H", 4) + b"\0\0"  # a table, whose marker is like a frame's
    segments += b"\xff\xff" + bytes([frame]) + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\0" * 3
    return b"\xff\xd8" + segments + b"\xff\xda"


def webp_lossy(width: int, height: int) -> bytes:
    return b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)


def webp_lossless(width: int, height: int) -> bytes:
    return b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)


def webp_extended(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides


MAKERS = [png, gif, jpeg, webp_lossy, webp_lossless, webp_extended]


def data_url(image: bytes) -> str:
    return "data:image/any;base64," + base64.b64encode(image).decode()


def asked(url: str, detail: str | None = None) -> list[dict[str, object]]:
    inner = {"url": url} if detail is None else {"url": url, "detail": detail}
    return [{"role": "user", "content": [{"type": "image_url", "image_url": inner}]}]


def image_tokens(model: str, url: str, detail: str | None = None) -> int:
    m = tokens_for(model)
    return m.count(asked(url, detail), {}) - m.count([{"role": "user", "content": []}], {})


@pytest.mark.parametrize("make", MAKERS, ids=lambda m: m.__name__)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (640, 480), (1568, 16_000)])
def test_the_size_is_read(make, width: int, height: int):
    image = make(width, height)
    assert size_of(image) == (width, height)
    assert size_of_base64(base64.b64encode(image + b"\0" * 50_000).decode()) == (width, height)
    for cut in range(len(image)):  # never a wrong size, nor an error
        assert size_of(image[:cut]) in (None, (width, height))


@pytest.mark.parametrize("frame", [0xC0, 0xC1, 0xC2, 0xCF], ids=hex)
def test_a_jpeg_may_have_its_size_far_back(frame: int):
    image = jpeg(1024, 768, ballast=300_000, frame=frame)
    assert size_of_base64(base64.b64encode(image).decode()) == (1024, 768)


@pytest.mark.parametrize(
    "data", ["", "A", "%%%%", "é" * 50, "A" * 5_000, base64.b64encode(png(0, 5)).decode()], ids=len
)
def test_what_is_no_image_has_no_size(data: str):
    assert size_of_base64(data) is None


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff", b"RIFF", b"GIF8", png(1, 1)[:16]]),
    rest=st.binary(),
)
def test_no_bytes_break_the_reader(start: bytes, rest: bytes):
    found = size_of(start + rest)
    assert found is None or (found.width > 0 and found.height > 0)


@pytest.mark.parametrize(
    ("rule", "size", "detail", "tokens"),
    [
        (Tiles(85, 170), (1024, 1024), "high", 765),
        (Tiles(85, 170), (2048, 4096), "high", 1105),
        (Tiles(85, 170), (4096, 8192), "low", 85),
        (Tiles(85, 170), (512, 512), "auto", 255),
        (Tiles(85, 170), (128, 64), "auto", 255),
        (Tiles(85, 170), (513, 1), "auto", 425),
        (Tiles(85, 170), (1536, 768), "auto", 1105),
        (Tiles(85, 170), None, "auto", 1445),
        (Tiles(2833, 5667), (1024, 1024), "high", 25_501),
        (Tiles(2833, 5667), None, "low", 2833),
        (Tiles(75, 150), (1024, 1024), "high", 675),
        (Patches(1.0), (1024, 1024), "high", 1024),
        (Patches(1.0), (1800, 2400), "high", 1452),
        (Patches(1.62), (1024, 1024), "auto", 1659),
        (Patches(2.46), None, "auto", 3779),
        (Patches(1.2), (32, 33), "low", 3),
        (Claude(1600), (200, 200), "auto", 64),
        (Claude(1600), (1000, 1000), "auto", 1334),
        (Claude(1600), (8000, 8000), "auto", 1600),
        (Claude(4784), (8000, 8000), "auto", 4784),
        (Claude(1600), None, "auto", 1600),
        (GeminiTiles(), (384, 384), "auto", 258),
        (GeminiTiles(), (960, 540), "auto", 1548),
        (Fixed(1120, 2240), (10, 10), "auto", 1120),
        (UnknownRule(), (1024, 1024), "auto", 765),
    ],
)
def test_rules(rule: ImageRule, size: tuple[int, int] | None, detail: str, tokens: int):
    assert rule.tokens(None if size is None else Size(*size), detail)[0] == tokens


@pytest.mark.parametrize(
    ("rule", "size", "detail", "most"),
    [
        (Patches(1.2, 2500, 10_000), None, "auto", 12_000),
        (Patches(1.2, 2500, 10_000), None, "high", 3_000),
        (Patches(1.2, 2500, 10_000), (3200, 3200), "auto", 12_000),
        (Patches(1.2, 2500, 10_000), (3200, 3200), "low", 3_000),
        (Patches(1.0), (1800, 2400), "high", 1536),
        (GeminiTiles(), None, "auto", UNSEEN_TOKENS),
        (UnknownRule(), (1024, 1024), "auto", 1371),
        (UnknownRule(), None, "auto", 16_384),
    ],
)
def test_the_most_of_a_rule(rule: ImageRule, size: tuple[int, int] | None, detail: str, most: int):
    assert rule.tokens(None if size is None else Size(*size), detail)[1] == most


RULES = [
    Tiles(85, 170),
    Patches(1.2),
    Patches(1.2, 2500, 10_000),
    Claude(1600),
    GeminiTiles(),
    Fixed(1120, 2240),
    UnknownRule(),
]


@settings(max_examples=500, deadline=None)
@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    detail=st.sampled_from(["low", "high", "auto", "original"]),
)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_no_image_costs_more_than_an_unknown_one(rule: ImageRule, width: int, height: int, detail: str):
    likely, most = rule.tokens(Size(width, height), detail)
    assert 0 < likely <= most <= rule.tokens(None, detail)[1]


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-4o", 765),
        ("gpt-4.1", 765),
        ("gpt-4o-mini-2024-07-18", 25_501),
        ("o1", 675),
        ("gpt-4.1-mini", 1659),
        ("o4-mini", 1762),
        ("gpt-5", 630),
        ("gpt-5-nano", 2520),
        ("gpt-5.2", 1229),
        ("gpt-5.4", 1229),
        ("claude-sonnet-4-5", 1399),
        ("gemini-3-pro-preview", 1120),
    ],
)
def test_models_have_their_rules(model: str, tokens: int):
    assert image_tokens(model, data_url(png(1024, 1024))) == tokens


def test_the_data_of_an_image_is_no_text():
    large = data_url(png(512, 512) + b"\0" * 3_000_000)
    m = tokens_for("gpt-4o")
    assert image_tokens("gpt-4o", large) == 255
    assert m.bounds(asked(large), {}).upper < 300
    assert image_tokens("gpt-4o", "https://example.org/x.png") == 1445
    assert image_tokens("gpt-4o", "https://example.org/x.png", "low") == 85


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "{data}"}},
        {"type": "input_image", "image_url": "data:image/png;base64,{data}"},
        {"inline_data": {"mime_type": "image/png", "data": "{data}"}},
        {"inlineData": {"mimeType": "image/png", "data": "{data}"}},
        {
            "type": "tool_result",
            "content": [{"type": "image", "source": {"type": "base64", "data": "{data}"}}],
        },
    ],
    ids=["anthropic", "responses", "google", "google-rest", "tool-result"],
)
def test_other_vendors_shapes(part: dict[str, object]):
    data = base64.b64encode(png(1000, 1000) + b"\0" * 100_000).decode()

    def filled(value: object) -> object:
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        if isinstance(value, list):
            return [filled(v) for v in value]
        return value.replace("{data}", data) if isinstance(value, str) else value

    m = tokens_for("claude-sonnet-4-5")
    message = {"role": "user", "content": [filled(part)]}
    assert 1334 <= m.count([message], {}) < 1360
    assert m.bounds([message], {}).upper < 1500
