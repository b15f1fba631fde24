"""`ProcessorDriver` in plain tests: what a processor is given, and what is seen of what it does."""

from __future__ import annotations

import functools
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

import eventlog
from eventlog import (
    ClosedError,
    CloseReason,
    CorruptBatchError,
    ErrorAction,
    Event,
    EventFailed,
    EventLog,
    EventProcessor,
    InvalidNameError,
    LeaseLostError,
    PartitionNotFoundError,
    ProcessorOptions,
    RetryPolicy,
    StoredEvent,
    Topic,
    TopicNotFoundError,
)
from eventlog.testing import ProcessorDriver, stored_event
from eventlog.testing.plugin import MakeDriver
from tests.test_consumer import damage
from tests.testing.processors import Answering, Noting, PlainNoting

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
GIVES_UP = ProcessorOptions(dead_letter="dead", retry=RetryPolicy(max_attempts=2))
PATIENCE = 60.0

both = pytest.mark.parametrize("factory", [Noting, PlainNoting], ids=["async", "plain"])


@pytest.fixture(params=["asyncio", "trio"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test with the driver's thread on either event loop."""
    assert ProcessorDriver.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(ProcessorDriver.__init__.__kwdefaults__, "backend", request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Failures are the point here."""
    with caplog.at_level(logging.CRITICAL, logger="eventlog"):
        yield


@pytest.fixture
def topic(memory_log: EventLog) -> Topic:
    return memory_log.create_topic("cars", partitions=3)


# Events


@both
def test_what_is_fed_is_handled_when_feeding_returns(factory: Any) -> None:
    with ProcessorDriver(factory) as driver:
        driver.feed(b"a", "b")
        assert driver.processor.bodies == [b"a", b"b"]
        driver.feed([b"c", Event(b"d", "key")], b"e")
        assert driver.processor.bodies == [b"a", b"b", b"c", b"d", b"e"]
        assert driver.checkpoints == [1, 4]
        assert driver.errors == []


def test_a_handler_may_be_a_function() -> None:
    seen = []

    def plain(context: Any, events: list[StoredEvent]) -> None:
        seen.append(events[0].text())

    async def coroutine(context: Any, events: list[StoredEvent]) -> None:
        seen.append(events[0].text())

    for number, handler in enumerate([plain, coroutine]):
        with ProcessorDriver(handler) as driver:
            driver.feed(str(number))
            assert driver.checkpoints == []
    assert seen == ["0", "1"]


def test_a_factory_may_be_any_function_without_arguments() -> None:
    with ProcessorDriver(functools.partial(Noting)) as driver:
        driver.feed(b"a")
        assert driver.processor.bodies == [b"a"]


def test_events_are_handed_over_in_batches_as_the_options_say() -> None:
    with ProcessorDriver(Noting, options=ProcessorOptions(max_batch=2)) as driver:
        driver.feed([b"x"] * 5)
        assert driver.processor.calls[1:] == ["process 2", "process 2", "process 1"]
        assert driver.checkpoints == [1, 3, 4]


def test_events_have_the_virtual_time_and_their_place() -> None:
    seen: list[StoredEvent] = []
    with ProcessorDriver(lambda c, events: seen.extend(events), "cars", starts_at=NOON) as driver:
        driver.feed(stored_event(b"a", key="k", offset=41))
        driver.clock.advance(60)
        driver.feed(b"b")
    assert [(event.topic, event.partition, event.offset) for event in seen] == [
        ("cars", 0, 0),
        ("cars", 0, 1),
    ]
    assert [event.enqueued_at for event in seen] == [NOON, NOON + timedelta(minutes=1)]
    assert seen[0].key == "k"


def test_a_topic_of_ones_own_is_processed_from_what_is_there_on(topic: Topic) -> None:
    topic.append_batch([b"a", b"b"], partition=2)
    topic.append(b"other", partition=1)
    with ProcessorDriver(Noting, topic, partition=2, group="fraud") as driver:
        assert driver.processor.bodies == [b"a", b"b"]
        driver.feed(Event(b"c", "whatever key"))
        topic.append(b"d", partition=2)
        driver.feed()
        assert driver.processor.bodies == [b"a", b"b", b"c", b"d"]
        assert topic.group("fraud").checkpoints()[2].offset == 3
    assert topic.read(2)[0].body == b"a"  # it was not closed


def test_the_start_is_where_the_options_say(topic: Topic) -> None:
    topic.append(b"a", partition=0)
    with ProcessorDriver(Noting, topic, options=ProcessorOptions(start=eventlog.LATEST)) as driver:
        driver.feed(b"b")
        assert driver.processor.bodies == [b"b"]


def test_feeding_nothing_returns() -> None:
    with ProcessorDriver(Noting) as driver:
        driver.feed()
        driver.feed([])
        assert driver.processor.calls == ["open 1"]


def test_what_is_no_event_is_refused_and_nothing_is_stored() -> None:
    with ProcessorDriver(Noting) as driver:
        with pytest.raises(TypeError, match="a body is"):
            driver.feed(b"a", {"b": 1})
        assert driver.appended("events") == []


# What is seen of it


@both
def test_what_is_appended_to_another_topic_is_seen(factory: Any) -> None:
    async def alert(context: Any, events: list[StoredEvent]) -> None:
        async with context.transaction() as tx:
            for event in events:
                tx.append("alerts", event.body.upper())

    def alert_plain(context: Any, events: list[StoredEvent]) -> None:
        with context.transaction() as tx:
            for event in events:
                tx.append("alerts", event.body.upper())

    handler = alert if factory is Noting else alert_plain
    with ProcessorDriver(handler, topics=["alerts", "quiet"]) as driver:
        driver.feed(b"a", b"b")
        assert [event.body for event in driver.appended("alerts")] == [b"A", b"B"]
        assert driver.appended("quiet") == []
        assert driver.checkpoints == [1]
        with pytest.raises(TopicNotFoundError):
            driver.appended("nowhere")
    assert [event.body for event in driver.appended("alerts")] == [b"A", b"B"]  # afterwards too
    with pytest.raises(TopicNotFoundError):
        driver.appended("nowhere")


def test_what_was_there_before_was_not_appended(topic: Topic) -> None:
    alerts = topic.log.create_topic("alerts", partitions=2)
    alerts.append_batch([b"old"] * 3, partition=1)
    with ProcessorDriver(Noting, topic) as driver:
        alerts.append(b"new", partition=1)
        assert [event.body for event in driver.appended(alerts)] == [b"new"]
        later = topic.log.create_topic("later", partitions=1)
        later.append(b"later")
        assert [event.body for event in driver.appended("later")] == [b"later"]


@both
def test_a_failure_is_seen_and_tried_again_when_it_is_time(factory: Any) -> None:
    with ProcessorDriver(factory) as driver:
        driver.feed(b"a", b"bad")
        assert [str(error) for error in driver.errors] == ["bad"]
        status = driver.status()
        assert status is not None
        assert (status.state, status.attempts) == ("retrying", 1)
        driver.clock.advance(0.09)
        assert len(driver.errors) == 1
        driver.clock.advance(0.01)
        assert len(driver.errors) == 2
        driver.clock.advance(0.2 + 0.4 + 0.8)
        assert len(driver.errors) == 5
        assert driver.checkpoints == []


@both
def test_what_fails_too_often_is_a_dead_letter(factory: Any) -> None:
    with ProcessorDriver(factory, options=GIVES_UP, starts_at=NOON) as driver:
        driver.feed(b"a", Event(b"bad", "k", {"n": 1}), b"b")
        assert driver.dead_letters == []
        driver.clock.advance(0.1)
        assert driver.processor.bodies == [b"a", b"b"]
        assert driver.checkpoints == [0, 1, 2]
        (letter,) = driver.dead_letters
        assert (letter.body, letter.key, letter.offset, letter.topic) == (b"bad", "k", 1, "events")
        assert letter.attempts == 3
        assert letter.last_error == "ValueError: bad"
        assert letter.last_attempt_at == NOON + timedelta(seconds=0.1)
        assert letter.properties["n"] == 1
        assert letter.properties["deliveryAttempts"] == 3
        assert letter.event.topic == "dead"
    assert driver.dead_letters == [letter]


def test_the_event_at_fault_can_be_named() -> None:
    async def picky(context: Any, events: list[StoredEvent]) -> None:
        for event in events:
            if event.body == b"bad":
                raise EventFailed(event) from ValueError("no")
        await context.checkpoint()

    with ProcessorDriver(picky, options=GIVES_UP) as driver:
        driver.feed(b"a", b"bad", b"b")
        driver.clock.advance(1)
        assert driver.checkpoints == [0, 1, 2]
        assert [letter.last_error for letter in driver.dead_letters] == ["ValueError: no"]


@pytest.mark.parametrize(
    ("answer", "checkpoints"), [(ErrorAction.SKIP, [0]), (ErrorAction.RETRY, [])]
)
def test_what_the_processor_says_about_an_error_is_done(
    answer: ErrorAction, checkpoints: list[int]
) -> None:
    class Judging(Answering):
        pass

    Judging.answer = answer
    with ProcessorDriver(Judging) as driver:
        driver.feed(b"bad")
        assert driver.processor.calls == ["open 1", "process 1", "error 1"]
        assert driver.checkpoints == checkpoints


def test_a_processor_that_stops_its_host_has_it_stopped() -> None:
    class Stopping(Answering):
        answer = ErrorAction.STOP

    with ProcessorDriver(Stopping) as driver:
        driver.feed(b"bad")
        assert driver.processor.closed is CloseReason.FAILED
        assert isinstance(driver.failure, ValueError)
        assert driver.status() is None


def test_what_is_no_mere_exception_comes_out_of_the_call() -> None:
    def exits(context: Any, events: list[StoredEvent]) -> None:
        if events[0].body == b"exit":
            raise SystemExit(3)

    with ProcessorDriver(exits) as driver:
        with pytest.raises(SystemExit):
            driver.feed(b"exit")
        driver.log.topic("events").group("test").reset(1)
        driver.feed(b"on")  # it can go on all the same


def test_what_open_raises_is_reported_and_tried_again() -> None:
    opened = []

    class Late(Noting):
        async def open(self, context: Any) -> None:
            opened.append(self)
            if len(opened) < 3:
                raise OSError("not yet")

    with ProcessorDriver(Late) as driver:
        driver.feed(b"a")
        assert driver.checkpoints == []
        driver.clock.advance(1)
        assert [str(error) for error in driver.reported] == ["not yet"] * 2
        assert driver.errors == []
        assert driver.checkpoints == [0]
        assert driver.processor is opened[2]


def test_events_that_expired_unread_are_told_of() -> None:
    with ProcessorDriver(Noting) as driver:
        driver.topic.configure(retention=60)
        driver.feed(b"a")
        driver.hand_over()
        driver.topic.append_batch([b"b", b"c"], partition=0)
        driver.clock.advance(3600)
        driver.feed(b"d")
        (error,) = driver.errors
        assert isinstance(error, eventlog.EventsExpiredError)
        assert (error.first, error.last) == (1, 2)
        assert driver.processor.bodies == [b"d"]


@pytest.mark.parametrize("answer", [ErrorAction.SKIP, ErrorAction.RETRY])
def test_what_cannot_be_read_is_judged_by_the_processor(answer: ErrorAction) -> None:
    """As with a damaged batch: SKIP goes on behind it, RETRY waits."""

    class Judging(Answering):
        pass

    Judging.answer = answer
    with ProcessorDriver(Judging) as driver:
        driver.feed(b"a")
        driver.hand_over()
        driver.topic.append_batch([b"b", b"c"], partition=0)
        _damage(driver.topic)
        driver.feed(b"d")
        assert isinstance(driver.errors[0], CorruptBatchError)
        assert driver.processor.bodies == ([b"d"] if answer is ErrorAction.SKIP else [])


def _damage(topic: Topic) -> None:
    """Damage the last batch of partition 0."""
    damage(topic.log, topic.partition_info(0).last_enqueued_offset)


# Time


@both
def test_idle_is_called_when_nothing_came_for_long_enough(factory: Any) -> None:
    with ProcessorDriver(factory, options=ProcessorOptions(max_wait=5)) as driver:
        driver.clock.advance(4.9)
        assert driver.processor.calls == ["open 1"]
        driver.clock.advance(timedelta(seconds=0.1))
        assert driver.processor.calls == ["open 1", "idle"]
        driver.feed(b"a")
        driver.idle()
        driver.clock.advance(10)
        assert driver.processor.calls[2:] == ["process 1", "idle", "idle", "idle"]


def test_a_processor_without_idle_is_not_disturbed_for_years() -> None:
    with ProcessorDriver(lambda context, events: None) as driver:
        driver.clock.advance(timedelta(days=3650))
        driver.feed(b"a")
        assert driver.errors == []


def test_automatic_checkpoints_come_when_they_are_due() -> None:
    options = ProcessorOptions(checkpoint="auto", checkpoint_interval=10)
    with ProcessorDriver(lambda context, events: None, options=options) as driver:
        driver.feed(b"a")
        assert driver.checkpoints == [0]
        driver.feed(b"b")
        driver.clock.advance(9)
        assert driver.checkpoints == [0]
        driver.clock.advance(1)
        assert driver.checkpoints == [0, 1]
        driver.feed(b"c")
        driver.hand_over()
        assert driver.checkpoints == [0, 1, 2]


def test_a_coroutine_that_takes_too_long_is_cancelled() -> None:
    released: list[float] = []

    async def slow(context: Any, events: list[StoredEvent]) -> None:
        if len(released) < 2:
            try:
                await driver.clock.sleep(3600)
            finally:
                released.append(driver.clock.now())
        await context.checkpoint()

    options = ProcessorOptions(handler_timeout=30)
    with ProcessorDriver(slow, options=options) as driver:
        driver.feed(b"a")  # returns, since only time can help
        driver.clock.advance(29)
        assert driver.errors == []
        driver.clock.advance(1)
        assert [type(error) for error in driver.errors] == [TimeoutError]
        driver.clock.advance(40)
        assert released == [30, 60.1]
        assert driver.checkpoints == [0]


def test_a_call_that_hangs_can_be_left_to_its_timeout() -> None:
    async def hangs(context: Any, events: list[StoredEvent]) -> None:
        if not driver.errors:
            await anyio.sleep_forever()
        await context.checkpoint()

    with ProcessorDriver(hangs, options=ProcessorOptions(handler_timeout=30)) as driver:
        driver.feed(b"a", wait=False)
        driver.clock.advance(29)
        assert driver.errors == []
        driver.clock.advance(2)
        assert [type(error) for error in driver.errors] == [TimeoutError]
        assert driver.checkpoints == [0]


def test_a_call_that_does_not_end_is_named() -> None:
    go_on = threading.Event()

    def hangs(context: Any, events: list[StoredEvent]) -> None:
        go_on.wait(PATIENCE)

    with ProcessorDriver(hangs, patience=0.05) as driver:
        with pytest.raises(TimeoutError, match="`process` of the processor still runs"):
            driver.feed(b"a")
        go_on.set()
        driver.feed()


def test_a_plain_function_can_wait_by_the_clock() -> None:
    def slow(context: Any, events: list[StoredEvent]) -> None:
        driver.clock.block(10)
        context.checkpoint()

    with ProcessorDriver(slow) as driver:
        driver.feed(b"a")
        assert driver.checkpoints == []
        driver.clock.advance(10)
        assert driver.checkpoints == [0]


def test_a_plain_function_that_takes_too_long_is_reported_and_waited_for() -> None:
    def slow(context: Any, events: list[StoredEvent]) -> None:
        driver.clock.block(10)
        context.checkpoint()

    with ProcessorDriver(slow, options=ProcessorOptions(handler_timeout=5)) as driver:
        driver.feed(b"a")
        driver.clock.advance(6)
        assert [type(error) for error in driver.reported] == [TimeoutError]
        assert driver.checkpoints == []
        driver.clock.advance(4)
        assert driver.checkpoints == [0]


# Owners


@both
def test_a_partition_that_is_handed_over_goes_to_another_instance(factory: Any) -> None:
    with ProcessorDriver(factory) as driver:
        driver.feed(b"a")
        first = driver.processor
        driver.hand_over()
        assert first.closed is CloseReason.HANDED_OVER
        assert driver.status() is None
        driver.feed(b"b")
        assert driver.processor is not first
        assert (driver.processor.calls, driver.processor.bodies) == (
            ["open 2", "process 1"],
            [b"b"],
        )
        assert driver.checkpoints == [0, 1]


def test_what_was_not_checkpointed_goes_to_the_next_owner() -> None:
    batches: list[list[bytes]] = []

    def forgetful(context: Any, events: list[StoredEvent]) -> None:
        batches.append([event.body for event in events])

    with ProcessorDriver(forgetful) as driver:
        driver.feed(b"a")
        driver.lose_lease()
        driver.feed(b"b")
        assert batches == [[b"a"], [b"a"], [b"b"]]


def test_another_owner_can_begin_without_events() -> None:
    with ProcessorDriver(Noting) as driver:
        driver.stop()
        assert driver.processor.closed is CloseReason.SHUTDOWN
        driver.begin()
        driver.begin()
        assert driver.processor.calls == ["open 2"]


@both
def test_a_lease_can_be_lost(factory: Any) -> None:
    with ProcessorDriver(factory) as driver:
        driver.feed(b"a")
        driver.lose_lease()
        assert driver.processor.closed is CloseReason.LEASE_LOST
        driver.lose_lease()
        driver.hand_over()
        driver.stop()  # there is nothing to lose any more
        assert driver.processor.closed is CloseReason.LEASE_LOST


def test_a_coroutine_is_cancelled_when_the_lease_is_lost() -> None:
    noted: list[bool] = []

    async def hangs(context: Any, events: list[StoredEvent]) -> None:
        try:
            await driver.clock.sleep(3600)
        finally:
            noted.append(context.lost.is_set())

    with ProcessorDriver(hangs) as driver:
        driver.feed(b"a")
        driver.lose_lease()
        assert noted == [True]


def test_a_plain_function_finds_out_that_the_lease_is_lost() -> None:
    """It cannot be cancelled: it goes on, and stores nothing."""
    noted: list[BaseException] = []
    done = threading.Event()

    def slow(context: Any, events: list[StoredEvent]) -> None:
        assert context.lost.wait(PATIENCE)
        try:
            context.checkpoint()
        except LeaseLostError as error:
            noted.append(error)
        done.set()

    with ProcessorDriver(slow) as driver:
        driver.feed(b"a", wait=False)
        driver.lose_lease()
        assert done.wait(PATIENCE)
        assert len(noted) == 1
        assert driver.checkpoints == []


def test_a_handover_waits_for_the_batch_that_is_under_way() -> None:
    closed = []

    class Slow(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            await driver.clock.sleep(10)
            await context.checkpoint()

        async def close(self, context: Any, reason: CloseReason) -> None:
            closed.append(reason)

    with ProcessorDriver(Slow) as driver:
        driver.feed(b"a")
        driver.hand_over()
        assert closed == []
        driver.clock.advance(10)
        assert (closed, driver.checkpoints) == ([CloseReason.HANDED_OVER], [0])


# The end


def test_a_processor_is_closed_with_the_driver() -> None:
    with ProcessorDriver(Noting) as driver:
        driver.feed(b"a")
    assert driver.processor.closed is CloseReason.SHUTDOWN
    with pytest.raises(ClosedError):
        driver.feed(b"b")
    with pytest.raises(ClosedError):
        driver.clock.advance(1)
    driver.close()


def test_what_the_test_raises_comes_out_as_it_is() -> None:
    def test() -> None:
        with ProcessorDriver(Noting) as driver:
            driver.feed(b"a")
            raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        test()


def test_a_call_that_is_under_way_does_not_keep_the_driver_from_closing() -> None:
    go_on, closed = threading.Event(), []

    class Slow(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            await driver.clock.sleep(3600)

        async def close(self, context: Any, reason: CloseReason) -> None:
            closed.append(reason)

    def plain(context: Any, events: list[StoredEvent]) -> None:
        go_on.wait(PATIENCE)

    with ProcessorDriver(Slow) as driver:
        driver.feed(b"a")
    assert closed == [CloseReason.SHUTDOWN]
    with ProcessorDriver(plain) as driver:
        driver.feed(b"a", wait=False)
    go_on.set()


def test_a_driver_can_be_used_without_a_block() -> None:
    driver = ProcessorDriver(Noting)
    driver.feed(b"a")
    assert driver.checkpoints == [0]
    driver.close()
    assert driver.processor.closed is CloseReason.SHUTDOWN


def test_a_driver_that_was_never_used_can_be_closed() -> None:
    driver = ProcessorDriver(Noting)
    driver.close()
    assert driver.processor is None


def test_a_driver_that_is_forgotten_ends_its_thread() -> None:
    before = _portals()
    driver = ProcessorDriver(Noting)
    driver.feed(b"a")
    processor = driver.processor
    del driver
    gc.collect()
    assert processor.closed is CloseReason.SHUTDOWN
    assert _portals() == before


def _portals() -> list[str]:
    """The threads of drivers."""
    return [thread.name for thread in threading.enumerate() if "portal" in thread.name]


def test_a_driver_is_for_one_block() -> None:
    driver = ProcessorDriver(Noting)
    with driver:
        pass
    with pytest.raises(RuntimeError):
        driver.__enter__()


def test_the_fixture_makes_drivers_and_closes_them(processor_driver: MakeDriver) -> None:
    first, second = processor_driver(Noting), processor_driver(PlainNoting, "cars")
    first.feed(b"a")
    with second:
        second.feed(b"b")
    assert (first.checkpoints, second.checkpoints, second.topic.name) == ([0], [0], "cars")


def test_a_driver_that_nobody_closed_does_not_keep_the_program_from_ending() -> None:
    source = """
from eventlog.testing import ProcessorDriver
driver = ProcessorDriver(lambda context, events: None)
driver.feed(b"a")
print(driver.status().state)
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == "waiting\n"


# Mistakes


def test_mistakes_are_found_when_the_driver_is_made(topic: Topic) -> None:
    wrong: Any
    for wrong in (None, 1, Noting()):
        with pytest.raises(TypeError, match="processor"):
            ProcessorDriver(wrong)
    with pytest.raises(PartitionNotFoundError):
        ProcessorDriver(Noting, topic, partition=3)
    with pytest.raises(InvalidNameError):
        ProcessorDriver(Noting, "a/b")
    with pytest.raises(InvalidNameError):
        ProcessorDriver(Noting, group="a/b")
    for wrong in ({"max_batch": 1}, None):
        with pytest.raises(TypeError, match="ProcessorOptions"):
            ProcessorDriver(Noting, options=wrong)
