"""The same checkpoints on every store: in memory, in files, in the log, and in a transaction."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import eventlog
from eventlog import (
    ConsumerDisconnectedError,
    EventLogError,
    PreconditionFailedError,
    UnexpectedOffsetError,
)
from eventlog.blobs import Blob, BlobStore
from eventlog.blobs import open as open_blobs
from eventlog.embedded.blobs import WriterBlobs
from eventlog.embedded.engine import EmbeddedLog
from eventlog.groups.checkpoints import CheckpointResetError, GroupIds, GroupStore
from tests.conftest import Start

IDS = GroupIds("log-1", "cars", "7", "fraud")

Work: TypeAlias = Callable[[BlobStore], Any]


def in_memory(_path: Path, work: Work) -> Any:
    with open_blobs("memory:") as blobs:
        return work(blobs)


def in_files(path: Path, work: Work) -> Any:
    with open_blobs(path / "blobs") as blobs:
        return work(blobs)


@contextmanager
def a_log() -> Iterator[EmbeddedLog]:
    with eventlog.open("memory:") as log:
        assert isinstance(log, EmbeddedLog)
        yield log


def in_the_log(_path: Path, work: Work) -> Any:
    with a_log() as log:
        return work(log.blobs)


def in_one_transaction(_path: Path, work: Work) -> Any:
    with a_log() as log:
        return log.commit(lambda writer: work(WriterBlobs(writer)))


EVERYWHERE = [in_memory, in_files, in_the_log, in_one_transaction]


def never(repetition: int) -> None:
    raise AssertionError("nobody comes in between, so nobody is waited for")


class Story:
    """A random story of two consumers and others; what came of each step is told."""

    def __init__(self, blobs: BlobStore, seed: int) -> None:
        self._chance = random.Random(seed)
        self._us = 1_700_000_000_000_000
        self._stores = {name: GroupStore(blobs, IDS, self._clock, never) for name in "abcd"}
        self._etags: dict[str, dict[int, str]] = {"a": {}, "b": {}}
        self._blobs = blobs

    def _clock(self) -> int:
        self._us += 700_000
        return self._us

    def tell(self) -> list[object]:
        told: list[object] = []
        for _ in range(60):
            told += [self._step(), self._stores["d"].checkpoints(), self._stores["d"].members()]
        return [*told, *_documents(self._blobs)]

    def _step(self) -> object:
        own = (self._claim, self._advance, self._advance, self._advance, self._look, self._leave)
        step = self._chance.choice([*own, self._others])
        try:
            return step(self._chance.choice("ab"), self._chance.randrange(2))
        except CheckpointResetError as error:
            return str(error)
        except (
            ConsumerDisconnectedError,
            PreconditionFailedError,
            UnexpectedOffsetError,
        ) as error:
            return type(error).__name__, str(error)

    def _claim(self, name: str, partition: int) -> object:
        checkpoint, etag = self._stores[name].claim(partition, name, 3)
        self._etags[name][partition] = etag
        return checkpoint

    def _advance(self, name: str, partition: int) -> object:
        etag, offset = self._etags[name].get(partition, "none"), self._chance.randrange(40)
        etag = self._stores[name].advance(partition, name, offset, None, etag)
        self._etags[name][partition] = etag
        return "advanced"

    def _look(self, name: str, _partition: int) -> object:
        self._etags[name] = self._stores[name].still_mine(name, self._etags[name])
        return sorted(self._etags[name])

    def _leave(self, name: str, partition: int) -> object:
        self._stores[name].release(partition, name, self._etags[name].pop(partition, "none"))
        return "left"

    def _others(self, _name: str, partition: int) -> object:
        offset = self._chance.randrange(40)
        if self._chance.random() < 0.5:
            return self._stores["c"].advance_unowned(partition, offset)
        if self._chance.random() < 0.2:
            self._stores["d"].delete()
            return "deleted"
        self._stores["d"].reset({partition: offset}, force=self._chance.random() < 0.5)
        return "reset"


def _documents(blobs: BlobStore) -> Iterator[object]:
    """All that is stored, without what is random."""
    for name, _ in blobs.list(""):
        blob = blobs.get(name)
        assert isinstance(blob, Blob)
        yield name, {**json.loads(blob.data), "group": None, "revision": None}


def story(seed: int, blobs: BlobStore) -> list[object]:
    return Story(blobs, seed).tell()


def test_a_story_is_the_same_on_every_store(tmp_path: Path) -> None:
    for seed in range(10):
        told = [place(tmp_path / str(seed), partial(story, seed)) for place in EVERYWHERE]
        assert told[0] == told[1] == told[2] == told[3]
        assert len({str(step) for step in told[0]}) > 30


def test_in_a_transaction_nothing_is_stored_if_it_fails() -> None:
    with a_log() as log:
        store = GroupStore(log.blobs, IDS)
        _, etag = store.claim(0, "a", 0)

        def work(writer: Any) -> None:
            GroupStore(WriterBlobs(writer), IDS).advance(0, "a", 5, None, etag)
            GroupStore(WriterBlobs(writer), IDS).advance_unowned(1, 5)
            raise EventLogError("no")

        with pytest.raises(EventLogError, match="no"):
            log.commit(work)
        assert store.checkpoints()[0].offset == -1
        assert list(store.checkpoints()) == [0]
        store.advance(0, "a", 5, None, etag)


RACER = """
import sys
import eventlog
from eventlog.blobs import open as open_blobs
from eventlog.groups.checkpoints import GroupIds, GroupStore
kind, place, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
log = eventlog.open(place) if kind == "log" else None
store = GroupStore(log.blobs if log else open_blobs(place), GroupIds("l", "cars", "7", "fraud"))
print("ready", flush=True)
sys.stdin.readline()
moved = 0
while True:
    found = store.checkpoint(0)
    offset = found[0].offset if found else -1
    if offset >= last:
        break
    try:
        moved += store.advance_unowned(0, offset + 1)
    except eventlog.UnexpectedOffsetError:
        pass
print(moved)
"""


@pytest.mark.parametrize("kind", ["files", "log"])
def test_processes_that_race_move_a_checkpoint_once_each_time(
    kind: str, fast_path: Path, start: Start
) -> None:
    """Nobody is told that it moved what another moved, and no move is lost."""
    if kind == "log":
        eventlog.open(fast_path).close()
    last = 60
    racers = [start(RACER, kind, fast_path, last) for _ in range(3)]
    for racer in racers:
        assert racer.line() == "ready"
    for racer in racers:
        racer.say("go")
    assert sum(int(racer.line()) for racer in racers) == last + 1
