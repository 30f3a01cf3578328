"""What layers that processes share promise beside: a board of notices, claims, and a look at everything."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.ground import SPAWN, Server, eventually
from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.layer import Layer, Notice
from tierllm.caching.redis_layer import RedisLayer

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))

Open = Callable[[], Layer]


def opened(place: str) -> Layer:
    if "://" in place:
        return RedisLayer(place, timeout_s=20, max_bytes=2**24)
    return DiskLayer(place, timeout_s=20, max_bytes=2**24)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        server = Server(Path(directory))
        yield server
        server.stop()


@pytest.fixture(params=["disk", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "cache")
    server: Server = request.getfixturevalue("server")
    with server.client() as client:
        client.flushall()
    return server.url


@pytest.fixture
def open_one(place: str) -> Iterator[Open]:
    layers: list[Layer] = []

    def open_one() -> Layer:
        layers.append(opened(place))
        return layers[-1]

    yield open_one
    for each in layers:
        each.close()


@pytest.fixture
def layer(open_one: Open) -> Layer:
    return open_one()


def names(layer: Layer, since: int = 0) -> list[str]:
    return sorted(notice.name for notice in layer.board(since).notices)


# -- the board -------------------------------------------------------------------------


def test_a_board_that_nobody_posted_to_is_empty(layer: Layer) -> None:
    layer.set(A, b"a", ttl_s=60)
    assert layer.heard() == 0
    assert layer.board() == (0, 0, ())


def test_what_was_posted_is_on_the_board_of_everybody(layer: Layer, open_one: Open) -> None:
    other = open_one()
    other.heard()
    number = layer.post([Notice("doc:42", 0, "hash"), Notice("tag:ä \ud800\n'\x00", 0)])
    assert number > 0
    assert layer.heard() == number
    eventually(lambda: other.heard() == number)
    for each in (layer, other):
        board = each.board()
        assert (board.number, board.floor) == (number, 0)
        assert sorted(board.notices) == [
            ("doc:42", number, "hash"),
            ("tag:ä \ud800\n'\x00", number, None),
        ]


def test_numbers_grow_whoever_posts(open_one: Open) -> None:
    one, two = open_one(), open_one()
    numbers = [(one, two)[n % 2].post([Notice(f"n{n % 3}", 0)]) for n in range(20)]
    assert numbers == sorted(set(numbers))


def test_a_number_that_was_asked_for_is_given_and_never_a_lower_one(layer: Layer) -> None:
    far = layer.post([Notice("a", 0)]) + 10**9
    assert layer.post([Notice("b", far), Notice("c", 7)]) == far
    after = layer.post([Notice("d", 5)])
    assert after > far
    assert {each.name: each.number for each in layer.board().notices if each.name != "a"} == {
        "b": far,
        "c": far,
        "d": after,
    }


def test_the_board_since(layer: Layer) -> None:
    first = layer.post([Notice("a", 0), Notice("b", 0)])
    second = layer.post([Notice("c", 0)])
    assert names(layer) == ["a", "b", "c"]
    assert names(layer, first - 1) == ["a", "b", "c"]
    assert names(layer, first) == ["c"]
    assert layer.board(second) == (second, 0, ())


def test_a_name_that_is_posted_again_is_there_once(layer: Layer, open_one: Open) -> None:
    layer.post([Notice("a", 0, "old"), Notice("b", 0)])
    number = layer.post([Notice("a", 0, "new")])
    for each in (layer, open_one()):
        assert names(each) == ["a", "b"]
        assert each.board(number - 1).notices == (("a", number, "new"),)
    number = layer.post([Notice("a", 0)])
    assert layer.board(number - 1).notices == (("a", number, None),)


def test_a_board_that_is_full_sums_up_its_older_half(
    place: str, open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in list(sys.modules.values()):
        if module.__name__.startswith("tierllm.caching.") and hasattr(module, "MOST_NOTICES"):
            monkeypatch.setattr(module, "MOST_NOTICES", 20)
    layer, other = open_one(), open_one()
    posted = {f"n{n}": layer.post([Notice(f"n{n}", 0)]) for n in range(50)}
    eventually(lambda: other.heard() == posted["n49"])
    for each in (layer, other, open_one()):
        board = each.board()
        assert board.number == posted["n49"]
        there = {notice.name: notice.number for notice in board.notices}
        assert 10 <= len(there) <= 20
        assert there.items() <= posted.items()
        gone = [number for name, number in posted.items() if name not in there]
        assert board.floor == max(gone)


def post_some(place: str, name: str, told: Connection) -> None:
    layer = opened(place)
    told.send([layer.post([Notice(f"{name}:{n % 10}", 0)]) for n in range(40)])
    told.recv()
    told.send(layer.board())
    layer.close()


def test_processes_agree(place: str, layer: Layer) -> None:
    workers = [started(post_some, place, f"p{n}") for n in range(3)]
    numbers = [number for _, here in workers for number in received(here)]
    assert len(set(numbers)) == 120
    mine = layer.board()
    assert mine.number == max(numbers)
    eventually(lambda: layer.heard() == mine.number)
    for worker, here in workers:
        here.send(None)
        theirs = received(here)
        assert (theirs.number, theirs.floor) == (mine.number, 0)
        assert sorted(theirs.notices) == sorted(mine.notices)
        worker.join()
    assert names(layer) == sorted(f"p{p}:{n}" for p in range(3) for n in range(10))


POSTS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.lists(
            st.tuples(st.sampled_from("abcdef"), st.integers(0, 40), st.none() | st.text(max_size=3)),
            min_size=1,
            max_size=4,
            unique_by=lambda each: each[0],
        ),
    ),
    max_size=12,
)


@given(posts=POSTS, since=st.integers(0, 12))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_board_says_what_a_dictionary_says(
    layer: Layer, open_one: Open, posts: list[tuple[int, list[tuple[str, int, str | None]]]], since: int
) -> None:
    """Whoever posts, and whoever reads from where he has read before."""
    layers = (layer, open_one())
    began = layer.board().number
    model: dict[str, tuple[int, str | None]] = {}
    last, numbers = began, [began]
    for who, notices in posts:
        asked = [Notice(name, began + ahead if ahead else 0, content) for name, ahead, content in notices]
        number = layers[who].post(asked)
        assert number > last
        assert number >= max(each.number for each in asked)
        last = number
        numbers.append(number)
        model |= {name: (number, content) for name, _, content in notices}
    at = numbers[min(since, len(numbers) - 1)]
    for each in layers:
        board = each.board(at)
        found = {name: (number, content) for name, number, content in board.notices}
        assert found == {name: said for name, said in model.items() if said[0] > at}
        assert board.number == last


# -- claims ----------------------------------------------------------------------------


def test_one_claim_at_a_time(layer: Layer, open_one: Open) -> None:
    other = open_one()
    assert layer.claim(A, b"me", 60)
    assert not other.claim(A, b"you", 60)
    assert other.claim(B, b"you", 60)
    other.release(A, b"you")  # not his
    assert not layer.claim(A, b"you", 60)
    layer.release(A, b"me")
    layer.release(A, b"me")
    assert other.claim(A, b"you", 60)
    assert not layer.claim(A, b"me", 60)


def test_a_claim_runs_out_and_may_be_extended(layer: Layer, open_one: Open) -> None:
    other = open_one()
    assert layer.claim(A, b"me", 0.1)
    assert layer.claim(B, b"me", 0.1)
    assert layer.claim(B, b"me", 60)
    eventually(lambda: other.claim(A, b"you", 60))
    layer.release(A, b"me")  # his no more
    assert not layer.claim(A, b"me", 60)
    assert not other.claim(B, b"you", 60)


def test_claims_are_no_entries(layer: Layer) -> None:
    layer.set(A, b"a", ttl_s=60)
    assert layer.claim(A, b"\x00me\xff", 60)
    assert layer.claim(B, b"\x00me\xff", 60)
    assert layer.stats().entries == 1
    assert layer.get(B) is None
    assert dict(layer.scan()) == {A: b"a"}
    layer.delete(B)
    layer.clear("")
    layer.clear()
    assert layer.stats().entries == 0
    assert not layer.claim(A, b"you", 60)
    assert not layer.claim(B, b"you", 60)


def test_of_threads_one_at_a_time_has_it(layer: Layer) -> None:
    inside = threading.Semaphore(1)
    wrong: list[object] = []
    had: list[int] = []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        owner = b"%d" % number
        start.wait()
        try:
            for _ in range(25):
                if layer.claim(A, owner, 60):
                    had.append(number)
                    if not inside.acquire(blocking=False):
                        wrong.append(number)
                    else:
                        inside.release()
                    layer.release(A, owner)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert had


def claim_again_and_again(place: str, mark: str, told: Connection) -> None:
    layer = opened(place)
    owner = b"%d" % os.getpid()
    had = wrong = 0
    while had < 15:
        if layer.claim(A, owner, 60):
            had += 1
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                os.unlink(mark)
            except FileExistsError:
                wrong += 1
            layer.release(A, owner)
    layer.close()
    told.send((had, wrong))


def test_of_processes_one_at_a_time_has_it(place: str, tmp_path: Path) -> None:
    workers = [started(claim_again_and_again, place, str(tmp_path / "mark")) for _ in range(4)]
    for worker, here in workers:
        assert received(here) == (15, 0)
        worker.join()


def claim_and_wait(place: str, lease_s: float, told: Connection) -> None:
    told.send(opened(place).claim(A, b"the one that is killed", lease_s))
    threading.Event().wait()


def test_the_claim_of_a_process_that_is_killed_ends(place: str, layer: Layer) -> None:
    worker, here = started(claim_and_wait, place, 2.0)
    assert received(here)
    assert not layer.claim(A, b"me", 60)
    os.kill(worker.pid or 0, signal.SIGKILL)
    eventually(lambda: layer.claim(A, b"me", 60))
    worker.join()


# -- scan ------------------------------------------------------------------------------


def test_a_scan_finds_all_that_is_there_once(layer: Layer, open_one: Open) -> None:
    there = {b"%d" % n * 8: b"data %d" % n * (n % 40) for n in range(350)}
    for slot, data in there.items():
        layer.set(slot, data, ttl_s=60, group=f"g{len(data) % 3}")
    layer.set(B, b"gone", ttl_s=60)
    layer.delete(B)
    layer.set(C, b"never there", ttl_s=0)
    found = list(open_one().scan())
    assert len(found) == 350
    assert dict(found) == there


def test_a_scan_goes_on_while_entries_come_and_go(layer: Layer) -> None:
    for n in range(300):
        layer.set(b"%d" % n, b"old", ttl_s=60)
    found = {}
    for at, (slot, data) in enumerate(layer.scan()):
        assert slot not in found
        found[slot] = data
        if at == 0:
            for n in range(300):
                if n % 2:
                    layer.delete(b"%d" % n)
            for n in range(300, 400):
                layer.set(b"%d" % n, b"new", ttl_s=60)
    assert {b"%d" % n for n in range(0, 300, 2)} <= set(found)
    assert len([slot for slot in found if int(slot) < 300 and int(slot) % 2]) <= 1


def test_a_scan_of_nothing_and_one_that_is_left(layer: Layer) -> None:
    assert list(layer.scan()) == []
    for n in range(5):
        layer.set(b"%d" % n, b"x", ttl_s=60)
    assert next(iter(layer.scan()))[1] == b"x"
    layer.clear()
    assert list(layer.scan()) == []


# -- processes -------------------------------------------------------------------------


def started(work: Callable[..., None], *args: object) -> tuple[BaseProcess, Connection]:
    here, there = SPAWN.Pipe()
    worker = SPAWN.Process(target=work, args=(*args, there), daemon=True)
    worker.start()
    there.close()
    return worker, here


def received(here: Connection) -> Any:
    assert here.poll(60)
    return here.recv()
