"""What counting tokens costs, next to tiktoken itself, and how exact it is on long text.

Run: ``python tests/benchmarks/bench_tokens.py [STRINGS]`` (default 1,000 long strings, about a
minute). Times are the best of several rounds, so that the ratios hold on a noisy machine.
"""

# ruff: noqa: E501, RUF001  (samples of many scripts)

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence

from tierllm.cost.tokens import tokens_for
from tierllm.cost.tokens.pieces import PIECE
from tierllm.cost.tokens.ranks import encoding

ROUNDS = 25
ENGLISH = (
    "The committee met on Thursday to settle what had been left open in the spring: who pays for the "
    "bridge, how many trees may go, and whether the ferry (built in 1931) could carry lorries. "
)
SCRIPTS = {
    "English": ENGLISH,
    "Chinese": "委员会在星期四开会，讨论春天没有解决的问题：谁来付桥的钱，可以砍多少树，一九三一年造的渡船能不能运卡车。",
    "Chinese, no stops": "委员会在星期四开会讨论春天没有解决的问题谁来付桥的钱可以砍多少树渡船能不能运卡车",
    "Japanese": "委員会は木曜日に集まり、春に残された問題を話し合った。橋の費用は誰が払うのか、フェリーはトラックを運べるか。",
    "Korean": "위원회는 목요일에 모여 봄에 남겨진 문제를 논의했다. 다리 비용은 누가 내는가?",
    "Russian": "Комитет собрался в четверг, чтобы решить оставшееся с весны: кто заплатит за мост?",
    "Arabic": "اجتمعت اللجنة يوم الخميس لحسم ما بقي مفتوحا منذ الربيع: من يدفع ثمن الجسر؟",
    "Hindi": "समिति गुरुवार को मिली ताकि वसंत से बचे प्रश्न तय हो सकें: पुल का खर्च कौन देगा?",
    "Thai": "คณะกรรมการประชุมเมื่อวันพฤหัสบดีเพื่อตกลงเรื่องที่ค้างไว้ตั้งแต่ฤดูใบไม้ผลิใครจ่ายค่าสะพาน",
    "Python": "def toll(lorry: Lorry, *, year: int = 1931) -> Decimal:\n    return RATES[lorry.axles] * (year - 1_900)\n\n",
    "JSON": '{"id":18231,"tags":["ferry","toll"],"paid":null,"items":[{"n":1.25,"ok":true}]},',
    "Base64": "aGVsbG8gd29ybGQhIFRoaXMgaXMgYSBsaW5lIG9mIGJhc2U2NCB0ZXh0Lg+/",
    "Emoji": "🚀🌕👩🏽‍🚀✨🔥😀🎉",
}


def best_us(work: Callable[[], object], calls: int) -> float:
    found = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        found = min(found, time.perf_counter() - began)
    return found / calls * 1e6


def once_s(work: Callable[[], int]) -> tuple[float, int]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def shuffled(sample: str, rng: random.Random) -> str:
    """A text above a piece's length of the pieces of ``sample``, in random order and length."""
    size, parts = rng.randint(PIECE + 1, 5 * PIECE), []
    length = 0
    while length < size:
        start = rng.randrange(len(sample))
        part = sample[start : start + rng.randint(1, 40)]
        parts.append(part)
        length += len(part)
    return "".join(parts)[:size]


def speed(encode: Callable[[str], Sequence[int]]) -> None:
    text = (ENGLISH * 6)[:1_024]
    messages, params = [{"role": "user", "content": text}], {"max_tokens": 200, "temperature": 0.2}
    gpt, claude = tokens_for("gpt-5.2"), tokens_for("claude-opus-4-7")
    theirs = best_us(lambda: encode(text), 400)
    ours = best_us(lambda: gpt.count(messages, params), 400)
    scaled = best_us(lambda: claude.count(messages, params), 400)
    print("a prompt of 1 KB")
    print(f"  bounds                {best_us(lambda: gpt.bounds(messages, params), 4_000):8.2f} µs")
    print(f"  tiktoken alone        {theirs:8.2f} µs")
    print(f"  exact count           {ours:8.2f} µs   {ours - theirs:+.2f} µs")
    print(f"  estimate for Claude   {scaled:8.2f} µs   {scaled - theirs:+.2f} µs")


def deviation(encode: Callable[[str], Sequence[int]], strings: int) -> None:
    rng, model = random.Random(7), tokens_for("gpt-5.2")
    largest, unequal, off, total = 0.0, 0, 0, 0
    for n in range(strings):
        text = shuffled(list(SCRIPTS.values())[n % len(SCRIPTS)], rng)
        whole, pieces = len(encode(text)), model.text(text)
        unequal += whole != pieces
        off += abs(whole - pieces)
        total += whole
        largest = max(largest, abs(whole - pieces) / whole)
    print(f"{strings:,} random strings above {PIECE:,} characters in {len(SCRIPTS)} scripts")
    print(
        f"  counted otherwise than in one go: {unequal}; largest deviation {largest:.4%}, in all {off / total:.4%}"
    )


def hard_cases() -> None:
    model = tokens_for("gpt-5.2")
    mixed = "".join(SCRIPTS.values())
    print("hard cases")
    for name, text in (
        ("10 MB of mixed scripts", mixed * (10_000_000 // len(mixed.encode()))),
        ("10 MB of English", (ENGLISH * 60_000)[:10_000_000]),
        ("a million spaces", " " * 1_000_000),
        ("'a' a million times", "a" * 1_000_000),
        ("a million of Chinese", "中文" * 500_000),
        ("100,000 lone surrogates", "\ud800" * 100_000),
    ):
        took_s, tokens = once_s(lambda text=text: model.text(text))
        print(f"  {name:<26} {tokens:>10,} tokens in {took_s:6.2f} s")


def main() -> None:
    took_s, _ = once_s(lambda: encoding("o200k_base").n_vocab)
    print(f"loading o200k_base: {took_s:.2f} s")
    encode = encoding("o200k_base").encode_ordinary
    speed(encode)
    hard_cases()
    deviation(encode, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)


if __name__ == "__main__":
    main()
