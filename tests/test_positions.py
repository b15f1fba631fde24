"""Positions: all the ways to say where reading begins or ends."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import EARLIEST, LATEST, positions
from eventlog.positions import Anchor, instant, microseconds, of_partition, parse

repeatable = settings(derandomize=True, deadline=None)

NOW = datetime(2024, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
NOW_US = 1_709_294_400_123_456


@pytest.mark.parametrize("position", [EARLIEST, LATEST, 0, 41, -1, 2**63])
def test_anchors_and_offsets_mean_themselves(position: Anchor | int) -> None:
    """An int is an offset, whether there is such an event or not."""
    assert parse(position, NOW_US) == position


@pytest.mark.parametrize(
    ("text", "anchor"),
    [("earliest", EARLIEST), ("LATEST", LATEST), ("Earliest", EARLIEST), ("latest", LATEST)],
)
def test_anchors_can_be_written(text: str, anchor: Anchor) -> None:
    """On a command line, in any case."""
    assert parse(text, NOW_US) is anchor


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("-24h", timedelta(hours=24)),
        ("-0s", timedelta(0)),
        ("-1.5h", timedelta(minutes=90)),
        ("-250ms", timedelta(milliseconds=250)),
        ("-90s", timedelta(seconds=90)),
        ("-5m", timedelta(minutes=5)),
        ("-7d", timedelta(days=7)),
        ("-2w", timedelta(weeks=2)),
    ],
)
def test_an_age_counts_back_from_now(text: str, age: timedelta) -> None:
    """In any of the units, whole or in part."""
    assert parse(text, NOW_US) == NOW - age


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2024-02-29T01:02:03Z", datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)),
        ("2024-02-29T01:02:03.000004+00:00", datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC)),
        ("2024-02-29 01:02+05:30", datetime(2024, 2, 28, 19, 32, tzinfo=UTC)),
        ("20240229T010203Z", datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)),
    ],
)
def test_an_iso_time_is_an_instant_in_utc(text: str, when: datetime) -> None:
    """Whatever timezone it is written in."""
    parsed = parse(text, NOW_US)
    assert parsed == when
    assert isinstance(parsed, datetime)
    assert parsed.tzinfo == UTC


def test_a_datetime_is_brought_to_utc() -> None:
    """It means the instant, not what the clock on the wall showed."""
    local = datetime(2024, 3, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    parsed = parse(local, NOW_US)
    assert parsed == datetime(2024, 3, 1, 12, tzinfo=UTC)
    assert isinstance(parsed, datetime)
    assert parsed.tzinfo == UTC


@pytest.mark.parametrize("naive", [NOW.replace(tzinfo=None), "2024-03-01", "2024-03-01T12:00:00"])
def test_a_time_without_a_timezone_is_refused(naive: datetime | str) -> None:
    """Which instant it is, nobody knows."""
    with pytest.raises(ValueError, match="no timezone"):
        parse(naive, NOW_US)


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "24h", "-24", "-h", "-1y", "--1h", "-1 h", "+1h", "12", "-1e3s", "-1h "],
)
def test_text_that_says_no_position_is_refused_with_a_hint(text: str) -> None:
    """The error quotes it and says what can be written."""
    with pytest.raises(ValueError, match="is no position: give an ISO time") as caught:
        parse(text, NOW_US)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "position",
    [
        pytest.param("-99999999999w", id="years"),
        pytest.param("-" + "9" * 400 + "w", id="infinity"),
        pytest.param("0001-01-01T00:00:00+05:00", id="text"),
        pytest.param(datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), id="first"),
        pytest.param(datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), id="last"),
    ],
)
def test_a_time_that_no_datetime_can_say_is_refused(position: str | datetime) -> None:
    """A value error, never an overflow."""
    with pytest.raises(ValueError, match="year"):
        parse(position, NOW_US)


@pytest.mark.parametrize("position", [None, 1.5, True, b"-1h", [], timedelta(hours=1), Anchor])
def test_other_types_are_refused_by_name(position: object) -> None:
    """True is not offset 1, and a timedelta is no instant."""
    with pytest.raises(TypeError, match="a position is"):
        parse(position, NOW_US)


@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_a_mapping_gives_each_partition_its_own(kind: Any) -> None:
    """A partition that is not in it has what the caller says is missing."""
    mapping: Mapping[int, object] = kind({0: 7, 2: "-1h"})
    assert of_partition(mapping, 0, EARLIEST) == 7
    assert of_partition(mapping, 1, EARLIEST) is EARLIEST
    assert of_partition(mapping, 1, None) is None
    assert of_partition(mapping, 2, EARLIEST) == "-1h"


def test_what_is_no_mapping_is_for_every_partition() -> None:
    """One position for all."""
    assert of_partition(LATEST, 5, EARLIEST) is LATEST


def test_there_is_one_of_each_anchor() -> None:
    """They are compared by identity, also after a copy or a journey to another process."""
    for anchor in (EARLIEST, LATEST):
        assert pickle.loads(pickle.dumps(anchor)) is anchor
        assert copy.deepcopy(anchor) is anchor
    assert (repr(EARLIEST), repr(LATEST)) == ("EARLIEST", "LATEST")
    assert positions.Anchor("earliest") is EARLIEST


@repeatable
@given(when=st.datetimes(timezones=st.just(UTC)))
def test_microseconds_and_instants_are_each_others_inverse(when: datetime) -> None:
    """To the last microsecond, from the first year to the last."""
    assert instant(microseconds(when)) == when


@repeatable
@given(count=st.integers(-(10**16), 10**17))
def test_instants_and_microseconds_are_each_others_inverse(count: int) -> None:
    """Before 1970, too."""
    assert microseconds(instant(count)) == count
