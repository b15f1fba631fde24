"""What becomes of events that a processor fails at: tried again, put aside, passed by, never lost.
On asyncio and on trio.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from eventlog import CorruptBatchError, EventLog, EventsExpiredError, StoreUnavailableError
from eventlog.blobs.memory import MemoryBlobs
from eventlog.processor.options import RetryPolicy
from eventlog.processor.processor import (
    DEAD_LETTER,
    RETRY,
    SKIP,
    STOP,
    CloseReason,
    EventFailed,
)
from eventlog.processor.pump import Outcome
from tests.processor.pumping import (
    GROUP,
    PATIENCE,
    Recorder,
    Rig,
    bodies,
    flat,
    recorder,
    until,
    until_count,
    until_ended,
)
from tests.test_consumer import damage

pytestmark = pytest.mark.anyio

EXACT = RetryPolicy(jitter=0, initial_delay=1, max_delay=4)
THREE = RetryPolicy(jitter=0, initial_delay=1, max_delay=4, max_attempts=3)
ONCE: dict[str, Any] = {"retry": RetryPolicy(max_attempts=1), "dead_letter": "dead"}


@pytest.fixture
def rig(memory_log: EventLog) -> Rig:
    return Rig(memory_log)


@pytest.fixture(autouse=True)
async def _patience() -> AsyncIterator[None]:
    """A test that hangs fails."""
    with anyio.fail_after(PATIENCE):
        yield


def failing_at(*bad: str, times: int = 10**9, named: bool = False, judge: Any = None) -> Any:
    """A recorder that raises for batches with certain events in them, and checkpoints others."""
    failures: dict[str, int] = {}

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        for event in events:
            text = event.text()
            if text in bad and failures.get(text, 0) < times:
                failures[text] = failures.get(text, 0) + 1
                error = ValueError(f"{text} is bad")
                if named:
                    raise EventFailed(event) from error
                raise error
        await context.checkpoint()

    methods: dict[str, Any] = {"handle": handle}
    if judge is not None:
        methods["judge"] = judge
    return recorder(**methods)


def always(action: Any) -> Any:
    return lambda self, exception, events: action


# Again


async def test_a_batch_that_failed_comes_again_after_delays_that_grow(rig: Rig) -> None:
    processor = failing_at("b", times=4)
    rig.feed(*"abc")
    delays = []
    async with rig.running(rig.pump(processor, retry=EXACT)) as pump:
        for count in range(4):
            await rig.until_retrying(pump)
            assert pump.status().attempts == count + 1
            assert isinstance(pump.status().last_error, ValueError)
            (delay,) = rig.clock.waits()
            delays.append(delay)
            rig.clock.advance(delay)
            await until_count(processor.made[0].batches, count + 2)
        await until(lambda: rig.checkpoint == 2)
        await until(lambda: pump.status().last_error is None)
        assert pump.status().attempts == 0
    assert delays == [1, 2, 4, 4]
    assert processor.made[0].batches == [list("abc")] * 5
    assert [events for _, events in processor.made[0].errors] == [list("abc")] * 4


async def test_what_is_behind_the_checkpoint_comes_again_and_nothing_else(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        for event in events:
            if event.text() == "c" and len(self.batches) == 1:
                raise ValueError
            await context.checkpoint(event)

    processor = recorder(handle=handle)
    rig.feed(*"abcd")
    async with rig.running(rig.pump(processor, retry=EXACT)) as pump:
        await rig.until_retrying(pump)
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 3)
    assert processor.made[0].batches == [list("abcd"), list("cd")]
    assert [events for _, events in processor.made[0].errors] == [list("cd")]


async def test_an_error_behind_the_last_checkpoint_is_told_and_nothing_comes_again(
    rig: Rig,
) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        await context.checkpoint()
        raise ValueError

    processor = recorder(handle=handle)
    rig.feed(*"ab")
    async with rig.running(rig.pump(processor, max_batch=1)):
        await until(lambda: rig.checkpoint == 1)
    assert processor.made[0].batches == [["a"], ["b"]]
    assert [events for _, events in processor.made[0].errors] == [[], []]


async def test_an_order_ends_the_waiting_at_once(rig: Rig) -> None:
    for member, order in enumerate(["stop", "hand_over"]):
        processor = failing_at("a")
        if not member:
            rig.feed("a")
        async with rig.running(rig.pump(processor, member=f"host-{member}")) as pump:
            await rig.until_retrying(pump)
            getattr(pump, order)()
            await until_ended(pump)
        assert pump.outcome is Outcome.RELEASED
        assert processor.made[0].calls == ["open", "process", "error", "close"]


async def test_a_reset_ends_the_waiting_at_once(rig: Rig) -> None:
    processor = failing_at("a")
    rig.feed(*"ab")
    async with rig.running(rig.pump(processor)) as pump:
        await rig.until_retrying(pump)
        await anyio.to_thread.run_sync(lambda: rig.topic.group(GROUP).reset(1, force=True))
        pump.look()
        await until(lambda: rig.checkpoint == 1)
    assert processor.made[1].batches == [["b"]]


@pytest.mark.parametrize("answer", [None, RETRY, "what?", ValueError("in error")])
async def test_whatever_error_does_but_decide_the_batch_comes_again(rig: Rig, answer: Any) -> None:
    def judge(self: Recorder, exception: Any, events: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    processor = failing_at("a", times=1, judge=judge)
    rig.feed("a")
    async with rig.running(rig.pump(processor, retry=EXACT)) as pump:
        await rig.until_retrying(pump)
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
    assert processor.made[0].batches == [["a"], ["a"]]
    assert len(rig.reported) == (answer == "what?" or isinstance(answer, Exception))


async def test_without_an_error_method_it_is_retry(rig: Rig) -> None:
    seen = []

    async def handle(context: Any, events: Any) -> None:
        seen.append(bodies(events))
        if len(seen) == 1:
            raise ValueError
        await context.checkpoint()

    rig.feed("a")
    async with rig.running(rig.pump(handler=handle, retry=EXACT)) as pump:
        await rig.until_retrying(pump)
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
    assert seen == [["a"], ["a"]]


async def test_stop_ends_the_host_with_the_error(rig: Rig) -> None:
    processor = failing_at("b", judge=always(STOP))
    rig.feed(*"ab")
    async with rig.running(rig.pump(processor, max_batch=1)) as pump:
        await until_ended(pump)
    assert pump.outcome is Outcome.STOPPED
    assert str(pump.error) == "b is bad"
    assert processor.made[0].reasons == [CloseReason.FAILED]
    assert rig.checkpoint == 0


# Enough


async def until_dead(rig: Rig, pump: Any, checkpoint: int) -> None:
    """Let time pass until the group is there."""
    while rig.checkpoint != checkpoint:
        if pump.status().state in ("retrying", "failing"):
            rig.clock.advance(min(rig.clock.waits(), default=0))
        await anyio.lowlevel.checkpoint()


async def test_when_the_attempts_are_used_up_events_go_alone_and_the_bad_ones_are_put_aside(
    rig: Rig,
) -> None:
    processor = failing_at("b", "d")
    rig.feed(*"abcde")
    async with rig.running(rig.pump(processor, retry=THREE, dead_letter="dead")) as pump:
        began = rig.clock.wall_us()
        await until_dead(rig, pump, 4)
    whole = list("abcde")
    assert processor.made[0].batches == [whole, whole, whole, ["a"], ["b"], ["c"], ["d"], ["e"]]
    (b, told_b), (d, told_d) = rig.dead_letters()
    assert (b, d) == ("b", "d")
    assert told_b.reason == "the attempts were used up"
    assert (told_b.attempts, told_b.last_error) == (4, "ValueError: b is bad")
    assert (told_b.topic, told_b.partition, told_b.offset, told_b.group) == ("cars", 0, 1, GROUP)
    assert told_b.first_attempt_at is not None
    assert told_b.last_attempt_at is not None
    assert round(told_b.first_attempt_at.timestamp() * 1e6) == began
    assert (told_b.last_attempt_at - told_b.first_attempt_at).total_seconds() == 3
    assert told_d.offset == 3


@pytest.mark.parametrize(
    ("policy", "attempts"),
    [
        (RetryPolicy(give_up_on=ValueError), 1),
        (RetryPolicy(give_up_on=(KeyError, LookupError)), None),
        (RetryPolicy(time_limit=3, initial_delay=1, jitter=0), 3),
        (RetryPolicy(max_attempts=1), 1),
    ],
)
async def test_what_is_enough_the_policy_says(
    rig: Rig, policy: RetryPolicy, attempts: int | None
) -> None:
    processor = failing_at("a", times=5)
    rig.feed("a")
    async with rig.running(rig.pump(processor, retry=policy, dead_letter="dead")) as pump:
        await until_dead(rig, pump, 0)
    assert len(processor.made[0].batches) == (attempts or 6)
    assert len(rig.dead_letters()) == (attempts is not None)


async def test_without_a_topic_for_them_it_keeps_trying_at_the_longest_delay_and_says_so(
    rig: Rig,
) -> None:
    processor = failing_at("b", times=8)
    rig.feed(*"abc")
    async with rig.running(rig.pump(processor, retry=THREE)) as pump:
        await until(lambda: processor.made)
        while len(processor.made[0].batches) < 7:
            if pump.status().state == "retrying" and rig.clock.waits():
                rig.clock.advance(1)
            if pump.status().state == "failing" and rig.clock.waits():
                assert rig.clock.waits() == [4]
                assert pump.status().attempts >= 3
                rig.clock.advance(4)
            await anyio.lowlevel.checkpoint()
        assert rig.checkpoint == 0
        await until_dead(rig, pump, 2)
    assert processor.made[0].batches[:5] == [list("abc")] * 3 + [["a"], ["b"]]
    assert processor.made[0].batches[-1] == ["c"]
    assert rig.dead_letters() == []


async def test_an_event_that_is_named_goes_aside_and_its_neighbours_go_together(rig: Rig) -> None:
    processor = failing_at("c", named=True)
    rig.feed(*"abcde")
    async with rig.running(rig.pump(processor, retry=THREE, dead_letter="dead")) as pump:
        await until_dead(rig, pump, 4)
    assert processor.made[0].batches == [list("abcde")] * 3 + [list("ab"), list("de")]
    ((text, told),) = rig.dead_letters()
    assert (text, told.attempts, told.last_error) == ("c", 3, "ValueError: c is bad")


async def test_each_event_that_is_named_has_attempts_of_its_own(rig: Rig) -> None:
    processor = failing_at("b", "d", times=2, named=True)
    rig.feed(*"abcd")
    async with rig.running(rig.pump(processor, retry=THREE, dead_letter="dead")) as pump:
        await until_dead(rig, pump, 3)
    assert rig.dead_letters() == []
    assert processor.made[0].batches == [list("abcd")] * 5


async def test_an_event_of_another_batch_cannot_be_named(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        seen.append(events[0])
        if events[0].text() == "b":
            raise EventFailed(seen[0])
        await context.checkpoint()

    seen: list[Any] = []
    rig.feed(*"ab")
    options: dict[str, Any] = {
        "retry": RetryPolicy(max_attempts=1),
        "dead_letter": "dead",
        "max_batch": 1,
    }
    async with rig.running(rig.pump(recorder(handle=handle), **options)):
        await until(lambda: rig.checkpoint == 1)
    assert [text for text, _ in rig.dead_letters()] == ["b"]


@pytest.mark.parametrize(("action", "dead"), [(DEAD_LETTER, ["b"]), (SKIP, [])])
async def test_error_may_have_an_event_put_aside_at_once(
    rig: Rig, action: Any, dead: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of several, when it was found by going alone; each failure is asked about."""
    processor = failing_at("b", judge=always(action))
    rig.feed(*"abc")
    with caplog.at_level(logging.WARNING, "eventlog"):
        async with rig.running(rig.pump(processor, dead_letter="dead")):
            await until(lambda: rig.checkpoint == 2)
    assert processor.made[0].batches == [list("abc"), ["a"], ["b"], ["c"]]
    assert [events for _, events in processor.made[0].errors] == [list("abc"), ["b"]]
    assert [text for text, _ in rig.dead_letters()] == dead
    assert "offset 1 was put aside" in caplog.text


async def test_alone_an_event_may_be_worth_another_try(rig: Rig) -> None:
    """`error` says DEAD_LETTER of the batch, and RETRY of the event, which the policy allows."""
    processor = failing_at(
        "b", times=2, judge=lambda self, error, events: RETRY if len(events) == 1 else DEAD_LETTER
    )
    rig.feed(*"abc")
    async with rig.running(rig.pump(processor, retry=THREE, dead_letter="dead")) as pump:
        await until_dead(rig, pump, 2)
    assert processor.made[0].batches == [list("abc"), ["a"], ["b"], ["b"], ["c"]]
    assert rig.dead_letters() == []


async def test_what_a_processor_has_not_checkpointed_is_not_when_an_event_is_put_aside(
    rig: Rig,
) -> None:
    """It gathers: only it knows what is finished. Its next checkpoint covers the dead letter."""

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        (event,) = events
        if event.text() == "c":
            raise ValueError
        if event.text() == "e":
            await context.checkpoint()

    processor = recorder(handle=handle)
    rig.feed(*"abcd")
    options: dict[str, Any] = {
        "retry": RetryPolicy(max_attempts=1),
        "dead_letter": "dead",
        "max_batch": 1,
    }
    async with rig.running(rig.pump(processor, **options)):
        await until(lambda: processor.made and ["d"] in processor.made[0].batches)
        assert [text for text, _ in rig.dead_letters()] == ["c"]
        assert rig.checkpoint == -1
        rig.feed("e")
        await until(lambda: rig.checkpoint == 4)


async def test_with_automatic_checkpoints_what_was_finished_counts(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        if events[0].text() == "c":
            raise ValueError

    rig.feed(*"abc")
    async with rig.running(
        rig.pump(
            recorder(handle=handle),
            checkpoint="auto",
            checkpoint_interval=1000,
            retry=RetryPolicy(max_attempts=1),
            dead_letter="dead",
            max_batch=1,
        )
    ):
        await until(rig.dead_letters)
        assert rig.checkpoint == 2


async def test_a_dead_letter_and_its_checkpoint_are_one_commit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is there once, whatever fails, and the event is not processed again."""
    commits = []
    original = type(rig.log).commit  # type: ignore[attr-defined]

    def commit(self: Any, *given: Any, **named: Any) -> Any:
        commits.append((len(rig.dead.read(0)), rig.checkpoint))
        return original(self, *given, **named)

    processor = failing_at("a")
    rig.feed("a")
    async with rig.running(rig.pump(processor, **ONCE)):
        await until(lambda: processor.made and processor.made[0].errors)
        monkeypatch.setattr(type(rig.log), "commit", commit)
        await until(lambda: rig.checkpoint == 0)
    assert all(dead == (0 if checkpoint == -1 else 1) for dead, checkpoint in commits)
    assert len(rig.dead_letters()) == 1


async def test_elsewhere_the_letter_comes_first_and_once_unless_the_process_ends(
    memory_log: EventLog,
) -> None:
    class Moody(MemoryBlobs):
        down = False

        def put(self, name: str, data: bytes, **conditions: Any) -> str:
            if self.down:
                raise StoreUnavailableError("down")
            return super().put(name, data, **conditions)

    store = Moody()
    rig = Rig(memory_log, store=store)

    def judge(self: Recorder, exception: Any, events: Any) -> Any:
        store.down = True
        return DEAD_LETTER

    rig.feed("a")
    async with rig.running(rig.pump(failing_at("a", judge=judge), dead_letter="dead")) as pump:
        for _ in range(2):
            await rig.until_retrying(pump)
            assert len(rig.dead_letters()) == 1
            rig.clock.advance(1)
            await until(lambda: not rig.clock.waits())
        await rig.until_retrying(pump)
        store.down = False
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
    assert len(rig.dead_letters()) == 1


async def test_a_topic_for_dead_letters_that_is_missing_is_waited_for(rig: Rig) -> None:
    processor = failing_at("a")
    rig.feed("a")
    options: dict[str, Any] = {"retry": RetryPolicy(max_attempts=1), "dead_letter": "later"}
    async with rig.running(rig.pump(processor, **options)) as pump:
        await rig.until_retrying(pump)
        assert isinstance(rig.reported[-1], LookupError)
        later = rig.log.create_topic("later", partitions=1)
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
    assert bodies(later.read(0)) == ["a"]


# A transaction that fails


async def test_a_transaction_that_was_stored_though_it_seemed_not_is_not_made_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of a commit is lost; where the checkpoint is says what became of it."""
    original = type(rig.log).commit  # type: ignore[attr-defined]
    lost: list[Any] = []

    def commit(self: Any, *given: Any, **named: Any) -> Any:
        result = original(self, *given, **named)
        if rig.dead.read(0) and not lost:
            lost.append(result)
            raise OSError("the answer was lost")
        return result

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        async with context.transaction() as tx:
            tx.append_batch("dead", bodies(events))

    processor = recorder(handle=handle)
    monkeypatch.setattr(type(rig.log), "commit", commit)
    rig.feed(*"ab")
    async with rig.running(rig.pump(processor, retry=EXACT)):
        await until(lambda: rig.checkpoint == 1 and processor.made[0].errors)
        rig.feed("c")
        await until(lambda: rig.checkpoint == 2)
    assert bodies(rig.dead.read(0)) == list("abc")
    assert processor.made[0].batches == [["a", "b"], ["c"]]
    assert [events for _, events in processor.made[0].errors] == [[]]


# Reading that fails


@pytest.mark.parametrize("action", [SKIP, DEAD_LETTER, RETRY])
async def test_a_damaged_batch_is_told_and_passed_by_only_if_error_says_so(
    memory_log: EventLog, action: Any
) -> None:
    rig = Rig(memory_log)
    for texts in ("ab", "cd", "ef"):
        rig.feed(*texts)
    damage(memory_log, 3)
    processor = recorder(judge=always(action))
    async with rig.running(rig.pump(processor)) as pump:
        if action is RETRY:
            for count in range(3):
                await rig.until_retrying(pump)
                assert len(processor.made[0].errors) == count + 1
                rig.clock.advance(10)
                await until(lambda: not rig.clock.waits())
        else:
            await until(lambda: rig.checkpoint == 5)
    assert flat(processor.made[0].batches) == list("ab" if action is RETRY else "abef")
    error, events = processor.made[0].errors[0]
    assert isinstance(error, CorruptBatchError)
    assert (error.first_offset, error.last_offset, events) == (2, 3, [])
    memory_log.delete_topic("cars")


async def test_events_that_expired_unread_are_told_with_their_range(rig: Rig) -> None:
    former, later = recorder(), recorder()
    rig.feed(*"ab")
    async with rig.running(rig.pump(former)):
        await until(lambda: rig.checkpoint == 1)
    rig.feed(*"cdefg")
    rig.feed("h")
    rig.topic.configure(retention_bytes=1)
    rig.topic.expire()
    async with rig.running(rig.pump(later, member="host-2")):
        await until(lambda: rig.checkpoint == 7)
    ((error, events),) = later.made[0].errors
    assert isinstance(error, EventsExpiredError)
    assert (error.topic, error.partition, error.first, error.last) == ("cars", 0, 2, 6)
    assert events == []
    assert later.made[0].batches == [["h"]]


async def test_idle_that_fails_is_judged_too_and_called_again(rig: Rig) -> None:
    calls = []

    async def idle(self: Recorder, context: Any) -> None:
        calls.append(1)
        raise ValueError("idle")

    processor = recorder(
        idle=idle, judge=lambda self, error, events: STOP if len(calls) == 2 else None
    )
    async with rig.running(rig.pump(processor)) as pump:
        for _ in range(2):
            await until(rig.clock.waits)
            rig.clock.advance(1)
            await until(lambda: not rig.clock.waits())
        await until_ended(pump)
    assert pump.outcome is Outcome.STOPPED
    assert [events for _, events in processor.made[0].errors] == [[], []]


# Events that end their process


class KilledError(BaseException):
    """The process ended here, as far as the store can tell."""


async def crash(rig: Rig, member: str, *poison: str, **options: Any) -> list[list[str]]:
    """An owner that dies at its first poisoned event, if it comes to one; what it was given."""
    batches: list[list[str]] = []

    async def handle(context: Any, events: Any) -> None:
        batches.append(bodies(events))
        if set(poison) & set(bodies(events)):
            raise KilledError
        await context.checkpoint()

    pump = rig.pump(handler=handle, member=member, **options)
    pump.give_back = lambda: None  # type: ignore[method-assign] # the dead say nothing
    async with rig.running(pump):
        await until(lambda: pump.outcome or rig.topic_is_done())
    return batches


async def test_from_the_first_crash_on_events_go_alone_until_the_suspects_are_past(
    rig: Rig,
) -> None:
    rig.feed(*"abcdefgh")
    options: dict[str, Any] = {
        "max_batch": 4,
        "retry": RetryPolicy(max_attempts=2),
        "dead_letter": "dead",
    }
    assert await crash(rig, "host-1", "c", **options) == [list("abcd")]
    assert await crash(rig, "host-2", "c", **options) == [["a"], ["b"], ["c"]]
    assert await crash(rig, "host-3", "c", **options) == [["c"]]
    last = await crash(rig, "host-4", "c", **options)
    assert last[0] == ["d"]
    assert flat(last) == list("defgh")
    assert last[-1] == ["e", "f", "g", "h"] or len(last) == 5
    ((text, told),) = rig.dead_letters()
    assert (text, told.attempts, told.last_error) == ("c", 2, None)
    assert "ended its process" in told.reason


async def test_without_a_limit_or_a_topic_such_an_event_goes_on_being_tried(rig: Rig) -> None:
    rig.feed(*"ab")
    for member in range(1, 4):
        assert (await crash(rig, f"unlimited-{member}", "b"))[-1][-1] == "b"
    policy = RetryPolicy(max_attempts=1, initial_delay=5, max_delay=5, jitter=0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crash_and_note, rig, policy)
        await until(lambda: rig.clock.waits() == [5])
        rig.clock.advance(5)
    assert rig.dead_letters() == []


async def crash_and_note(rig: Rig, policy: RetryPolicy) -> None:
    assert await crash(rig, "patient", "b", retry=policy) == [["b"]]


async def test_a_crash_counts_as_an_attempt_of_an_event_that_then_fails(rig: Rig) -> None:
    rig.feed("a")
    options: dict[str, Any] = {"retry": RetryPolicy(max_attempts=3), "dead_letter": "dead"}
    for member in ("host-1", "host-2"):
        await crash(rig, member, "a", **options)
    processor = failing_at("a")
    async with rig.running(rig.pump(processor, member="host-3", **options)) as pump:
        await until_dead(rig, pump, 0)
    assert len(processor.made[0].batches) == 2
    assert [told.attempts for _, told in rig.dead_letters()] == [3]
