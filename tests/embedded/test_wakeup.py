"""Who waits is woken by what concerns it and nothing else, however it waits, and misses nothing."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import pytest

from eventlog.embedded import wakeup as module
from eventlog.embedded.directory import WAKEUP_NAME
from eventlog.embedded.listening import Listener
from eventlog.embedded.wakeup import Waiter, Wakeup
from eventlog.embedded.wakeup_file import EVERYTHING, Place, WakeupFile, blob_place, slot_of
from eventlog.embedded.watch import PlacesWatch
from eventlog.waiting import Watch
from tests.embedded.test_processes import Interrupter

if TYPE_CHECKING:
    from tests.conftest import Start

T = TypeVar("T")

HOUR: Final = 3600.0
PATIENCE: Final = 30.0
BRIEFLY: Final = 0.001

HERE: Final[Place] = (1, 0)
ELSEWHERE: Final[Place] = (1, 1)
BLOB: Final[Place] = blob_place(b"Oa/b")

PROCESS: Final = Path("/proc/self")

linux = pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux shows in /proc")


def until(condition: Callable[[], object]) -> None:
    """Wait for another thread to get somewhere."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        os.sched_yield()


def inotify_instances() -> int:
    """How many this process has open."""
    found = 0
    for descriptor in (PROCESS / "fd").iterdir():
        with suppress(OSError):
            found += "inotify" in str(descriptor.readlink())
    return found


def resources() -> int:
    """Threads and descriptors of this process, where that can be told."""
    if not PROCESS.exists():
        return 0
    return sum(1 for name in ("fd", "task") for _ in (PROCESS / name).iterdir())


def in_thread(do: Callable[[], T]) -> Future[T]:
    """Run `do` in a thread of its own, which is given up on if it hangs."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(do())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def is_woken(watch: Watch) -> bool:
    """Whether a wait without a time limit ends by a change; fails if it does not end."""
    return in_thread(watch.wait).result(PATIENCE)


class Writer:
    """Commits as another process would, with a mapping of its own."""

    def __init__(self, directory: Path) -> None:
        self.transactions = 0
        self.wakeup = Wakeup(directory, self.last, read_only=False, poll_interval=HOUR)

    def last(self) -> int:
        return self.transactions

    def commit(self, *places: Place) -> None:
        self.transactions += 1
        self.wakeup.committed(places, self.transactions)

    def commit_and_die(self) -> None:
        self.transactions += 1


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    yield writer
    writer.wakeup.close()


def no_notification(path: Path) -> object:
    raise OSError(errno.EMFILE, "too many inotify instances")


@pytest.fixture(params=["kernel", "polling", "no file"])
def readers(
    request: pytest.FixtureRequest, tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Wakeup]:
    """What those use who wait; in each way there is to hear of a commit."""
    directory = tmp_path
    if request.param == "kernel" and sys.platform != "linux":
        pytest.skip("there is no inotify")
    if request.param == "polling":
        monkeypatch.setattr(module, "Notification", no_notification)
    if request.param == "no file":
        directory = tmp_path / "elsewhere"
        directory.mkdir()
    wakeup = Wakeup(directory, writer.last, read_only=True, poll_interval=HOUR)
    assert wakeup.file.exists == (request.param != "no file")
    yield wakeup
    wakeup.close()


@pytest.fixture
def kernel(tmp_path: Path, writer: Writer) -> Iterator[Wakeup]:
    """What those use who wait, with whatever notification there is."""
    wakeup = Wakeup(tmp_path, writer.last, read_only=True, poll_interval=HOUR)
    yield wakeup
    wakeup.close()


def marked(wakeup: Wakeup, *places: Place) -> PlacesWatch:
    watch = wakeup.watch(places)
    watch.mark()
    return watch


def are_waiting(wakeup: Wakeup, count: int) -> bool:
    """Whether as many wait, parked or alone."""
    with wakeup._mutex:
        return len(wakeup._all_parked()) + (wakeup._alone is not None) == count


def wait_in(wakeup: Wakeup, *watches: Watch) -> list[Future[bool]]:
    """Have threads wait; returns when all of them do."""
    before = len(wakeup._all_parked()) + (wakeup._alone is not None)
    waits = [in_thread(watch.wait) for watch in watches]
    until(lambda: are_waiting(wakeup, before + len(watches)))
    for _ in range(100):  # until they sleep, most probably: right it is in either case
        os.sched_yield()
    return waits


# ---- What has changed ----------------------------------------------------------------------------


def test_a_watch_has_changed_by_a_commit_to_what_it_watches_and_by_no_other(
    writer: Writer, kernel: Wakeup
) -> None:
    watch = marked(kernel, HERE, (7, 3))
    writer.commit(ELSEWHERE, (7, 4), BLOB)
    assert not watch.changed()
    writer.commit(ELSEWHERE, (7, 3))
    assert watch.changed()
    watch.mark()
    assert not watch.changed()


def test_what_concerns_everybody_changes_every_watch(writer: Writer, kernel: Wakeup) -> None:
    watches = [marked(kernel), marked(kernel, HERE), marked(kernel, BLOB)]
    writer.commit(EVERYTHING)
    assert all(watch.changed() for watch in watches)


def test_the_partitions_of_a_topic_do_not_share_a_counter_with_each_other_or_with_blobs() -> None:
    for topic_id in (1, 2, 1000, 2**32 - 1):
        slots = {slot_of((topic_id, partition)) for partition in range(1000)}
        assert len(slots) == 1000
        assert slot_of(EVERYTHING) not in slots
        assert min(slots) > 1
        assert max(slots) < 1025


def test_blobs_share_counters_with_few_others_and_never_with_partitions() -> None:
    slots = {
        slot_of(blob_place(b"Ogroups/fraud/checkpoints/%d.json" % number)) for number in range(1000)
    }
    assert len(slots) > 500
    assert min(slots) >= 1025
    assert max(slots) < 2048


def test_a_commit_that_concerns_no_reader_changes_no_watch_and_is_not_missed(
    writer: Writer, kernel: Wakeup
) -> None:
    watch = marked(kernel, HERE)
    writer.commit()
    writer.commit(ELSEWHERE)
    assert not watch.changed()


def test_a_writer_announces_to_everybody_what_one_that_was_killed_did_not(
    writer: Writer, kernel: Wakeup
) -> None:
    watch = marked(kernel, HERE)
    writer.commit_and_die()
    writer.commit(ELSEWHERE)
    assert watch.changed()


def test_a_full_disk_fails_no_commit_and_the_next_one_announces_it(
    writer: Writer, kernel: Wakeup, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = marked(kernel, ELSEWHERE)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        writer.commit(HERE)
    assert not watch.changed()
    writer.commit(HERE)
    assert watch.changed()


def test_a_log_whose_wakeup_file_cannot_be_made_is_written_and_followed_without(
    tmp_path: Path,
) -> None:
    (tmp_path / "log" / WAKEUP_NAME).mkdir(parents=True)
    writer = Writer(tmp_path / "log")
    watch = marked(writer.wakeup, HERE)
    (wait,) = wait_in(writer.wakeup, watch)
    writer.commit(HERE)
    assert wait.result(PATIENCE)
    writer.wakeup.close()


@pytest.mark.parametrize("content", [b"", b"\xff" * 16_384, b"\xff" * 20_000])
def test_whatever_is_in_the_file_commits_are_announced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / WAKEUP_NAME).write_bytes(content)
    writer = Writer(tmp_path)
    watch = marked(writer.wakeup, HERE)
    writer.commit(HERE)
    assert watch.changed()
    writer.wakeup.close()


def test_a_file_that_is_too_short_is_no_file_to_who_only_reads(tmp_path: Path) -> None:
    (tmp_path / WAKEUP_NAME).write_bytes(b"\0" * 16_383)
    assert not WakeupFile(tmp_path / WAKEUP_NAME, read_only=True).exists
    file = WakeupFile(tmp_path / WAKEUP_NAME, read_only=False)
    assert file.exists
    file.close()


# ---- Threads -------------------------------------------------------------------------------------


def test_a_thread_that_waits_alone_is_woken(writer: Writer, readers: Wakeup) -> None:
    watch = marked(readers, HERE)
    for _ in range(20):
        (wait,) = wait_in(readers, watch)
        assert readers._watcher is None
        writer.commit(HERE)
        assert wait.result(PATIENCE)
        watch.mark()


def test_all_threads_that_wait_for_it_are_woken_and_no_other(
    writer: Writer, readers: Wakeup
) -> None:
    here = [marked(readers, HERE) for _ in range(20)]
    elsewhere = [marked(readers, ELSEWHERE) for _ in range(20)]
    waits = wait_in(readers, *here, *elsewhere)
    writer.commit(HERE)
    assert all(wait.result(PATIENCE) for wait in waits[:20])
    if readers.file.exists:
        assert not any(wait.done() for wait in waits[20:])
        assert are_waiting(readers, 20)
    writer.commit(ELSEWHERE)
    assert all(wait.result(PATIENCE) for wait in waits)


def test_a_second_who_waits_takes_nothing_from_the_first(writer: Writer, readers: Wakeup) -> None:
    for first, second in itertools.product([HERE, ELSEWHERE], repeat=2):
        one, two = marked(readers, first), marked(readers, second)
        waits = wait_in(readers, one)
        waits += wait_in(readers, two)
        writer.commit(first)
        assert waits[0].result(PATIENCE)
        writer.commit(second)
        assert waits[1].result(PATIENCE)


def test_what_is_committed_between_mark_and_wait_ends_the_wait_at_once(
    writer: Writer, readers: Wakeup
) -> None:
    for others in (0, 0, 2):
        readers._spare = None  # what is listened with is new, and knows nothing of before
        rest = [marked(readers, ELSEWHERE) for _ in range(others)]
        waits = wait_in(readers, *rest)
        watch = marked(readers, HERE)
        writer.commit(HERE)
        assert is_woken(watch)
        assert watch.wait(0)
        for each in rest:
            each.interrupt()
        for wait in waits:
            wait.result(PATIENCE)


def test_nothing_is_lost_whenever_it_comes(writer: Writer, readers: Wakeup) -> None:
    """Threads that look, wait, and look again see every commit, while others come and go."""
    last = 300

    def follow(place: Place) -> int:
        watch = readers.watch([place])
        while True:
            watch.mark()
            seen = writer.transactions
            if seen >= last:
                return seen
            assert watch.wait()

    def come_and_go() -> int:
        watch = readers.watch([ELSEWHERE])
        while writer.transactions < last:
            watch.mark()
            watch.wait(BRIEFLY)
        return writer.transactions

    waits = [in_thread(lambda: follow(HERE)) for _ in range(3)]
    waits += [in_thread(come_and_go) for _ in range(2)]
    for number in range(last):
        writer.commit(HERE)
        if number % 10 == 0:
            os.sched_yield()
    assert [wait.result(PATIENCE) for wait in waits] == [last] * 5


def test_a_wait_ends_when_its_time_is_over(readers: Wakeup) -> None:
    watch = marked(readers, HERE)
    assert not watch.wait(0)
    assert not watch.wait(BRIEFLY)
    assert are_waiting(readers, 0)


def test_a_watch_of_very_many_places_is_woken_by_each(writer: Writer, readers: Wakeup) -> None:
    watches = [marked(readers, *((2, number) for number in range(10_000))) for _ in range(2)]
    for partition in (0, 5000, 9999):
        waits = wait_in(readers, *watches)
        writer.commit((2, partition))
        assert all(wait.result(PATIENCE) for wait in waits)
        for watch in watches:
            watch.mark()


# ---- Tasks ---------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_task_that_waits_alone_is_woken(writer: Writer, readers: Wakeup) -> None:
    watch = marked(readers, HERE)
    with anyio.fail_after(PATIENCE):
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch.wait_async)
                await waiting(readers, 1)
                writer.commit(HERE)
            assert watch.changed()
            watch.mark()
    assert are_waiting(readers, 0)


async def waiting(wakeup: Wakeup, count: int) -> None:
    while not are_waiting(wakeup, count):
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_thousands_of_tasks_wait_with_one_thread_and_those_concerned_are_woken(
    writer: Writer, readers: Wakeup
) -> None:
    woken: list[int] = []
    before = resources()

    async def follow(partition: int) -> None:
        if await marked(readers, (1, partition)).wait_async():
            woken.append(partition)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for number in range(3000):
                tasks.start_soon(follow, number % 1000)
            await waiting(readers, 3000)
            assert resources() < before + 10
            if readers.file.exists:
                writer.commit((1, 7), (1, 77))
                while len(woken) < 6:
                    await anyio.lowlevel.checkpoint()
                assert sorted(woken) == [7, 7, 7, 77, 77, 77]
                assert are_waiting(readers, 2994)
            writer.commit(EVERYTHING)
    assert len(woken) == 3000
    assert are_waiting(readers, 0)


@pytest.mark.anyio
async def test_a_task_that_is_cancelled_stops_at_once_and_leaves_nothing_behind(
    writer: Writer, readers: Wakeup
) -> None:
    for count in (1, 2, 5):
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(marked(readers, HERE).wait_async)
                await waiting(readers, count)
                tasks.cancel_scope.cancel()
        assert are_waiting(readers, 0)
        assert not readers._parked
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(marked(readers, HERE).wait_async)
            await waiting(readers, 1)
            writer.commit(HERE)


@pytest.mark.anyio
async def test_waiting_as_a_task_is_a_place_to_be_cancelled_even_if_there_is_news(
    writer: Writer, kernel: Wakeup
) -> None:
    watch = marked(kernel, HERE)
    writer.commit(HERE)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await watch.wait_async()
    assert scope.cancelled_caught
    assert await watch.wait_async()


@pytest.mark.anyio
async def test_a_task_waits_no_longer_than_it_was_told(readers: Wakeup) -> None:
    watch = marked(readers, HERE)
    assert not await watch.wait_async(0)
    assert not await watch.wait_async(BRIEFLY)
    assert are_waiting(readers, 0)


@pytest.mark.anyio
async def test_threads_and_tasks_wait_together(writer: Writer, readers: Wakeup) -> None:
    watches = [marked(readers, HERE) for _ in range(4)]
    waits = wait_in(readers, *watches[:2])
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for watch in watches[2:]:
                tasks.start_soon(watch.wait_async)
            await waiting(readers, 4)
            writer.commit(HERE)
    assert all(wait.result(PATIENCE) for wait in waits)


# ---- Who listens ---------------------------------------------------------------------------------


def test_the_thread_that_listens_for_many_goes_when_there_is_one_again(
    writer: Writer, kernel: Wakeup
) -> None:
    first, second = marked(kernel, HERE), marked(kernel, ELSEWHERE)
    waits = wait_in(kernel, first, second)
    assert kernel._watcher is not None
    writer.commit(HERE)
    assert waits[0].result(PATIENCE)
    kernel._poll_interval = BRIEFLY
    kernel._poll_at = 0.0
    kernel._watcher.listener.ring()
    until(lambda: kernel._watcher is None)
    until(lambda: are_waiting(kernel, 1))
    writer.commit(ELSEWHERE)
    assert waits[1].result(PATIENCE)


def test_while_nobody_waits_the_thread_rests_and_is_there_when_somebody_does(
    writer: Writer, readers: Wakeup
) -> None:
    watches = [marked(readers, HERE), marked(readers, HERE)]
    for _ in range(5):
        waits = wait_in(readers, *watches)
        writer.commit(HERE)
        assert all(wait.result(PATIENCE) for wait in waits)
        watcher = readers._watcher
        assert watcher is not None
        writer.commit(HERE)
        until(lambda watcher=watcher: watcher.resting)  # type: ignore[misc]
        for watch in watches:
            watch.mark()


def test_where_no_more_threads_can_be_started_who_waits_alone_goes_on(
    writer: Writer, readers: Wakeup, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wait,) = wait_in(readers, marked(readers, HERE))

    def no_more(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("_thread.start_new_thread", no_more)
        with pytest.raises(RuntimeError):
            marked(readers, HERE).wait()
    assert are_waiting(readers, 1)
    writer.commit(HERE)
    assert wait.result(PATIENCE)


@pytest.mark.parametrize("goes", [False, True])
def test_who_is_dismissed_may_have_drained_what_was_reported_and_looks_for_all(
    goes: bool, writer: Writer, kernel: Wakeup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher sleeps through it: another listener took the report that would have woken it."""
    monkeypatch.setattr("_thread.start_new_thread", lambda *_: 0)
    alone, parked = Standing(marked(kernel, HERE)), Standing(marked(kernel, ELSEWHERE))
    listener = kernel.enter(alone)
    assert listener is not None
    assert kernel.enter(parked) is None
    writer.commit(ELSEWHERE)
    listener.wait(PATIENCE)
    if goes:
        kernel.leave(alone)
    else:
        assert kernel.enter(alone) is None
    assert parked.awakened


class Standing(Waiter):
    """A waiter that takes one step at a time."""

    awakened = False

    def awaken(self) -> None:
        self.awakened = True


def test_when_the_thread_that_listens_fails_that_is_reported_and_another_takes_its_place(
    writer: Writer, readers: Wakeup, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = wait_in(readers, marked(readers, HERE), marked(readers, HERE))
    watcher = readers._watcher
    assert watcher is not None
    reported: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(str(report.exc_value)))

    def fail() -> float:
        del readers.until_poll  # for the others, as it was
        raise RuntimeError("something unforeseen")

    readers.until_poll = fail  # type: ignore[method-assign]
    watcher.listener.ring()
    until(lambda: readers._watcher not in (None, watcher) and are_waiting(readers, 2))
    writer.commit(HERE)
    assert all(wait.result(PATIENCE) for wait in waits)
    until(lambda: reported == ["something unforeseen"])


@pytest.mark.anyio
@pytest.mark.parametrize("count", [1, 2])
async def test_a_task_that_was_woken_in_vain_waits_on(
    count: int, writer: Writer, readers: Wakeup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not ask again and again whether it is over."""
    entered: list[Waiter] = []
    enter = readers.enter

    def counted(waiter: Waiter) -> Listener | None:
        entered.append(waiter)
        return enter(waiter)

    monkeypatch.setattr(readers, "enter", counted)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(marked(readers, HERE).wait_async)
            await waiting(readers, count)
            for waiter in set(entered):
                waiter.wake()
            if readers.file.exists:
                writer.commit(ELSEWHERE)
            for _ in range(200):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert len(entered) < 20


INSTANCES: Final = """
import sys
from pathlib import Path
from tests.embedded.test_wakeup import *

writer = Writer(Path(sys.argv[1]))
kernel = writer.wakeup
print(inotify_instances())
for _ in range(2):
    waits = wait_in(kernel, *(marked(kernel, HERE) for _ in range(10)))
    print(inotify_instances())
    writer.commit(HERE)
    assert all(wait.result(PATIENCE) for wait in waits)
waits = wait_in(kernel, *(marked(kernel, HERE) for _ in range(10)))
kernel.close()
assert all(wait.result(PATIENCE) for wait in waits)
until(lambda: inotify_instances() == 0)
"""


@linux
def test_a_wakeup_keeps_one_inotify_instance_however_many_wait_and_none_once_closed(
    tmp_path: Path, start: Start
) -> None:
    child = start(INSTANCES, tmp_path)
    assert child.rest() == ["0", "1", "1"]
    assert child.wait() == 0


# ---- The slow poll -------------------------------------------------------------------------------


def test_a_commit_that_nobody_announced_is_found_by_the_slow_poll(
    writer: Writer, tmp_path: Path
) -> None:
    readers = Wakeup(tmp_path, writer.last, read_only=True, poll_interval=BRIEFLY)
    for count in (1, 3):
        watches = [marked(readers, HERE) for _ in range(count)]
        waits = wait_in(readers, *watches)
        writer.commit_and_die()
        assert all(wait.result(PATIENCE) for wait in waits)
        for watch in watches:
            watch.mark()
            assert not watch.wait(5 * BRIEFLY)  # once is enough
    readers.close()


@pytest.mark.anyio
async def test_the_slow_poll_wakes_tasks_too(writer: Writer, tmp_path: Path) -> None:
    readers = Wakeup(tmp_path, writer.last, read_only=True, poll_interval=BRIEFLY)
    for count in (1, 3):
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(marked(readers, HERE).wait_async)
                await waiting(readers, count)
                writer.commit_and_die()
    readers.close()


def test_the_slow_poll_takes_no_commit_for_missed_that_is_made_while_it_looks(
    writer: Writer, tmp_path: Path
) -> None:
    def last() -> int:
        writer.commit(ELSEWHERE)
        return writer.transactions - 1

    readers = Wakeup(tmp_path, last, read_only=True)
    watch = marked(readers, HERE)
    readers.poll()
    assert not watch.changed()
    readers.close()


def test_who_waits_is_woken_to_find_out_why_the_log_cannot_be_looked_at(tmp_path: Path) -> None:
    def damaged() -> int:
        raise OSError(errno.EIO, "input/output error")

    Writer(tmp_path).wakeup.close()
    readers = Wakeup(tmp_path, damaged, read_only=True, poll_interval=BRIEFLY)
    assert is_woken(marked(readers, HERE))
    readers.close()


# ---- Ends ----------------------------------------------------------------------------------------


def test_an_interrupt_ends_every_wait_now_and_later_and_nobody_elses(
    writer: Writer, readers: Wakeup
) -> None:
    for others in (0, 3):
        watch = marked(readers, HERE)
        rest = wait_in(readers, *(marked(readers, ELSEWHERE) for _ in range(others)))
        (wait,) = wait_in(readers, watch)
        watch.interrupt()
        assert not wait.result(PATIENCE)
        assert not watch.wait()
        writer.commit(HERE)
        assert not watch.wait()
        assert not any(wait.done() for wait in rest) or not readers.file.exists
        writer.commit(ELSEWHERE)
        assert all(wait.result(PATIENCE) for wait in rest)


@pytest.mark.anyio
async def test_an_interrupt_from_another_thread_ends_a_tasks_wait(readers: Wakeup) -> None:
    for others in (0, 2):
        watch = marked(readers, HERE)
        outcomes: list[bool] = []

        async def wait(watch: Watch = watch, outcomes: list[bool] = outcomes) -> None:
            outcomes.append(await watch.wait_async())

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                for _ in range(others):
                    tasks.start_soon(marked(readers, ELSEWHERE).wait_async)
                await waiting(readers, 1 + others)
                await anyio.to_thread.run_sync(watch.interrupt)
                await waiting(readers, others)
                tasks.cancel_scope.cancel()
        assert outcomes == [False]


def test_closing_a_watch_ends_its_wait(kernel: Wakeup) -> None:
    watch = marked(kernel, HERE)
    (wait,) = wait_in(kernel, watch)
    watch.close()
    assert not wait.result(PATIENCE)


@pytest.mark.parametrize("count", [1, 10])
def test_who_waits_is_woken_to_look_when_the_log_is_closed(count: int, readers: Wakeup) -> None:
    watches = [marked(readers, HERE) for _ in range(count)]
    waits = wait_in(readers, *watches)
    readers.close()
    assert all(wait.result(PATIENCE) for wait in waits)
    for watch in watches:
        watch.mark()
        assert watch.wait()
    until(lambda: readers._watcher is None)


def test_a_signal_handler_may_interrupt_what_its_thread_waits_for(readers: Wakeup) -> None:
    for others in (0, 2):
        rest = [marked(readers, HERE) for _ in range(others)]
        waits = wait_in(readers, *rest)
        watch = marked(readers, HERE)
        before = signal.signal(signal.SIGUSR1, lambda *_, watch=watch: watch.interrupt())

        over = threading.Event()

        def send(others: int = others, over: threading.Event = over) -> None:
            until(lambda: are_waiting(readers, others + 1))
            while not over.wait(BRIEFLY):  # Python overlooks one that comes just before it blocks
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        sent = in_thread(send)
        begin = time.monotonic()
        try:
            assert not watch.wait(PATIENCE)
            assert time.monotonic() < begin + PATIENCE
        finally:
            over.set()
            sent.result(PATIENCE)
            signal.signal(signal.SIGUSR1, before)
        for each in rest:
            each.interrupt()
        assert not any(wait.result(PATIENCE) for wait in waits)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ctrl-C in __del__
@pytest.mark.parametrize("others", [0, 1, 2])
def test_ctrl_c_in_a_wait_takes_nothing_from_others_wherever_it_comes(
    others: int, readers: Wakeup, writer: Writer
) -> None:
    """It is interrupted at one place after the other, where Python would look for signals."""
    for number in itertools.count(1):
        rest = wait_in(readers, *(marked(readers, ELSEWHERE) for _ in range(others)))
        interrupter = Interrupter(number)
        with suppress(KeyboardInterrupt), interrupter:
            marked(readers, HERE).wait(BRIEFLY)
        rest.append(in_thread(marked(readers, ELSEWHERE).wait))
        until(lambda: len(readers._all_parked()) + (readers._alone is not None) > others)
        writer.commit(ELSEWHERE)
        assert all(wait.result(PATIENCE) for wait in rest), interrupter.where
        if not interrupter.where:
            break
    assert number > 10


# ---- Forks ---------------------------------------------------------------------------------------

FORKS: Final = """
import os, signal, sys, threading, warnings
from pathlib import Path
from eventlog.embedded.listening import Listener
from eventlog.embedded.wakeup import Waiter, Wakeup
from eventlog.embedded.watch import PlacesWatch
from tests.embedded.test_wakeup import (
    HERE, Writer, are_waiting, inotify_instances, marked, until
)

warnings.simplefilter("ignore", DeprecationWarning)
writer = Writer(Path(sys.argv[1]))
wakeup = writer.wakeup
watch = marked(wakeup, HERE)
threads = [
    threading.Thread(target=marked(wakeup, HERE).wait)
    for _ in range(int(sys.argv[2]))
]
for thread in threads:
    thread.start()
until(lambda: are_waiting(wakeup, len(threads)))
told, tell = os.pipe()
child = os.fork()
if not child:
    signal.alarm(30)  # it ends though it hangs
    wakeup.renew()
    assert inotify_instances() == 0
    assert are_waiting(wakeup, 0)
    os.write(tell, b"x")
    os._exit(0 if watch.wait() and watch.wait(0) else 1)
os.read(told, 1)
writer.commit(HERE)
assert os.waitpid(child, 0)[1] == 0
for thread in threads:
    thread.join()
watch.mark()
waiter = threading.Thread(target=watch.wait)
waiter.start()
until(lambda: are_waiting(wakeup, 1))
writer.commit(HERE)
waiter.join()
wakeup.close()
"""


@linux
@pytest.mark.parametrize("waiting_threads", [0, 1, 3])
def test_a_forked_child_waits_on_its_own_and_is_woken_by_its_parent(
    waiting_threads: int, tmp_path: Path, start: Start
) -> None:
    child = start(FORKS, tmp_path, waiting_threads)
    assert child.rest() == []
    assert child.wait() == 0


def test_a_process_ends_though_daemon_threads_of_its_wait(tmp_path: Path, start: Start) -> None:
    source = """
import sys, threading
from pathlib import Path
from tests.embedded.test_wakeup import HERE, Writer, are_waiting, marked, until
wakeup = Writer(Path(sys.argv[1])).wakeup
for _ in range(3):
    threading.Thread(target=marked(wakeup, HERE).wait, daemon=True).start()
until(lambda: are_waiting(wakeup, 3))
print("over", flush=True)
"""
    child = start(source, tmp_path)
    assert child.rest() == ["over"]
    assert child.wait() == 0
