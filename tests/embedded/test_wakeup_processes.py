"""Readers of real logs are woken by what other processes, and other threads, commit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest

import eventlog
from eventlog import ClosedError, EventLog, Topic
from eventlog.embedded import wakeup as module
from eventlog.embedded.directory import WAKEUP_NAME
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.topic import EmbeddedTopic
from eventlog.embedded.wakeup import Wakeup
from eventlog.waiting import Watch
from tests.conftest import Child
from tests.embedded.test_wakeup import (
    HOUR,
    PATIENCE,
    are_waiting,
    is_woken,
    no_notification,
    wait_in,
    waiting,
)

if TYPE_CHECKING:
    from tests.conftest import Start

EVENTS: Final = 200

APPENDER: Final = """
import sys
import eventlog

log = eventlog.open(sys.argv[1])
topic = log.topic("t")
print("ready", flush=True)
for line in sys.stdin:
    partition, body = line.split()
    print(topic.append(body, partition=int(partition)).offset, flush=True)
log.close()
"""

DIES_BEFORE_IT_ANNOUNCES: Final = """
import os, signal, sys
import eventlog
from eventlog.embedded.wakeup import Wakeup

log = eventlog.open(sys.argv[1])
topic = log.topic("t")
print("ready", flush=True)
sys.stdin.readline()
Wakeup.committed = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
topic.append(b"unannounced", partition=0)
"""


def wakeup_of(log: EventLog) -> Wakeup:
    assert isinstance(log, EmbeddedLog)
    return log.environment.wakeup


def watch_of(topic: Topic, *partitions: int) -> Watch:
    assert isinstance(topic, EmbeddedTopic)
    watch = wakeup_of(topic.log).watch([(int(topic.id), number) for number in partitions or (0,)])
    watch.mark()
    return watch


def blob_watch(topic: Topic, name: str = "a") -> Watch:
    watch = topic.log.blobs.watch(name)
    assert watch is not None
    return watch


def never_poll(log: EventLog, seconds: float = HOUR) -> Wakeup:
    """Only announcements wake who waits, or the slow poll is fast."""
    wakeup = wakeup_of(log)
    wakeup._poll_interval = seconds
    wakeup.poll_is_due()
    wakeup._poll_at = 0.0 if seconds < 1 else wakeup._poll_at
    return wakeup


@pytest.fixture
def topic(log: EventLog) -> Topic:
    topic = log.create_topic("t", partitions=2)
    never_poll(log)
    return topic


@pytest.fixture
def appender(log: EventLog, topic: Topic, start: Start) -> Child:
    child = start(APPENDER, log.location)
    assert child.line() == "ready"
    return child


# ---- Other processes -----------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 3])
def test_a_thread_is_woken_by_another_process_and_always_finds_the_event(
    others: int, topic: Topic, appender: Child
) -> None:
    """What it was woken by can be read: it is announced after the commit, never before."""
    rest = [watch_of(topic, 1) for _ in range(others)]
    waits = wait_in(wakeup_of(topic.log), *rest)
    watch = watch_of(topic)
    for offset in range(EVENTS):
        watch.mark()
        assert topic.read(0, offset) == []
        appender.say(f"0 {offset}")
        assert is_woken(watch)
        assert [event.body for event in topic.read(0, offset)] == [b"%d" % offset]
        assert appender.line() == str(offset)
    for each in rest:
        each.interrupt()
    assert not any(wait.result(PATIENCE) for wait in waits)


@pytest.mark.anyio
@pytest.mark.parametrize("others", [0, 3])
async def test_an_event_loop_is_woken_by_another_process_and_always_finds_the_event(
    others: int, topic: Topic, appender: Child
) -> None:
    watch = watch_of(topic)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for _ in range(others):
                tasks.start_soon(watch_of(topic, 1).wait_async)
            await waiting(wakeup_of(topic.log), others)
            for offset in range(EVENTS):
                watch.mark()
                appender.say(f"0 {offset}")
                assert await watch.wait_async()
                assert [event.body for event in topic.read(0, offset)] == [b"%d" % offset]
            tasks.cancel_scope.cancel()


def test_a_follower_that_looks_and_waits_misses_nothing_of_a_busy_process(
    topic: Topic, appender: Child
) -> None:
    def write() -> None:
        for number in range(EVENTS):
            appender.say(f"0 {number}")
            appender.line()

    thread = threading.Thread(target=write)
    thread.start()
    watch = watch_of(topic)
    found: list[bytes] = []
    while len(found) < EVENTS:
        watch.mark()
        events = topic.read(0, len(found))
        found += [event.body for event in events]
        assert events or is_woken(watch)
    thread.join()
    assert found == [b"%d" % number for number in range(EVENTS)]


def test_events_of_a_writer_that_was_killed_before_it_announced_them_are_found_by_the_slow_poll(
    topic: Topic, start: Start
) -> None:
    child = start(DIES_BEFORE_IT_ANNOUNCES, topic.log.location)
    assert child.line() == "ready"
    never_poll(topic.log, 0.001)
    watch = watch_of(topic)
    child.say()
    assert is_woken(watch)
    assert [event.body for event in topic.read(0)] == [b"unannounced"]
    assert child.wait() == -9


def test_events_of_a_writer_that_was_killed_before_it_announced_them_are_announced_by_the_next(
    topic: Topic, appender: Child, start: Start
) -> None:
    child = start(DIES_BEFORE_IT_ANNOUNCES, topic.log.location)
    assert child.line() == "ready"
    watch = watch_of(topic)
    child.say()
    assert child.wait() == -9
    assert not watch.changed()
    appender.say("1 elsewhere")
    assert is_woken(watch)
    assert [event.body for event in topic.read(0)] == [b"unannounced"]


def test_where_there_is_no_notification_another_process_is_heard_by_polling(
    topic: Topic, appender: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Notification", no_notification)
    watch = watch_of(topic)
    for offset in range(5):
        watch.mark()
        appender.say(f"0 {offset}")
        assert is_woken(watch)
        assert len(topic.read(0, offset)) == 1


# ---- Read-only -----------------------------------------------------------------------------------

FOLLOWER: Final = """
import sys
import eventlog
from tests.embedded.test_wakeup_processes import never_poll, watch_of

log = eventlog.open(sys.argv[1], read_only=True)
never_poll(log)
topic = log.topic("t")
watch = watch_of(topic)
print("ready", flush=True)
for offset in range(3):
    while not topic.read(0, offset):
        assert watch.wait()
        watch.mark()
    print(topic.read(0, offset)[0].body.decode(), flush=True)
"""


@pytest.mark.parametrize("has_file", [True, False])
def test_a_read_only_follower_is_woken_with_the_file_and_without(
    has_file: bool, log_path: Path, start: Start
) -> None:
    with eventlog.open(log_path) as log:
        log.create_topic("t", partitions=2)
    if not has_file:
        (log_path / WAKEUP_NAME).unlink()
    follower = start(FOLLOWER, log_path)
    assert follower.line() == "ready"
    with eventlog.open(log_path) as log:
        for number in range(3):
            log.topic("t").append(b"%d" % number, partition=0)
            assert follower.line() == str(number)
    assert follower.rest() == []
    assert follower.wait() == 0


def test_a_backup_has_no_wakeup_file_and_is_followed_like_any_log(
    topic: Topic, tmp_path: Path
) -> None:
    topic.log.backup(tmp_path / "backup")
    assert not (tmp_path / "backup" / WAKEUP_NAME).exists()
    with eventlog.open(tmp_path / "backup", read_only=True) as reading:
        watch = watch_of(reading.topic("t"))
        (wait,) = wait_in(never_poll(reading), watch)
        with eventlog.open(tmp_path / "backup") as writing:
            writing.topic("t").append(b"x", partition=0)
            assert wait.result(PATIENCE)


def test_a_log_can_be_made_where_only_a_wakeup_file_is_left(log_path: Path) -> None:
    log_path.mkdir()
    (log_path / WAKEUP_NAME).write_bytes(b"")
    with eventlog.open(log_path) as log:
        assert log.topics() == []


# ---- What wakes ----------------------------------------------------------------------------------

CHANGES: Final[dict[str, Callable[[Topic], object]]] = {
    "create_topic": lambda topic: topic.log.create_topic("u"),
    "delete_topic": lambda topic: topic.log.delete_topic("t"),
    "add_partitions": lambda topic: topic.add_partitions(1),
    "configure": lambda topic: topic.configure(retention=3600),
}


@pytest.mark.filterwarnings("ignore:topic .* partitions now:UserWarning")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_of_topics_wake_every_reader(
    change: Callable[[Topic], object], topic: Topic
) -> None:
    watches = [watch_of(topic, 0), watch_of(topic, 1), blob_watch(topic)]
    for watch in watches:
        watch.mark()
    change(topic)
    assert all(watch.changed() for watch in watches)


def test_blobs_wake_who_watches_them_and_no_reader_of_events(topic: Topic) -> None:
    blobs, events = blob_watch(topic, "a"), watch_of(topic, 0, 1)
    for change in (
        lambda: topic.log.blobs.put("a", b"1"),
        lambda: topic.log.blobs.put("a", b"2"),
        lambda: topic.log.blobs.delete("a"),
    ):
        blobs.mark()
        change()
        assert blobs.changed()
    assert not events.changed()
    blobs.mark()
    topic.append(b"x", partition=0)
    topic.log.blobs.put("b", b"1")
    assert events.changed()
    assert not blobs.changed()


def test_a_checkpoint_in_a_transaction_wakes_who_watches_it(topic: Topic) -> None:
    topic.append(b"x", partition=0)
    log_id = topic.log.id
    blobs = blob_watch(topic, f"groups/{log_id}/{topic.name}/fraud/checkpoints/0.json")
    blobs.mark()
    with topic.log.transaction() as tx:
        tx.checkpoint(topic, "fraud", partition=0, offset=0)
    assert blobs.changed()


def test_what_was_refused_and_what_expired_wakes_nobody(topic: Topic) -> None:
    topic.append(b"x", partition=0)
    topic.configure(retention_bytes=1)
    watch = watch_of(topic, 0, 1)
    with pytest.raises(eventlog.UnexpectedOffsetError):
        topic.append(b"x", partition=0, expect_next=7)
    topic.expire()
    assert not watch.changed()


def test_readers_go_on_waiting_through_a_compaction(topic: Topic, appender: Child) -> None:
    watch = watch_of(topic)
    for offset in range(3):
        (wait,) = wait_in(wakeup_of(topic.log), watch)
        topic.log.compact()
        appender.say(f"0 {offset}")
        assert wait.result(PATIENCE)
        assert appender.line() == str(offset)
        watch.mark()


def test_a_reader_goes_on_waiting_when_its_process_begins_to_write(log_path: Path) -> None:
    with eventlog.open(log_path) as log:
        log.create_topic("t", partitions=1)
    (log_path / WAKEUP_NAME).unlink()
    with eventlog.open(log_path, read_only=True) as reading:
        watch = watch_of(reading.topic("t"))
        (wait,) = wait_in(never_poll(reading), watch)
        with eventlog.open(log_path) as writing:
            writing.topic("t").append(b"x")
            assert wait.result(PATIENCE)
            watch.mark()
            (wait,) = wait_in(wakeup_of(reading), watch)
            writing.topic("t").append(b"x")
            assert wakeup_of(reading).file.exists  # it announces, and is heard without polling
            assert wait.result(PATIENCE)


# ---- Ends ----------------------------------------------------------------------------------------


def test_who_waits_is_woken_when_the_log_is_closed_and_finds_it_closed(log_path: Path) -> None:
    log = eventlog.open(log_path)
    topic = log.create_topic("t", partitions=1)
    waits = wait_in(never_poll(log), *(watch_of(topic) for _ in range(5)))
    log.close()
    assert all(wait.result(PATIENCE) for wait in waits)
    with pytest.raises(ClosedError):
        topic.read(0)


def test_another_handle_that_is_closed_leaves_who_waits_waiting(topic: Topic) -> None:
    (wait,) = wait_in(wakeup_of(topic.log), watch_of(topic))
    with eventlog.open(topic.log.location) as other:
        other.topic("t").append(b"x", partition=1)
    assert are_waiting(wakeup_of(topic.log), 1)
    topic.append(b"x", partition=0)
    assert wait.result(PATIENCE)


def test_a_log_can_be_opened_and_closed_while_others_of_its_process_wait(log_path: Path) -> None:
    for number in range(20):
        with eventlog.open(log_path) as log:
            topic = log.create_topic("t", partitions=1, exist_ok=True)
            waits = wait_in(never_poll(log), *(watch_of(topic) for _ in range(number % 3)))
        assert all(wait.result(PATIENCE) for wait in waits)


FORKS: Final = """
import os, signal, sys, threading, warnings
import eventlog
from tests.embedded.test_wakeup import are_waiting, until
from tests.embedded.test_wakeup_processes import never_poll, wakeup_of, watch_of

warnings.simplefilter("ignore", DeprecationWarning)
log = eventlog.open(sys.argv[1])
never_poll(log)
topic = log.create_topic("t", partitions=2)
mine, theirs = watch_of(topic, 0), watch_of(topic, 1)
threads = [
    threading.Thread(target=watch_of(topic, 0).wait)
    for _ in range(int(sys.argv[2]))
]
for thread in threads:
    thread.start()
until(lambda: are_waiting(wakeup_of(log), len(threads)))
child = os.fork()
if not child:
    signal.alarm(30)  # it ends though it hangs
    status = 1
    try:
        topic.append(b"from the child", partition=0)
        assert theirs.wait()
        assert topic.read(1)[0].body == b"from the parent"
        log.close()
        status = 0
    finally:
        os._exit(status)
assert mine.wait()
assert topic.read(0)[0].body == b"from the child"
for thread in threads:
    thread.join()
topic.append(b"from the parent", partition=1)
assert os.waitpid(child, 0)[1] == 0
mine.mark()
thread = threading.Thread(target=mine.wait)
thread.start()
until(lambda: are_waiting(wakeup_of(log), 1))
topic.append(b"again", partition=0)
thread.join()
log.close()
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="threads and forks do not go together there")
@pytest.mark.parametrize("waiting_threads", [0, 1, 3])
def test_a_parent_and_its_forked_child_wake_each_other(
    waiting_threads: int, log_path: Path, start: Start
) -> None:
    child = start(FORKS, log_path, waiting_threads)
    assert child.rest() == []
    assert child.wait() == 0


def test_a_process_that_forgets_a_log_its_daemon_threads_wait_for_ends(
    log_path: Path, start: Start
) -> None:
    source = """
import asyncio, sys, threading
import eventlog
from tests.embedded.test_wakeup import are_waiting, until
from tests.embedded.test_wakeup_processes import wakeup_of, watch_of

log = eventlog.open(sys.argv[1])
topic = log.create_topic("t", partitions=1)
for wait in [watch_of(topic).wait, lambda: asyncio.run(watch_of(topic).wait_async())]:
    threading.Thread(target=wait, daemon=True).start()
until(lambda: are_waiting(wakeup_of(log), 2))
print("over", flush=True)
"""
    child = start(source, log_path)
    assert child.rest() == ["over"]
    assert child.wait() == 0
