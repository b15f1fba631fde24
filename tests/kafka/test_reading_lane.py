"""What was read ahead of one partition: taken in order, within bounds, and again if asked again."""

from __future__ import annotations

from itertools import groupby

from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from eventlog.consuming.source import Wanted
from eventlog.kafka.reading.lane import Lane
from eventlog.kafka.reading.news import News
from eventlog.kafka.reading.runs import Place, offset_of, runs_of

PLENTY = 2**30
APPEND_TIME = 2


def message(offset: int, time_ms: int = 1000, body: bytes = b"body") -> Message:
    return Message("cars", 0, offset, None, body, None, None, (APPEND_TIME, time_ms))


def lane(offset: int = 0) -> Lane:
    return Lane(News(), 0, offset, PLENTY)


def take(lane: Lane, offset: int, stop: int | None = None, room: int = PLENTY) -> list[int]:
    taken = lane.take(Wanted(0, offset, stop), room, least=True)
    return [*map(offset_of, taken.messages), taken.stop]


def test_what_was_taken_is_given_again_until_what_follows_is_asked_for() -> None:
    """A look that was given up halfway has taken nothing from anybody."""
    one = lane()
    one.put([message(0), message(1)])
    assert take(one, 0, room=4) == [0, 1]
    one.put([message(2)])
    assert take(one, 0) == [0, 1, 2, 3]
    assert take(one, 2) == [2, 3]
    assert not one.holds(1)
    assert one.is_empty


def test_the_stop_covers_what_kafka_keeps_between_events() -> None:
    """Behind the last event, too, when the end was seen."""
    one = lane()
    one.put([message(0), message(4)])
    assert take(one, 0, stop=1) == [0, 1]
    assert take(one, 0, stop=3) == [0, 3]
    assert take(one, 0, room=4) == [0, 4]
    assert one.put_end(7)
    taken = one.take(Wanted(0, 4, None), PLENTY, least=True)
    assert (taken.stop, taken.at_end) == (7, True)
    one.put([message(8)])
    assert take(one, 7, stop=8) == [8]
    assert not one.put_end(9)


def test_one_event_is_taken_whatever_the_room_if_it_has_to_be() -> None:
    """And none if not."""
    one = lane()
    one.put([message(0, body=bytes(100)), message(1)])
    assert one.take(Wanted(0, 0, None), 10, least=False).messages == []
    assert take(one, 0, room=10) == [0, 1]


@st.composite
def _histories(draw: st.DrawFn) -> list[list[int]]:
    """Offsets that come together, with gaps."""
    offset = 0
    parts = []
    for gaps in draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=6)):
        part = []
        for gap in gaps:
            offset += gap
            part.append(offset)
            offset += 1
        parts.append(part)
    return parts


@given(
    _histories(),
    st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(0, 12), st.booleans())),
)
def test_whoever_goes_on_behind_what_was_taken_gets_everything_once(
    parts: list[list[int]], looks: list[tuple[int, int | None, bool]]
) -> None:
    """In whatever pieces it comes and is asked for, and if looks are repeated."""
    one = lane()
    waiting = [*parts]
    got: list[int] = []
    at = 0
    for room, ahead, again in [*looks, *[(PLENTY, None, False)] * (len(parts) + 1)]:
        if waiting:
            one.put([message(offset) for offset in waiting.pop(0)])
        wanted = Wanted(0, at, None if ahead is None else at + ahead)
        taken = one.take(wanted, room, least=True)
        if again:
            same = one.take(wanted, room, least=True)
            assert (same.messages, same.stop) == (taken.messages, taken.stop)
        assert at <= taken.stop
        got += map(offset_of, taken.messages)
        at = taken.stop
    assert got == [offset for part in parts for offset in part]
    assert one.size == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.booleans())
def test_runs_are_cut_where_the_time_changes(times: list[int], append_time: bool) -> None:
    """Without asking each message, where times do not decrease."""
    if append_time:
        times = sorted(times)
    messages = [message(offset, 1000 + time) for offset, time in enumerate(times)]
    runs = runs_of(Place("cars", 0, append_time), messages, len(times) + 1)
    expected = [(1000 + time, len(list(some))) for time, some in groupby(times)]
    assert [(run.enqueued_us // 1000, len(run.events())) for run in runs] == expected
    assert [run.first for run in runs[1:]] == [run.stop for run in runs[:-1]]
    assert runs[-1].stop == len(times) + 1
    events = [event for run in runs for event in run.events()]
    assert [event.offset for event in events] == list(range(len(times)))
