"""A file that is watched: what is seen, what is not acted upon, and who ends it."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from client.reloads import Filed, tier, toml
from tierllm import ConfigError, TieredClient
from tierllm.client.watching import MOST_LOOKS, Watch
from tierllm.cost import prices
from tierllm.events import ConfigRejected, ConfigReloaded

OLD = toml(tier("gold", models=("old",)), tier("silver"))
NEW = toml(tier("gold", models=("new",)), tier("silver"))


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[Filed]:
    filed = Filed(tmp_path / "tierllm.toml", OLD)
    yield filed
    filed.client.close()


@pytest.fixture
def watch(filed: Filed) -> Watch:
    """One that is driven by hand, and has seen the file as it is."""
    watch = Watch(filed.client)
    assert not watch.look()
    assert not watch.look()
    return watch


def model_of(filed: Filed) -> str | None:
    return filed.client.complete("hi").model


class TestByHand:
    def test_a_change_is_acted_upon_once_it_stands_still(self, filed: Filed, watch: Watch) -> None:
        filed.write(NEW)
        assert not watch.look()  # it may still be being written
        assert model_of(filed) == "old"
        assert watch.look()
        assert model_of(filed) == "new"
        assert not watch.look()
        assert len(filed.heard(ConfigReloaded)) == 1

    def test_one_that_is_being_written_is_left_alone(self, filed: Filed, watch: Watch) -> None:
        """The first half of it would make sense: a configuration without its second tier."""
        half = NEW[: NEW.index('[[tiers]]\nname = "silver"')]
        with filed.path.open("w") as file:
            file.write(half)
            file.flush()
            assert not watch.look()
            file.write(NEW[len(half) :])
        assert not watch.look()
        assert watch.look()
        assert list(filed.client._setup.lines) == ["gold", "silver"]

    def test_half_of_it_is_refused_and_the_rest_awaited(self, filed: Filed, watch: Watch) -> None:
        filed.write(NEW[:-9])
        for _ in range(4):
            assert not watch.look()
        assert len(filed.heard(ConfigRejected)) == 1  # not again and again
        assert model_of(filed) == "old"
        filed.write(NEW)
        assert [watch.look(), watch.look()] == [False, True]

    def test_back_to_what_holds_is_no_change(self, filed: Filed, watch: Watch) -> None:
        filed.write("nonsense")
        assert not any(watch.look() for _ in range(3))
        filed.write(OLD)
        assert not any(watch.look() for _ in range(3))
        assert not filed.heard(ConfigReloaded)
        filed.write("nonsense")
        assert not any(watch.look() for _ in range(3))
        assert len(filed.heard(ConfigRejected)) == 2

    def test_touching_it_changes_nothing(self, filed: Filed, watch: Watch) -> None:
        before = filed.client._setup
        os.utime(filed.path, (1, 1))
        assert not any(watch.look() for _ in range(3))
        assert filed.client._setup is before

    def test_the_same_time_and_size_are_not_the_same_file(self, filed: Filed, watch: Watch) -> None:
        was = filed.path.stat()
        other = filed.path.with_name("other")
        other.write_text(NEW)
        os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert other.stat().st_size == was.st_size
        os.replace(other, filed.path)
        assert [watch.look(), watch.look()] == [False, True]
        assert model_of(filed) == "new"

    def test_a_link_that_is_turned_is_seen(self, tmp_path: Path) -> None:
        """As a mounted ConfigMap changes."""
        for name, text in (("one", OLD), ("two", NEW)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "tierllm.toml").write_text(text)
        (tmp_path / "data").symlink_to("one")
        with TieredClient.from_file(tmp_path / "data" / "tierllm.toml") as client:
            watch = Watch(client)
            assert [watch.look(), watch.look()] == [False, False]
            (tmp_path / "next").symlink_to("two")
            os.replace(tmp_path / "next", tmp_path / "data")
            assert [watch.look(), watch.look()] == [False, True]
            assert client.complete("hi").model == "new"

    def test_one_that_is_gone_is_told_of_once(
        self, filed: Filed, watch: Watch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="tierllm")
        filed.path.unlink()
        for _ in range(3):
            assert not watch.look()
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert "the configuration stays as it was" in caplog.text
        assert model_of(filed) == "old"
        filed.write(OLD)
        assert not any(watch.look() for _ in range(3))
        filed.path.unlink()
        assert not watch.look()
        assert [r.levelname for r in caplog.records if "cannot be read" in r.message] == ["WARNING"] * 2
        filed.write(NEW)
        assert [watch.look(), watch.look()] == [False, True]

    def test_a_directory_in_its_place(self, filed: Filed, watch: Watch) -> None:
        filed.path.unlink()
        filed.path.mkdir()
        assert not any(watch.look() for _ in range(3))
        filed.path.rmdir()
        filed.write(NEW)
        assert [watch.look(), watch.look()] == [False, True]

    def test_it_follows_the_client_to_another_file(self, filed: Filed, watch: Watch, tmp_path: Path) -> None:
        other = tmp_path / "other.toml"
        other.write_text(OLD)
        filed.client.reload(other)
        assert not any(watch.look() for _ in range(2))
        filed.write(NEW)
        assert not any(watch.look() for _ in range(3))
        other.write_text(NEW)
        assert [watch.look(), watch.look()] == [False, True]

    def test_what_was_written_before_it_looked_is_seen(self, filed: Filed) -> None:
        filed.write(NEW)
        watch = Watch(filed.client)
        assert [watch.look(), watch.look()] == [False, True]

    def test_it_goes_by_the_very_bytes_that_it_looked_at(
        self, filed: Filed, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half of it is saved again between a look and the reload: it makes sense, and is not taken."""
        half = NEW[: NEW.index('[[tiers]]\nname = "silver"')]
        filed.write(NEW)
        assert not watch.look()
        act = Watch._act

        def acting(self: Watch, *given: Any) -> bool:
            filed.write(half)
            return act(self, *given)

        with monkeypatch.context() as patched:
            patched.setattr(Watch, "_act", acting)
            assert watch.look()
        assert list(filed.client._setup.lines) == ["gold", "silver"]
        filed.write(NEW)
        assert not any(watch.look() for _ in range(3))
        assert list(filed.client._setup.lines) == ["gold", "silver"]

    def test_one_that_is_written_to_while_it_is_read_is_read_again(
        self, filed: Filed, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        half = NEW[: NEW.index('[[tiers]]\nname = "silver"')]
        filed.write(half)
        assert not watch.look()
        read = Path.read_bytes

        def reading(path: Path) -> bytes:
            content = read(path)
            filed.write(NEW)
            return content

        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", reading)
            assert not watch.look()
        assert watch.look()
        assert list(filed.client._setup.lines) == ["gold", "silver"]

    def test_what_a_reload_by_hand_has_read_is_no_news(self, filed: Filed, watch: Watch) -> None:
        """Nor is it taken for what the file says: half of it was read by hand, the rest came after."""
        filed.write(NEW)
        assert [watch.look(), watch.look()] == [False, True]
        filed.write(NEW[: NEW.index('[[tiers]]\nname = "silver"')])
        filed.client.reload()
        filed.write(NEW)
        assert [watch.look(), watch.look()] == [False, True]
        assert list(filed.client._setup.lines) == ["gold", "silver"]
        filed.write(OLD)
        filed.client.reload()
        told = len(filed.heard(ConfigReloaded))
        assert not any(watch.look() for _ in range(3))
        assert len(filed.heard(ConfigReloaded)) == told

    def test_written_in_place_with_the_time_set_back(self, filed: Filed, watch: Watch) -> None:
        was = filed.path.stat()
        filed.write(NEW)
        os.utime(filed.path, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert filed.path.stat().st_size == was.st_size
        assert [watch.look(), watch.look()] == [False, True]

    def test_what_lacks_something_else_is_tried_again(self, filed: Filed, watch: Watch) -> None:
        filed.write(f'{NEW}\n[prices]\nfile = "prices.json"\n')
        assert not any(watch.look() for _ in range(40))
        assert len(filed.heard(ConfigRejected)) == 1  # the same is not told of again
        bundled = Path(prices.__file__).with_name("prices.json")
        filed.path.with_name("prices.json").write_bytes(bundled.read_bytes())
        assert any(watch.look() for _ in range(MOST_LOOKS))
        assert model_of(filed) == "new"

    def test_it_is_tried_less_and_less_often(
        self, filed: Filed, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        acted: list[int] = []
        act, looks = Watch._act, 0

        def acting(self: Watch, *given: Any) -> bool:
            acted.append(looks)
            return act(self, *given)

        monkeypatch.setattr(Watch, "_act", acting)
        filed.write(f'{NEW}\n[prices]\nfile = "prices.json"\n')
        for looks in range(300):  # noqa: B007  what is acted in
            watch.look()
        between = [later - earlier for earlier, later in pairwise(acted)]
        assert between == [2, 4, 8, 16, 32, 64, 64, 64]

    def test_a_listener_may_look(self, filed: Filed, watch: Watch) -> None:
        seen: list[bool] = []
        filed.also = lambda event: seen.append(watch.look())
        filed.write(NEW)
        looking = threading.Thread(target=lambda: [watch.look(), watch.look()], daemon=True)
        looking.start()
        looking.join(10)
        assert not looking.is_alive()
        assert seen == [False]
        assert model_of(filed) == "new"

    def test_a_closed_client_ends_it(self, filed: Filed, watch: Watch) -> None:
        filed.client.close()
        filed.write(NEW)
        assert not any(watch.look() for _ in range(3))
        assert not filed.heard(ConfigReloaded)

    @pytest.mark.parametrize("every_s", [0, -1, float("nan"), float("inf"), True, "2"])
    def test_nonsense(self, filed: Filed, every_s: float) -> None:
        with pytest.raises(ConfigError, match="every_s"):
            filed.client.watch(every_s)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "tierllm-watch"]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not true():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


class TestByItself:
    def test_a_thread_looks(self, tmp_path: Path) -> None:
        path = tmp_path / "tierllm.toml"
        path.write_text(OLD)
        client = TieredClient.from_file(path, watch=0.005)
        path.write_text(NEW)
        until(lambda: client.complete("hi").model == "new")
        path.write_text("nonsense")
        threading.Event().wait(0.05)
        assert client.complete("hi").model == "new"
        path.write_text(OLD)
        until(lambda: client.complete("hi").model == "old")
        client.close()
        until(lambda: not threads())

    def test_watching_twice_is_watching_once(self, filed: Filed) -> None:
        filed.client.watch(0.005)
        second = filed.client.watch(0.005)
        until(lambda: len(threads()) == 1)
        second.close()
        until(lambda: not threads())

    def test_it_keeps_no_client_alive(self, tmp_path: Path) -> None:
        path = tmp_path / "tierllm.toml"
        path.write_text(OLD)
        client = TieredClient.from_file(path, watch=0.005)
        ref = weakref.ref(client)
        del client
        gc.collect()
        until(lambda: ref() is None)
        until(lambda: not threads())

    def test_a_file_that_makes_no_sense_leaves_no_thread(self, tmp_path: Path) -> None:
        path = tmp_path / "tierllm.toml"
        path.write_text(OLD)
        with pytest.raises(ConfigError, match="every_s"):
            TieredClient.from_file(path, watch=-1.0)
        assert not threads()

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_watches_too(self, tmp_path: Path) -> None:
        path = tmp_path / "tierllm.toml"
        path.write_text(OLD)
        client = TieredClient.from_file(path, watch=0.01)
        fork = multiprocessing.get_context("fork")
        ready, seen = fork.Event(), fork.Event()

        def child() -> None:
            ready.set()
            end = time.monotonic() + 10
            while time.monotonic() < end:
                if client.complete("hi").model == "new":
                    seen.set()
                    return
                threading.Event().wait(0.01)

        process = fork.Process(target=child)
        process.start()
        assert ready.wait(10)
        path.write_text(NEW)
        assert seen.wait(10)
        process.join(10)
        until(lambda: client.complete("hi").model == "new")
        client.close()
