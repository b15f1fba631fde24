"""Dead letters say what is known of an event, and give it back as it was."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import Event, StoredEvent
from eventlog.event import Key, Origin, PropertyValue
from eventlog.processor.dead_letters import (
    Attempts,
    DeadLetter,
    dead_letter,
    describe,
    original,
    read_dead_letter,
)

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
LATER = datetime(2024, 2, 29, 13, tzinfo=UTC)


def stored(
    body: bytes = b"a",
    key: Key | None = None,
    properties: Mapping[str, PropertyValue] | None = None,
) -> StoredEvent:
    return StoredEvent(body, key, properties or {}, 7, Origin("cars", 3, NOON, 256))


def test_a_dead_letter_says_what_is_known() -> None:
    attempts = Attempts(4, NOON, LATER, ValueError("bad\nnews"))
    letter = dead_letter(stored(b"x", "k", {"own": 1}), "fraud", "too often", attempts)
    assert (letter.body, letter.key) == (b"x", "k")
    assert dict(letter.properties) == {
        "own": 1,
        "deadLetterReason": "too often",
        "deliveryAttempts": 4,
        "lastError": "ValueError: bad news",
        "originTopic": "cars",
        "originPartition": 3,
        "originOffset": 263,
        "originEnqueuedAt": NOON,
        "firstAttemptAt": NOON,
        "lastAttemptAt": LATER,
        "group": "fraud",
    }
    assert read_dead_letter(letter) == DeadLetter(
        "too often", 4, "ValueError: bad news", "cars", 3, 263, NOON, NOON, LATER, "fraud"
    )


def test_what_is_not_known_is_none() -> None:
    letter = read_dead_letter(dead_letter(stored(), "fraud", "why", Attempts()))
    assert letter is not None
    assert (letter.attempts, letter.last_error) == (0, None)
    assert (letter.first_attempt_at, letter.last_attempt_at) == (None, None)


@pytest.mark.parametrize(
    "properties",
    [{}, {"deadLetterReason": "x"}, {"deadLetterReason": "x", "deliveryAttempts": "4"}],
)
def test_any_other_event_is_none(properties: dict[str, PropertyValue]) -> None:
    assert read_dead_letter(Event(b"a", None, properties)) is None


values = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text("ab") | st.binary()
names = st.sampled_from(
    ["group", "lastError", "own:group", "own:own:x", "own:", "x", "originTopic"]
)


@given(st.binary(), st.none() | st.text("ab"), st.dictionaries(names, values))
def test_what_was_put_aside_comes_back_as_it_was_also_when_it_was_a_dead_letter(
    body: bytes, key: str | None, properties: dict[str, PropertyValue]
) -> None:
    event = stored(body, key, properties)
    letter = dead_letter(event, "fraud", "why", Attempts())
    assert original(letter) == Event(body, key, properties)
    twice = dead_letter(
        stored(letter.body, letter.key, dict(letter.properties)), "audit", "why", Attempts()
    )
    assert original(twice) == letter
    again = read_dead_letter(twice)
    assert again is not None
    assert again.group == "audit"


def test_there_is_always_a_dead_letter_however_much_the_event_brings_along() -> None:
    crowded = {f"p{number}": "x" * 6000 for number in range(10)} | {"large": b"y" * 5000}
    letter = dead_letter(
        stored(properties=crowded), "fraud", "r" * 10**6, Attempts(error=ValueError("e" * 10**6))
    )
    assert read_dead_letter(letter) is not None
    assert letter.properties["large"] == crowded["large"]
    assert sum(name in letter.properties for name in crowded) == len(crowded) - 1
    long_name = {"own:" + "n" * 252: 1}
    assert read_dead_letter(dead_letter(stored(properties=long_name), "g", "r", Attempts()))


def test_errors_are_described_in_a_line_that_can_be_stored() -> None:
    class Silent(Exception):  # noqa: N818 - it says nothing
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(KeyError("a")) == "KeyError: 'a'"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("a\ud800")) == "ValueError: a\\ud800"
    assert describe(Silent()).endswith("Silent")
    assert len(describe(ValueError("x" * 5000))) == 1000
