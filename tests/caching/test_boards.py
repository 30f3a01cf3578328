"""What is invalidated goes onto all boards, is read from them, and is owed to those out of reach."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from caching.kept import FarLayer, boards_on, entry_of
from tierllm.caching import boards as module
from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.layer import MOST_NOTICES
from tierllm.caching.memory_layer import MemoryLayer
from tierllm.caching.notices import name_of
from tierllm.errors import StoreUnavailableError

SLOT = bytes(32)
ALL = (name_of("all"), None)
TAG = (name_of("tag", "a"), None)


def tagged(generation: int) -> object:
    return entry_of(generation=generation, tags=("a",))


def test_without_shared_layers_all_stays_here() -> None:
    boards = boards_on(MemoryLayer())
    number = boards.post([TAG])
    assert not boards.behind
    assert not boards.owes
    assert boards.catch_up()
    assert not boards.notices.allow(tagged(number - 1), SLOT)  # type: ignore[arg-type]
    assert boards.notices.allow(tagged(number), SLOT)  # type: ignore[arg-type]


def test_numbers_grow_though_the_clock_stands_still_or_is_set_back() -> None:
    now = [100.0]
    boards = boards_on(MemoryLayer(), wall=lambda: now[0])
    numbers = []
    for at in (100.0, 100.0, 50.0, 0.0, 200.0):
        now[0] = at
        numbers.append(boards.post([TAG]))
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 100_000
    assert numbers[-1] == 200_000


def test_another_processes_notices_are_heard_and_read_once() -> None:
    far = FarLayer()
    here, there = boards_on(far), boards_on(far)
    assert not here.behind
    number = there.post([TAG])
    assert here.behind
    assert here.catch_up()
    assert not here.behind
    assert here.notices.number == number
    reads = far.reads
    assert here.catch_up()
    assert far.reads == reads, "nothing was new"


def test_a_board_that_cannot_be_read_leaves_all_in_doubt() -> None:
    far = FarLayer()
    here, there = boards_on(far), boards_on(far)
    there.post([TAG])
    far.away = True
    assert not here.catch_up()
    assert here.behind
    far.away = False
    assert here.catch_up()
    assert not here.behind


def test_out_of_reach_it_holds_here_at_once_and_is_told_when_it_is_back() -> None:
    far = FarLayer()
    here, there = boards_on(far), boards_on(far)
    far.away = True
    with pytest.raises(StoreUnavailableError, match=r"out of reach.*holds here.*told there as soon as"):
        here.post([TAG])
    assert here.owes
    assert not here.notices.allow(tagged(here.notices.number - 1), SLOT)  # type: ignore[arg-type]
    assert here.catch_up(), "nothing that was heard is unread"
    assert here.owes
    far.away = False
    assert here.catch_up()
    assert not here.owes
    assert there.behind
    assert there.catch_up()
    assert not there.notices.allow(tagged(0), SLOT)  # type: ignore[arg-type]


def test_the_next_invalidation_tells_what_is_owed_first() -> None:
    far = FarLayer()
    here = boards_on(far)
    far.away = True
    with pytest.raises(StoreUnavailableError):
        here.post([TAG])
    far.away = False
    here.post([(name_of("tag", "b"), None)])
    assert not here.owes
    assert set(far.notices) == {name_of("tag", "a"), name_of("tag", "b")}


def test_one_layer_out_of_reach_keeps_nothing_from_the_others() -> None:
    near, far = FarLayer("near"), FarLayer("far")
    here = boards_on(near, far)
    near.away = True
    with pytest.raises(StoreUnavailableError, match="near"):
        here.post([TAG])
    assert set(far.notices) == {TAG[0]}
    near.away, far.away = False, True
    with pytest.raises(StoreUnavailableError, match="far"):
        here.post([ALL])
    assert set(near.notices) == {TAG[0], ALL[0]}


def test_what_one_board_says_is_put_onto_those_below_it() -> None:
    near, far = FarLayer("near"), FarLayer("far")
    boards_on(near).post([TAG])
    here = boards_on(near, far)
    assert here.catch_up()
    assert set(far.notices) == {TAG[0]}
    posts = far.posts
    assert here.catch_up()
    assert far.posts == posts, "it is told once"
    near.number += 1
    near.notices["[]"] = near.notices[TAG[0]]._replace(name="[]", number=near.number)
    far.away = True
    here.catch_up()
    assert here.owes
    far.away = False
    here.catch_up()
    assert "[]" in far.notices


def test_what_all_boards_say_is_not_said_again() -> None:
    """Each telling has a new number, which what was made since is older than."""
    near, far = FarLayer("near"), FarLayer("far")
    number = boards_on(near, far).post([TAG])
    for _ in range(3):
        process = boards_on(near, far)
        assert process.catch_up()
        assert process.notices.number == number
        assert process.notices.allow(tagged(number), SLOT)  # type: ignore[arg-type]
    assert (near.posts, far.posts) == (1, 1)


@pytest.mark.parametrize("most", [10, MOST_NOTICES])
def test_whoever_has_missed_too_much_is_told_of_everything(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_NOTICES", most)
    far = FarLayer()
    here, there = boards_on(far), boards_on(far)
    far.away = True
    names = [(name_of("document", f"d{n}"), None) for n in range(most + 1)]
    with pytest.raises(StoreUnavailableError):
        here.post(names[:-1])
    with pytest.raises(StoreUnavailableError):
        here.post(names[:-1])  # the same again is no more
    assert len(here._owed[0]) <= 2 * most
    with pytest.raises(StoreUnavailableError):
        here.post(names[-1:])
    far.away = False
    here.catch_up()
    there.catch_up()
    for n in (0, most):
        entry = entry_of(generation=0, depends=((f"d{n}", "0" * 64),))
        assert not there.notices.allow(entry, SLOT), n


def test_more_names_than_a_board_holds(tmp_path: Path) -> None:
    layers = [DiskLayer(tmp_path / "cache", timeout_s=20) for _ in range(2)]
    here, there = (boards_on(each) for each in layers)
    number = here.post([(name_of("document", f"d{n}"), None) for n in range(MOST_NOTICES + 1)])
    assert there.catch_up()
    for boards in (here, there):
        for n in (0, 1, MOST_NOTICES // 2, MOST_NOTICES):
            entry = entry_of(generation=0, depends=((f"d{n}", "0" * 64),))
            assert not boards.notices.allow(entry, SLOT)
            assert boards.notices.allow(entry._replace(generation=number), SLOT)
    for each in layers:
        each.close()


def test_posting_and_catching_up_from_many_threads_loses_nothing() -> None:
    far = FarLayer()
    all_boards = [boards_on(far) for _ in range(4)]

    def work(at: int) -> None:
        for n in range(100):
            all_boards[at].post([(name_of("tag", f"{at}:{n}"), None)])
            all_boards[n % 4].catch_up()

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for boards in all_boards:
        assert boards.catch_up()
        assert not boards.behind
        for at in range(4):
            for n in range(100):
                assert not boards.notices.allow(entry_of(generation=0, tags=(f"{at}:{n}",)), SLOT)


def test_a_child_process_reads_on_though_its_parent_was_reading() -> None:
    boards = boards_on(FarLayer())
    boards._lock.acquire()
    boards.renew()
    assert boards.catch_up()
