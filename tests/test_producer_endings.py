"""Producers at the end of the process, over forks, and under Ctrl-C: nothing accepted is lost."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import eventlog
from eventlog import (
    BufferFullError,
)
from eventlog.producer import Producer
from eventlog.producing.delivery import Delivery
from tests.embedded.test_processes import Interrupter, in_time
from tests.producing import (
    NEVER,
    MemoryOutlet,
    fill,
    in_thread,
    join,
    stall,
    stored,
)

if TYPE_CHECKING:
    from tests.conftest import Start


@pytest.fixture
def outlet() -> Iterator[MemoryOutlet]:
    """An outlet that nothing waits for in the end."""
    outlet = MemoryOutlet()
    yield outlet
    outlet.open.set()


# ---- The end of the process ----------------------------------------------------------------------

ENDS = """
import os, sys, threading
import eventlog

log = eventlog.open(sys.argv[1])
topic = log.create_topic("t", partitions=2, exist_ok=True)
producer = topic.producer(linger=3600)
for number in range(1000):
    producer.send(b"%d" % number, key=str(number % 7))
"""
ENDINGS = {
    "the end": "",
    "sys.exit": "sys.exit(0)",
    "an exception": "sys.stderr = open(os.devnull, 'w'); raise SystemExit(0) from ValueError()",
    "a thread that goes on": """
def late():
    threading.main_thread().join()
    producer.send(b"1000", key="late")
threading.Thread(target=late).start()
""",
    "another exit handler": """
import atexit
atexit.register(lambda: producer.send(b"1000", key="late"))
""",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_the_end_of_the_interpreter_delivers_what_was_accepted(
    ending: str, log_path: Path, start: Start
) -> None:
    child = start(ENDS + ending, log_path)
    child.rest()
    assert child.wait() == 0
    with eventlog.open(log_path, create=False) as log:
        expected = 1000 + ("late" in ending)
        assert sorted(map(int, stored(log.topic("t")))) == [*range(expected)]


def test_what_fails_at_the_end_of_the_interpreter_is_logged(
    log_path: Path, tmp_path: Path, start: Start
) -> None:
    source = """
sys.stderr = open(sys.argv[2], "w", buffering=1)
log.delete_topic("t")
"""
    child = start(ENDS + source, log_path, tmp_path / "errors")
    child.rest()
    assert child.wait() == 0
    printed = (tmp_path / "errors").read_text()
    assert "1000 events for topic 't' were not stored: topic 't' was deleted" in printed


def test_the_end_of_the_interpreter_is_quiet_with_a_log_in_memory(
    tmp_path: Path, start: Start
) -> None:
    source = ENDS.replace(
        "import os", f"import os, sys; sys.stderr = open({str(tmp_path / 'e')!r}, 'w')\nimport os"
    )
    child = start(source, "memory:")
    child.rest()
    assert child.wait() == 0
    assert (tmp_path / "e").read_text() == ""


WORKERS = """
import multiprocessing, sys
import eventlog

def work(path, number):
    log = eventlog.open(path)
    producer = log.topic("t").producer(linger=3600)
    for index in range(100):
        producer.send(b"%d" % (100 * number + index))

def use_inherited(number):
    for index in range(100):
        inherited.send(b"%d" % (100 * number + index))

if __name__ == "__main__":
    path, method = sys.argv[1:]
    log = eventlog.open(path)
    topic = log.create_topic("t", partitions=2)
    inherited = topic.producer(linger=3600)
    inherited.send(b"0")
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=work, args=(path, number)) for number in (1, 2)]
    if method == "fork":
        workers += [context.Process(target=use_inherited, args=(number,)) for number in (3, 4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_end_of_a_worker_of_multiprocessing_delivers_what_was_accepted(
    method: str, log_path: Path, tmp_path: Path, start: Start
) -> None:
    program = tmp_path / "workers.py"
    program.write_text(WORKERS)
    child = start(
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], {}, '__main__')"
        if method == "fork"
        else "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))",
        program,
        log_path,
        method,
    )
    child.rest()
    assert child.wait() == 0
    with eventlog.open(log_path, create=False) as log:
        numbers = sorted(map(int, stored(log.topic("t"))))
    assert numbers == [0, *range(100, 500 if method == "fork" else 300)]


# ---- Forks ---------------------------------------------------------------------------------------

# What the programs below begin with. They run in processes of their own: pytest's has threads.
FORKS = """
import os, sys, threading
import eventlog
from eventlog import DeliveryError, ProducerFencedError

log = eventlog.open(sys.argv[1])
topic = log.create_topic("t", partitions=2)

def in_child(do):
    child = os.fork()
    if not child:
        status = 1
        try:
            do()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
"""


def run_forks(start: Start, path: Path, source: str) -> list[bytes]:
    """Run a program to its end; what the log then holds."""
    child = start(FORKS + source, path)
    child.rest()
    assert child.wait() == 0
    with eventlog.open(path, create=False) as log:
        assert log.check().ok
        return sorted(stored(log.topic("t")))


CHILD_STARTS_EMPTY = """
producer = topic.producer(linger=3600)
before = [producer.send(b"parent %d" % number, key="k") for number in range(100)]

def use():
    assert producer.metrics == (0, 0, 0, 0, 0), producer.metrics
    for delivery in before:
        assert delivery.done
        assert "its parent stores this event" in str(delivery.exception(0))
    producer.flush()
    sent = producer.send(b"child", key="k")
    producer.flush()
    assert sent.exception(0) is None
    producer.send(b"child at close")
    producer.close()

in_child(use)
assert producer.metrics.buffered_events == 100
after = producer.send(b"parent after", key="k")
producer.close()
offsets = [delivery.result(0).offset for delivery in [*before, after]]
assert offsets == sorted(offsets) and len(set(offsets)) == 101, offsets
log.close()
"""


def test_a_forked_childs_producer_starts_empty_and_the_parents_is_as_it_was(
    log_path: Path, start: Start
) -> None:
    found = run_forks(start, log_path, CHILD_STARTS_EMPTY)
    expected = [b"parent %d" % number for number in range(100)]
    assert found == sorted([*expected, b"parent after", b"child", b"child at close"])


FORKS_WHILE_SENDING = """
producer = topic.producer(linger=0, max_batch_bytes=3000)
stop = threading.Event()
sent = [0, 0]

def send(writer):
    while not stop.is_set():
        delivery = producer.send(b"thread %d %d" % (writer, sent[writer]), key="k")
        sent[writer] += 1
        if sent[writer] % 50 == 0:
            delivery.result(30)

threads = [threading.Thread(target=send, args=(writer,)) for writer in range(2)]
for thread in threads:
    thread.start()
for number in range(30):
    mine = [producer.send(b"parent %d %d" % (number, index)) for index in range(20)]

    def use():
        for delivery in mine:
            delivery.exception(30)
        assert producer.send(b"child %d" % number).result(30)
        producer.close()

    in_child(use)
stop.set()
for thread in threads:
    thread.join()
producer.close()
for writer in range(2):
    topic.append(b"count %d %d" % (writer, sent[writer]))
log.close()
"""


def test_forks_beside_sending_threads_lose_and_double_nothing(log_path: Path, start: Start) -> None:
    found = run_forks(start, log_path, FORKS_WHILE_SENDING)
    words = [body.split() for body in found]
    counts = {int(word[1]): int(word[2]) for word in words if word[0] == b"count"}
    expected = [b"thread %d %d" % (w, n) for w, count in counts.items() for n in range(count)]
    expected += [b"parent %d %d" % (number, index) for number in range(30) for index in range(20)]
    expected += [b"child %d" % number for number in range(30)]
    assert [body for body in found if not body.startswith(b"count")] == sorted(expected)


CHILD_WITH_A_NAME = """
producer = topic.producer(producer_id="p")
assert producer.send(b"1", sequence=1).result(30)
in_child(lambda: None)
in_child(lambda: producer.close())
assert producer.send(b"2", sequence=2).result(30)

def take_over():
    assert producer.last_sequence == 2
    assert producer.send(b"again", sequence=2).result(30).duplicate
    assert producer.send(b"3", sequence=3).result(30)

in_child(take_over)
try:
    producer.send(b"fenced", sequence=3).result(30)
except ProducerFencedError:
    pass
else:
    sys.exit("the child has taken the name, and the parent went on")
log.close()
"""


def test_a_forked_child_that_uses_a_producer_with_a_name_takes_the_name_and_no_other_does(
    log_path: Path, start: Start
) -> None:
    assert run_forks(start, log_path, CHILD_WITH_A_NAME) == [b"1", b"2", b"3"]


FORK_IN_A_CALLBACK = """
def fork(delivery):
    child = os.fork()
    if not child:
        return  # into the thread that stores: it is not the child's producer's
    assert os.waitpid(child, 0)[1] == 0

import faulthandler
producer = topic.producer(linger=0, on_delivery=fork)
producer.send(b"x")
producer.flush()
log.close()
"""


def test_a_fork_from_a_callback_leaves_no_second_thread_that_stores(
    log_path: Path, start: Start
) -> None:
    assert run_forks(start, log_path, FORK_IN_A_CALLBACK) == [b"x"]


# ---- Ctrl-C --------------------------------------------------------------------------------------


def interrupted(number: int, do: Callable[[], object]) -> str:
    """Where `do` was interrupted at its place `number`; nothing if it has fewer."""
    interrupter = Interrupter(number)
    with contextlib.suppress(KeyboardInterrupt, BufferFullError, TimeoutError), interrupter:
        do()
    return interrupter.where


def sends(producer: Producer, number: int) -> list[Callable[[], object]]:
    """Ways to send, each of an event of its own."""
    big = bytes(300)
    return [
        lambda: producer.send(b"plain %d" % number + big, key="k"),
        lambda: producer.send(b"rich %d" % number, key="k", properties={"n": number}),
        lambda: producer.send(b"unkeyed %d" % number),
        lambda: producer.send(b"named %d" % number, partition=number % 4),
        lambda: producer.send(b"new key %d" % number, key=f"{number}"),
    ]


@pytest.mark.parametrize("way", range(5), ids=["plain", "rich", "unkeyed", "named", "new key"])
@pytest.mark.parametrize("most", [1, 2, 10_000])
def test_ctrl_c_anywhere_in_send_misaligns_nothing_and_loses_nothing_accepted(
    way: int, most: int, outlet: MemoryOutlet
) -> None:
    producer = Producer(outlet, linger=NEVER, max_batch_events=most, max_batch_bytes=1000)
    accepted: list[tuple[bytes, Delivery]] = []
    for number in itertools.count(1):
        first = b"first %d" % number
        accepted.append((first, producer.send(first, key="k", properties={"n": -number})))
        where = interrupted(number, sends(producer, number)[way])
        second = b"second %d" % number
        accepted.append((second, producer.send(second, key="k")))
        if number % 3 == 0:
            in_time(producer.flush)
        if not where:
            break
    in_time(producer.close)
    assert number > 5
    assert producer.metrics[:2] == (0, 0)
    require_rows(outlet, accepted)


def require_rows(outlet: MemoryOutlet, accepted: list[tuple[bytes, Delivery]]) -> None:
    """Each event is there at most once and whole; what was accepted is where its receipt says."""
    assert len(set(outlet.bodies)) == len(outlet.bodies)
    for row in itertools.chain.from_iterable(outlet.rows.values()):
        kind, _, number = row.body.rstrip(b"\0").rpartition(b" ")
        expected: dict[bytes, tuple[Any, Any]] = {
            b"first": ("k", {"n": -int(number)}),
            b"rich": ("k", {"n": int(number)}),
            b"second": ("k", None),
            b"plain": ("k", None),
            b"new key": (number.decode(), None),
        }
        assert row[1:] == expected.get(kind, (None, None)), row
    for body, delivery in accepted:
        receipt = delivery.result(0)
        assert outlet.rows[receipt.partition][receipt.offset].body == body


def wait_for_room(number: int, outlet: MemoryOutlet) -> str:
    """Where waiting for room was interrupted; then another thread sends, and all is stored."""
    producer = Producer(outlet, linger=0, max_buffered_bytes=400)
    stall(outlet, producer)
    fill(producer)
    where = interrupted(number, lambda: producer.send(b"x", timeout=0.001))
    sent: list[Delivery] = []
    thread = in_thread(lambda: sent.append(producer.send(b"other")))
    outlet.open.set()
    join(thread)
    in_time(producer.close)
    assert sent[0].exception(0) is None
    assert producer.metrics[:2] == (0, 0)
    return where


def test_ctrl_c_anywhere_while_waiting_for_room_leaves_a_producer_that_others_use(
    outlet: MemoryOutlet,
) -> None:
    places = itertools.takewhile(lambda n: wait_for_room(n, outlet), itertools.count(1))
    assert len([*places]) > 20


ENDS_OF_USE: dict[str, Callable[[Producer, Delivery], object]] = {
    "flush": lambda producer, delivery: producer.flush(),
    "close": lambda producer, delivery: producer.close(),
    "result": lambda producer, delivery: delivery.result(),
    "metrics": lambda producer, delivery: producer.metrics,
    "ready": lambda producer, delivery: producer.ready(),
}


@pytest.mark.parametrize("use", ENDS_OF_USE.values(), ids=ENDS_OF_USE)
def test_ctrl_c_anywhere_in_the_other_methods_loses_nothing(
    use: Callable[[Producer, Delivery], object], outlet: MemoryOutlet
) -> None:
    for number in itertools.count(1):
        producer = Producer(outlet, linger=0.0001)
        delivery = producer.send(b"%d" % number, partition=0)
        where = interrupted(number, lambda p=producer, d=delivery: use(p, d))  # type: ignore[misc]
        in_time(producer.close)
        assert outlet.rows[delivery.result(0).partition][number - 1].body == b"%d" % number
        if not where:
            break
    assert number > 3


def test_ctrl_c_anywhere_in_with_delivers_what_was_accepted(outlet: MemoryOutlet) -> None:
    for number in itertools.count(1):
        interrupter = Interrupter(number)
        deliveries: list[Delivery] = []
        with contextlib.suppress(KeyboardInterrupt), Producer(outlet, linger=0.0001) as producer:
            deliveries.append(producer.send(b"%d" % number, partition=0))
            with interrupter:
                producer.send(b"interrupted %d" % number, partition=1)
        assert deliveries[0].result(0).offset == number - 1
        assert producer.metrics[:2] == (0, 0)
        if not interrupter.where:
            break
    assert number > 5


CTRL_C = """
import os, sys, signal, threading
import eventlog

log = eventlog.open(sys.argv[1])
topic = log.create_topic("t", partitions=3)
producer = topic.producer(linger=0.001, max_batch_bytes=20_000, max_buffered_bytes=60_000)
stop = False

def stop_soon(*_):
    global stop
    stop = True

signal.signal(signal.SIGTERM, stop_soon)
accepted = []
number = 0
while not stop:
    try:
        os.write(1, b"sending\\n")
        while not stop:
            number += 1
            body = b"%d" % number
            accepted.append((body, producer.send(body, key=str(number % 5), properties={"n": number}
                                                 if number % 7 == 0 else None)))
    except KeyboardInterrupt:
        os.write(1, b"interrupted\\n")
producer.close()
there = {n: topic.read(n, max_events=10**9) for n in range(3)}
for body, delivery in accepted:
    receipt = delivery.result(0)
    event = there[receipt.partition][receipt.offset]
    number = int(body)
    assert (event.body, event.key) == (body, str(number % 5)), (event, body)
    assert event.properties == ({"n": number} if number % 7 == 0 else {}), (event, body)
bodies = [event.body for events in there.values() for event in events]
assert len(bodies) == len(set(bodies))
assert set(bodies) >= {body for body, _ in accepted}
log.close()
os.write(1, b"proved %d\\n" % len(accepted))
"""


def test_ctrl_c_at_random_moments_loses_and_doubles_nothing(log_path: Path, start: Start) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    child = start(CTRL_C, log_path)
    assert child.line() == "sending"
    for _ in range(60):
        time.sleep(rng.uniform(0, 0.004))  # not to wait for anything: to choose the moment
        child.send(signal.SIGINT)
        assert (child.line(), child.line()) == ("interrupted", "sending")
    child.send(signal.SIGTERM)
    assert child.rest()[-1].startswith("proved")
    assert child.wait() == 0
