"""What was read ahead of one partition: taken in order, within bounds, and again if asked again."""

from __future__ import annotations

import threading
from itertools import groupby
from typing import cast

from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from eventlog.consuming.source import Wanted
from eventlog.kafka.reading.fetch import ReaderLanes
from eventlog.kafka.reading.fetchers import TopicFetchers
from eventlog.kafka.reading.lane import Lane, Taken
from eventlog.kafka.reading.news import News
from eventlog.kafka.reading.runs import Piece, runs_of
from eventlog.kafka.records import Decoded, decoded
from eventlog.positions import microseconds

PLENTY = 2**30
CREATE_TIME = 1


def message(offset: int, time_ms: int = 1000, body: bytes = b"body") -> Message:
    return Message("cars", 0, offset, None, body, None, None, (CREATE_TIME, time_ms))


def events(*offsets: int, body: bytes = b"body") -> Decoded:
    return decoded("cars", 0, [message(offset, body=body) for offset in offsets])


def lane(offset: int = 0) -> Lane:
    return Lane(News(), 0, offset, PLENTY)


def offsets(taken: Taken) -> list[int]:
    return [event.offset for piece in taken.pieces for event in piece.events]


def take(lane: Lane, offset: int, stop: int | None = None, room: int = PLENTY) -> list[int]:
    taken = lane.take(Wanted(0, offset, stop), room, least=True)
    return [*offsets(taken), taken.stop]


def test_what_was_taken_is_given_again_until_what_follows_is_asked_for() -> None:
    """A look that was given up halfway has taken nothing from anybody."""
    one = lane()
    one.put(events(0, 1))
    assert take(one, 0, room=4) == [0, 1]
    one.put(events(2))
    assert take(one, 0) == [0, 1, 2, 3]
    assert take(one, 2) == [2, 3]
    assert not one.holds(1)
    assert one.is_empty


def test_the_stop_covers_what_kafka_keeps_between_events() -> None:
    """Behind the last event, too, when the end was seen."""
    one = lane()
    one.put(events(0, 4))
    assert take(one, 0, stop=1) == [0, 1]
    assert take(one, 0, stop=3) == [0, 3]
    assert take(one, 0, room=4) == [0, 4]
    assert one.put_end(7)
    taken = one.take(Wanted(0, 4, None), PLENTY, least=True)
    assert (taken.stop, taken.at_end) == (7, True)
    one.put(events(8))
    assert take(one, 7, stop=8) == [8]
    assert not one.put_end(9)


def test_one_event_is_taken_whatever_the_room_if_it_has_to_be() -> None:
    """And none if not."""
    one = lane()
    one.put(events(0, body=bytes(100)))
    one.put(events(1))
    assert one.take(Wanted(0, 0, None), 10, least=False).pieces == []
    assert take(one, 0, room=10) == [0, 1]


class Lanes:
    """Who makes lanes, and reads for each until it is let go."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.made = 0

    def lane(self, news: News, partition: int, offset: int, room: int) -> Lane:
        self.made += 1
        return Lane(news, partition, offset, room)

    def is_read(self, _: Lane) -> bool:
        return True

    def release(self, _: Lane) -> None:
        pass


def test_a_lane_in_which_nothing_comes_is_kept_twice_as_long_as_the_one_before() -> None:
    """What was aborted may be so long that no look sees its end; and librdkafka may hang."""
    lanes = Lanes()
    reader = ReaderLanes(cast("TopicFetchers", lanes))
    wanted = Wanted(0, 0, None)
    made = []
    for _ in range(1 + 2 + 4 + 1):
        reader.doubt(reader.lane(wanted, PLENTY))
        made.append(lanes.made)
    assert made == [1] + [2] * 2 + [3] * 4 + [4]
    kept = reader.lane(wanted, PLENTY)
    kept.put(events(0))
    assert take(kept, 0) == [0, 1]
    reader.trust(0)
    assert reader.lane(Wanted(0, 1, None), PLENTY) is kept
    reader.doubt(kept)
    assert reader.lane(Wanted(0, 1, None), PLENTY) is not kept


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
            one.put(events(*waiting.pop(0)))
        wanted = Wanted(0, at, None if ahead is None else at + ahead)
        taken = one.take(wanted, room, least=True)
        if again:
            same = one.take(wanted, room, least=True)
            assert (offsets(same), same.stop) == (offsets(taken), taken.stop)
        assert at <= taken.stop
        got += offsets(taken)
        at = taken.stop
    assert got == [offset for part in parts for offset in part]
    assert one.size == 0


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=9),
    st.booleans(),
)
def test_runs_are_cut_where_the_time_changes_if_that_is_asked_for(
    parts: list[list[int]], by_time: bool
) -> None:
    """They say when their last event was enqueued, and where the next one begins."""
    pieces: list[Piece] = []
    messages: list[Message] = []
    for part in parts:
        first = len(messages)
        messages += [message(first + n, 1000 + time) for n, time in enumerate(part)]
        found, size = decoded("cars", 0, messages[first:])
        pieces.append(Piece(found, len(messages), size))
    times = [1000 + time for part in parts for time in part]
    runs = runs_of(pieces, len(times) + 1, by_time=by_time)
    if by_time:
        expected = [[time] * len(list(some)) for time, some in groupby(times)]
    else:
        expected = [[1000 + time for time in part] for part in parts]
    found_times = [
        [microseconds(event.enqueued_at) // 1000 for event in run.events()] for run in runs
    ]
    assert found_times == expected
    assert [run.enqueued_us // 1000 for run in runs] == [some[-1] for some in expected]
    assert [run.size for run in runs] == [len(b"body") * len(some) for some in expected]
    assert [run.first for run in runs[1:]] == [run.stop for run in runs[:-1]]
    assert runs[-1].stop == len(times) + 1
    assert [event.offset for run in runs for event in run.events()] == list(range(len(times)))
