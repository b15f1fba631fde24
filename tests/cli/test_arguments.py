"""Times, sizes and positions are written as people write them, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import EARLIEST, LATEST
from eventlog.cli.arguments import (
    NO_LIMIT,
    duration,
    position,
    seconds,
    size,
    size_limit,
    text_property,
)
from eventlog.cli.display import Size, duration_text, instant_text, pretty, size_text


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("7d", timedelta(days=7)),
        ("1.5h", timedelta(minutes=90)),
        ("90s", timedelta(seconds=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("2w", timedelta(days=14)),
        ("10 M", timedelta(minutes=10)),
        ("none", NO_LIMIT),
    ],
)
def test_a_length_of_time_is_a_number_and_a_unit(text: str, length: object) -> None:
    assert duration(text) == length


@pytest.mark.parametrize(
    ("text", "count"), [("30", 30), ("0", 0), ("1.5", 1.5), ("250ms", 0.25), ("2m", 120)]
)
def test_seconds_need_no_unit(text: str, count: float) -> None:
    assert seconds(text) == count


@pytest.mark.parametrize("text", ["", "soon", "-1", "none", "1e3", "nan"])
def test_what_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no length of time: '30s', or 30, say"):
        seconds(text)


@given(st.timedeltas(min_value=timedelta(microseconds=1)))
def test_a_length_of_time_that_was_shown_can_be_given_back(length: timedelta) -> None:
    assert duration(duration_text(length)) == length


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1048576", 2**20),
        ("12b", 12),
        ("1MiB", 2**20),
        ("1.5 KiB", 1536),
        ("500MB", 500_000_000),
        ("10gib", 10 * 2**30),
        ("2TB", 2 * 10**12),
    ],
)
def test_a_size_is_bytes_or_a_number_and_a_decimal_or_binary_unit(text: str, count: int) -> None:
    assert size(text) == count
    assert size_limit(text) == count


def test_no_limit_is_said_by_none() -> None:
    assert size_limit("none") is NO_LIMIT


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("0", 0),
        ("41", 41),
        ("earliest", EARLIEST),
        ("latest", LATEST),
        ("2026-03-01T12:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00.000001+01:00", datetime(2026, 3, 1, 11, 0, 0, 1, tzinfo=UTC)),
    ],
)
def test_a_position_is_an_offset_or_what_the_library_takes(text: str, where: object) -> None:
    assert position(text) == where


def test_an_age_counts_back_from_now() -> None:
    before = datetime.now(UTC)
    where = position("-24h")
    assert isinstance(where, datetime)
    assert timedelta(0) <= where + timedelta(hours=24) - before < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("take", "text"),
    [
        (duration, "7"),
        (duration, "d"),
        (duration, "-7d"),
        (duration, "7 days"),
        (duration, "0.5ns"),
        (duration, "99999999999w"),
        (size, "10G"),
        (size, "1.5"),
        (size, "-1"),
        (size, "none"),
        (size, ""),
        (position, "-1"),
        (position, "yesterday"),
        (position, "2026-03-01T12:00"),
        (text_property, "name"),
        (text_property, "=value"),
    ],
)
def test_what_could_mean_two_things_or_nothing_is_refused(
    take: Callable[[str], object], text: str
) -> None:
    with pytest.raises(click.BadParameter):
        take(text)


def test_a_property_has_its_value_behind_the_first_equals_sign() -> None:
    assert text_property("a=b=c") == ("a", "b=c")
    assert text_property("a=") == ("a", "")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1 MiB"),
        (10 * 2**30, "10 GiB"),
        (2**40, "1 TiB"),
        (5000 * 2**40, "5,000 TiB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_fits(count: int, text: str) -> None:
    assert size_text(count) == pretty(Size(count)) == text


def test_instants_as_text_are_in_the_order_of_time() -> None:
    first = datetime(2026, 3, 1, tzinfo=UTC)
    second = first + timedelta(microseconds=1)
    assert instant_text(first) == "2026-03-01T00:00:00.000000Z"
    assert instant_text(first) < instant_text(second)
