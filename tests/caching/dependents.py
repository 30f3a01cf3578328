"""Answers that rest on documents, a model of which of them are valid, and processes that ask for them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from caching.kept import one_tier
from stores.ground import SPAWN, eventually
from tierllm import TieredClient
from tierllm.caching import DiskLayer, MemoryLayer, RedisLayer, ResultCache
from tierllm.caching.layer import Layer
from tierllm.errors import CacheMissError
from tierllm.testing import FakeProvider

PROCESSES = 4
BYTES = 2**27


def layers_at(places: Sequence[str]) -> list[Layer]:
    """Layers by their places: ``"memory"``, a Redis URL, or a directory."""
    made: list[Layer] = []
    for place in places:
        if place == "memory":
            made.append(MemoryLayer(max_bytes=BYTES, max_entries=100_000))
        elif "://" in place:
            made.append(RedisLayer(place, timeout_s=20, max_bytes=BYTES))
        else:
            made.append(DiskLayer(place, timeout_s=20, max_bytes=BYTES))
    return made


@dataclass
class Dependents:
    """Questions, each of which rests on 1 to 5 of the documents, and the documents' present contents."""

    questions: int
    documents: int
    seed: int = 1
    rests: list[tuple[str, ...]] = field(default_factory=list)
    contents: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = Random(self.seed)
        names = [f"doc:{n}" for n in range(self.documents)]
        self.rests = [tuple(rng.sample(names, rng.randint(1, 5))) for _ in range(self.questions)]
        self.contents = dict.fromkeys(names, 1)

    def of(self, document: str) -> set[int]:
        """The questions whose answers rest on ``document``."""
        return {n for n, rests in enumerate(self.rests) if document in rests}

    def told(self, question: int) -> dict[str, int]:
        return {name: self.contents[name] for name in self.rests[question]}

    def fill(self, client: TieredClient) -> None:
        for n in range(self.questions):
            client.complete(f"question {n}", depends_on=self.told(n))

    def missed(self, client: TieredClient) -> set[int]:
        """The questions that the cache cannot answer."""
        missed = set()
        for n in range(self.questions):
            try:
                response = client.complete(f"question {n}", depends_on=self.told(n), cache="only")
            except CacheMissError:
                missed.add(n)
            else:
                assert response.cached
        return missed


def client_at(places: Sequence[str]) -> TieredClient:
    return TieredClient(one_tier(FakeProvider(journal_size=1)), cache=ResultCache(layers_at(places)))


class Asker:
    """A client in another process."""

    def __init__(self, places: Sequence[str], model: Dependents) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=asker, args=(places, model.questions, model.documents, theirs))
        self.process.start()

    def begin(self, what: str, value: object = None) -> None:
        self.pipe.send((what, value))

    def end(self) -> Any:
        assert self.pipe.poll(300), "the other process does not answer"
        told = self.pipe.recv()
        if isinstance(told, BaseException):
            raise told
        return told

    def do(self, what: str, value: object = None) -> Any:
        self.begin(what, value)
        return self.end()

    def stop(self) -> None:
        self.pipe.send(("stop", None))
        self.process.join(30)
        if self.process.is_alive():
            self.process.kill()


def asker(places: Sequence[str], questions: int, documents: int, pipe: Connection) -> None:
    model = Dependents(questions, documents)
    with client_at(places) as client:
        cache = client.cache

        def heard(numbers: Sequence[int]) -> None:
            """Wait for what another process posted: Redis tells of it a moment later."""
            layers = cache.boards.layers
            eventually(lambda: all(layer.heard() >= n for layer, n in zip(layers, numbers, strict=True)))

        def posted(done: None) -> list[int]:
            return [layer.heard() for layer in cache.boards.layers]

        doing: dict[str, Callable[[Any], Any]] = {
            "contents": model.contents.update,
            "fill": lambda _: model.fill(client),
            "missed": lambda _: model.missed(client),
            "changed": lambda documents: posted(cache.changed(documents)),
            "invalidate": lambda named: posted(cache.invalidate(**named)),
            "heard": heard,
        }
        while True:
            what, value = pipe.recv()
            if what == "stop":
                return
            try:
                pipe.send(doing[what](value))
            except Exception as error:
                pipe.send(error)


@contextmanager
def askers(places: Sequence[str], model: Dependents) -> Iterator[list[Asker]]:
    made: list[Asker] = []
    try:
        while len(made) < PROCESSES:
            made.append(Asker(places, model))
        yield made
    finally:
        for each in made:
            each.stop()


def in_one_process(places: Sequence[str], questions: int, documents: int) -> dict[str, int]:
    """Documents change one after the other: exactly their dependents miss. How many did, by what was done."""
    model = Dependents(questions, documents)
    told: dict[str, int] = {}
    with client_at(places) as client:
        model.fill(client)
        assert model.missed(client) == set()

        model.contents["doc:0"] = 2
        expected = model.of("doc:0")
        assert expected
        assert model.missed(client) == expected
        told["presented"] = len(expected)
        model.fill(client)
        assert model.missed(client) == set()

        client.cache.changed({"doc:1": 2})  # but callers still have the old content
        assert model.missed(client) == model.of("doc:1")
        model.contents["doc:1"] = 2
        assert model.missed(client) == model.of("doc:1")
        told["changed"] = len(model.of("doc:1"))
        model.fill(client)
        client.cache.changed({"doc:1": 2})
        assert model.missed(client) == set(), "they rest on this very content"

        client.cache.invalidate(document="doc:2")
        assert model.missed(client) == model.of("doc:2")
        told["invalidated"] = len(model.of("doc:2"))
        model.fill(client)
        assert model.missed(client) == set()
    return told


def in_processes(places: Sequence[str], questions: int, documents: int) -> dict[str, int]:
    """The same, done by one of several processes and seen by all, each with what it has in memory."""
    model = Dependents(questions, documents)
    told: dict[str, int] = {}
    with askers(places, model) as all_of_them:
        first, others = all_of_them[0], all_of_them[1:]

        def everybody(what: str, value: object = None) -> list[Any]:
            for each in all_of_them:
                each.begin(what, value)
            return [each.end() for each in all_of_them]

        def all_miss(expected: set[int], how: str) -> None:
            for at, missed in enumerate(everybody("missed")):
                wrong = missed ^ expected
                assert not wrong, (how, f"process {at}", len(missed), len(expected), sorted(wrong)[:5])
            told[how] = len(expected)

        first.do("fill")
        all_miss(set(), "warm")  # from now on each has them in its memory, if it has one

        everybody("contents", {"doc:0": 2})
        all_miss(model.of("doc:0"), "presented")
        others[0].do("fill")
        all_miss(set(), "presented, and made anew")

        everybody("heard", others[1].do("changed", {"doc:1": 2}))
        all_miss(model.of("doc:1"), "changed")
        everybody("contents", {"doc:1": 2})
        first.do("fill")
        all_miss(set(), "changed, and made anew")

        everybody("heard", others[2].do("invalidate", {"document": "doc:2"}))
        all_miss(model.of("doc:2"), "invalidated")
        others[1].do("fill")
        all_miss(set(), "invalidated, and made anew")
    return told
