"""Processes killed and stopped at random moments, and what the others and the next ones find.

Writers label their events, and print what was acknowledged. `audit` holds the log to it; other
tests that lose power or processes use both.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import lmdb.verify
import pytest

import eventlog
from eventlog import EventLog, LogBusyError, Topic
from eventlog.embedded import commit
from tests.conftest import seed_of_today

if TYPE_CHECKING:
    from tests.conftest import Child, Start

TOPIC = "witnessed"

# ---- Witnesses: labelled events, promises, and the audit -----------------------------------------


class Label(NamedTuple):
    """What a witness writes into each event: event `index` of the `size` of its `batch`."""

    writer: str
    batch: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    size: int

    def body(self, filler: bytes = b"") -> bytes:
        """The event's body."""
        return b"%s/%d/%d/%d/" % (self.writer.encode(), *self[1:]) + filler

    @classmethod
    def of(cls, body: bytes) -> Label:
        """The inverse."""
        writer, *numbers, _ = body.split(b"/", 4)
        return cls(writer.decode(), *map(int, numbers))


class Promise(NamedTuple):
    """An acknowledged batch: where its events are."""

    writer: str
    batch: int
    places: tuple[tuple[int, int, int], ...]  # partition, offset, count

    def __str__(self) -> str:
        places = " ".join(f"{place[0]}:{place[1]}:{place[2]}" for place in self.places)
        return f"{self.writer} {self.batch} {places}"

    @classmethod
    def of(cls, line: str) -> Promise:
        """The inverse of `str`."""
        writer, batch, *places = line.split(" ")
        parts = (tuple(map(int, place.split(":"))) for place in places)
        return cls(writer, int(batch), tuple((p, o, c) for p, o, c in parts))


Contents = Mapping[int, list[Label | None]]
"""Partitions with the label at each offset; None where the event has expired."""


def append_witnessed(topic: Topic, writer: str, batch: int, rng: random.Random) -> Promise:
    """Append a batch of random size, over one partition or several."""
    size = rng.choice((1, 1, 1, 2, 20, 100))
    filler = rng.randbytes(rng.choice((0, 0, 0, 0, 300, 20_000 // size)))
    events = [
        eventlog.Event(
            Label(writer, batch, index, size).body(filler),
            key=str(index % 5) if batch % 3 == 0 else None,
        )
        for index in range(size)
    ]
    receipts = topic.append_batch(events)
    return Promise(writer, batch, tuple((r.partition, r.offset, r.count) for r in receipts))


def read_partition(topic: Topic, partition: int) -> Iterator[tuple[int, bytes]]:
    """All events of a partition, fetch by fetch: offset and body."""
    at = topic.partition_info(partition).beginning_offset
    while events := topic.read(partition, at, max_events=5000):
        yield from ((event.offset, event.body) for event in events)
        at = events[-1].offset + 1


def contents(topic: Topic) -> Contents:
    """What is there; an offset that is not the next one is an error."""
    found: dict[int, list[Label | None]] = {}
    for partition in range(topic.partitions):
        info = topic.partition_info(partition)
        labels: list[Label | None] = [None] * info.beginning_offset
        for offset, body in read_partition(topic, partition):
            assert offset == len(labels), f"partition {partition}: {offset} after {len(labels) - 1}"
            labels.append(Label.of(body))
        assert len(labels) == info.next_offset
        found[partition] = labels
    return found


def audit(found: Contents, promises: Iterable[Promise]) -> list[str]:
    """Whatever is wrong: a broken promise, an event twice, a batch in part or out of order."""
    return [
        *_broken(found, promises),
        *_twice_or_in_part(found),
        *(fault for partition, labels in found.items() for fault in _disorder(partition, labels)),
    ]


def _broken(found: Contents, promises: Iterable[Promise]) -> Iterator[str]:
    for promise in promises:
        for partition, offset, count in promise.places:
            there = found[partition][offset : offset + count]
            mine = [label is None or label[:2] == promise[:2] for label in there]
            if len(there) != count or not all(mine):
                yield f"acknowledged {promise}, but there is {there}"


def _twice_or_in_part(found: Contents) -> Iterator[str]:
    everything = [label for labels in found.values() for label in labels if label is not None]
    counts = Counter(everything)
    yield from (f"{label} is there {count} times" for label, count in counts.items() if count > 1)
    if all(None not in labels for labels in found.values()):
        batches = Counter((label.writer, label.batch, label.size) for label in counts)
        yield from (f"{key}: {n} events" for key, n in batches.items() if n != key[-1])


def _disorder(partition: int, labels: Iterable[Label | None]) -> Iterator[str]:
    last: dict[str, Label] = {}
    for label in labels:
        if label is not None:
            if label.writer in last and not last[label.writer] < label:
                yield f"partition {partition}: {label} after {last[label.writer]}"
            last[label.writer] = label


def require_kept(log: EventLog, promises: Iterable[Promise]) -> None:
    """The log is whole, and keeps the promises."""
    assert log.check().damaged == []
    faults = audit(contents(log.topic(TOPIC)), promises)
    assert not faults, "\n".join(faults[:20])


def test_the_audit_finds_what_is_lost_doubled_torn_and_out_of_order() -> None:
    first, second = Label("a", 0, 0, 1), Label("a", 1, 0, 1)
    kept = [Promise("a", 0, ((0, 0, 1),)), Promise("a", 1, ((0, 1, 1),))]
    assert audit({0: [first, second]}, kept) == []
    assert audit({0: [None, second]}, kept) == []
    assert audit({0: [first]}, kept)
    assert audit({0: [second, first]}, [])
    assert audit({0: [first, second], 1: [first]}, kept)
    assert audit({0: [Label("a", 0, 0, 2)]}, [])
    assert Promise.of(str(kept[1])) == kept[1]
    assert Label.of(second.body(b"x/y")) == second


# ---- Writers killed ------------------------------------------------------------------------------

WRITER = """
import os, random, sys, threading
import eventlog
from tests.crash.test_kill import TOPIC, append_witnessed

path, name, durability, seed = sys.argv[1:]
log = eventlog.open(path, durability=durability)
topic = log.create_topic(TOPIC, partitions=3, exist_ok=True)

def write(thread):
    rng = random.Random(f"{seed} {name} {thread}")
    batch = 0
    while True:
        promise = append_witnessed(topic, f"{name}.{thread}", batch, rng)
        os.write(1, f"{promise}\\n".encode())
        batch += 1

for thread in range(2):
    threading.Thread(target=write, args=(thread,)).start()
"""


def kill_writers(children: Iterable[Child], rng: random.Random) -> list[Promise]:
    """Kill one after the other, while those left must go on; what they were promised."""
    promises: list[Promise] = []
    for child in children:
        lines = [child.line() for _ in range(rng.randint(1, 60))]
        time.sleep(rng.uniform(0, 0.003))  # not to wait for anything: to choose the moment
        child.send(signal.SIGKILL)
        promises += map(Promise.of, [*lines, *child.rest()])
    return promises


def run_rounds(start: Start, path: Path, durability: str, rounds: int) -> None:
    """Rounds of three processes with two threads each, all of them killed, on one log."""
    seed = seed_of_today()
    rng = random.Random(seed)
    promises: list[Promise] = []
    for number in range(rounds):
        names = [f"{number}.{process}" for process in range(3)]
        children = [start(WRITER, path, name, durability, seed) for name in names]
        rng.shuffle(children)
        promises += kill_writers(children, rng)
        with eventlog.open(path, create=False, durability=None) as log:
            require_kept(log, promises)
    require_sound_tree(path)
    assert len(promises) > 50 * rounds


def require_sound_tree(path: Path) -> None:
    """py-lmdb's own verifier finds no page lost or used twice."""
    (environment,) = path.glob("events-*.mdb")
    problems = lmdb.verify.verify(str(environment))  # type: ignore[no-untyped-call]
    assert problems == []


@pytest.mark.parametrize("durability", ["disk", "process"])
def test_whatever_was_acknowledged_to_killed_writers_is_there_in_order_once(
    durability: str, log_path: Path, start: Start
) -> None:
    run_rounds(start, log_path, durability, rounds=12)


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["disk", "process"])
def test_whatever_was_acknowledged_to_many_killed_writers_is_there(
    durability: str, log_path: Path, start: Start
) -> None:
    run_rounds(start, log_path, durability, rounds=200)


# ---- Writers that wait for their next event when they are killed ---------------------------------

ONE_APPEND = """
import sys
import eventlog

topic = eventlog.open(sys.argv[1]).topic("t")
topic.append(b"before")
print("appended", flush=True)
sys.stdin.readline()
"""


def test_a_process_killed_between_appends_holds_up_nobody(log: EventLog, start: Start) -> None:
    topic = log.create_topic("t", partitions=1)
    child = start(ONE_APPEND, log.location)
    assert child.line() == "appended"
    child.kill()
    assert topic.append(b"after", timeout=1).offset == 1


# Ends inside the LMDB transaction, with its pages written and not committed.
DIES_COMMITTING = """
import os, signal, sys
import eventlog
from eventlog.embedded.commit import Committer

topic = eventlog.open(sys.argv[1]).topic("t")
topic.append(b"whole")
def die(self, transaction):
    os.kill(os.getpid(), signal.SIGKILL)
Committer._commit_transaction = die
topic.append_batch([b"torn"] * 2000)
"""


def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it_and_no_lock(
    log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    assert start(DIES_COMMITTING, log.location).wait() == -signal.SIGKILL
    assert topic.append(b"after", timeout=1).offset == 1
    assert [event.body for event in topic.read(0)] == [b"whole", b"after"]


# Ends after the commit, before the flush that would have let it be acknowledged.
DIES_FLUSHING = DIES_COMMITTING.replace("_commit_transaction", "_flush").replace(
    "def die(self, transaction)", "def die(self)"
)


def test_a_process_killed_between_commit_and_flush_leaves_a_whole_batch_that_others_build_on(
    log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    assert start(DIES_FLUSHING, log.location).wait() == -signal.SIGKILL
    assert topic.append(b"after", timeout=1).offset == 2001
    bodies = [event.body for event in topic.read(0, max_events=5000)]
    assert bodies == [b"whole", *[b"torn"] * 2000, b"after"]


# ---- Readers killed ------------------------------------------------------------------------------

READER = """
import sys
import eventlog

log = eventlog.open(sys.argv[1], read_only="read_only" in sys.argv)
with log.environment.lmdb.begin() as transaction:
    transaction.get(b"L")
    print("reading", flush=True)
    sys.stdin.readline()
"""


def churn(topic: Topic, batches: int) -> None:
    """Append and expire some 10 kB at a time."""
    for number in range(batches):
        topic.append(bytes([number % 256]) * 10_000)


@pytest.mark.parametrize("arguments", [(), ("read_only",)], ids=["", "read_only"])
def test_the_pages_a_killed_reader_held_are_used_again(
    arguments: tuple[str, ...],
    log: EventLog,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commit, "_STALE_READER_SECONDS", 0.0)
    topic = log.create_topic("t", partitions=1, retention_bytes=100_000, compression="none")
    (environment,) = Path(log.location).glob("events-*.mdb")
    churn(topic, 100)
    settled = environment.stat().st_size
    reader = start(READER, log.location, *arguments)
    assert reader.line() == "reading"
    churn(topic, 100)
    held = environment.stat().st_size
    assert held > settled + 500_000, "a reader keeps what it may see: the test can tell"
    reader.kill()
    churn(topic, 300)
    assert environment.stat().st_size <= held + 100_000


# ---- Writers stopped -----------------------------------------------------------------------------

# Stops itself inside its second commit, and says when it was allowed to go on and has finished.
STOPS = """
import os, signal, sys
import eventlog
from eventlog.embedded.commit import Committer

topic = eventlog.open(sys.argv[1]).topic("t")
topic.append(b"before")
commit = Committer._commit_transaction
def stop(self, transaction):
    Committer._commit_transaction = commit
    os.kill(os.getpid(), signal.SIGSTOP)
    commit(self, transaction)
Committer._commit_transaction = stop
print(topic.append(b"stopped").offset, flush=True)
sys.stdin.readline()
"""


def wait_until_stopped(child: Child) -> None:
    """Until SIGSTOP has taken effect."""
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


def refused_after(topic: Topic, timeout: float) -> tuple[LogBusyError, float]:
    """An append that must be refused: its error, and how long that took."""
    begin = time.monotonic()
    with pytest.raises(LogBusyError) as caught:
        topic.append(b"refused", timeout=timeout)
    return caught.value, time.monotonic() - begin


@pytest.mark.parametrize("timeout", [0.0, 0.3])
def test_a_writer_stopped_inside_a_commit_is_named_to_those_who_wait_too_long_for_it(
    timeout: float, log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    child = start(STOPS, log.location)
    wait_until_stopped(child)
    error, seconds = refused_after(topic, timeout)
    assert error.holder == child.pid
    assert str(child.pid) in str(error)
    assert timeout * 0.9 <= seconds < timeout + 10
    child.send(signal.SIGCONT)
    assert child.line() == "1"
    assert topic.append(b"after", timeout=10).offset == 2
    assert [event.body for event in topic.read(0)] == [b"before", b"stopped", b"after"]


def test_lock_timeout_is_what_an_append_waits_that_says_nothing_else(
    log_path: Path, start: Start
) -> None:
    with eventlog.open(log_path, lock_timeout=0.2) as log:
        topic = log.create_topic("t", partitions=1)
        child = start(STOPS, log.location)
        wait_until_stopped(child)
        begin = time.monotonic()
        with pytest.raises(LogBusyError, match=str(child.pid)):
            topic.append(b"refused")
        assert 0.18 <= time.monotonic() - begin < 10


def test_readers_do_not_wait_for_a_stopped_writer(log: EventLog, start: Start) -> None:
    topic = log.create_topic("t", partitions=1)
    child = start(STOPS, log.location)
    wait_until_stopped(child)
    assert [event.body for event in topic.read(0)] == [b"before"]
    reader = start(
        "import eventlog, sys\n"
        "print(len(eventlog.open(sys.argv[1], read_only=True).topic('t').read(0)))",
        log.location,
    )
    assert reader.line() == "1"


def test_a_stopped_writer_that_is_killed_holds_up_nobody_any_more(
    log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    child = start(STOPS, log.location)
    wait_until_stopped(child)
    refused_after(topic, 0.1)
    child.kill()
    assert topic.append(b"after", timeout=1).offset == 1


def test_the_lock_is_free_at_once_after_a_wait_that_was_given_up(
    log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    child = start(STOPS, log.location)
    wait_until_stopped(child)
    refused_after(topic, 0.1)
    child.send(signal.SIGCONT)
    assert child.line() == "1"
    deadline = time.monotonic() + 10
    while True:  # the wait that was given up may just have been granted, and be given back
        try:
            assert topic.append(b"after", timeout=0).offset == 2
        except LogBusyError:
            assert time.monotonic() < deadline
        else:
            break
