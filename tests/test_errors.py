"""The tree of errors is as it is drawn, and errors survive a journey to another process."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle
import re

import pytest

import eventlog
from eventlog import (
    CorruptBatchError,
    DeliveryError,
    EventLogError,
    EventsExpiredError,
    LogBusyError,
    LogFullError,
    OffsetOutOfRangeError,
    UnexpectedOffsetError,
    errors,
)

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value)
    and issubclass(value, Exception)
    and value.__module__ == errors.__name__
}

# API.md, "Errors": the builtin that each is as well, for those of this issue.
EXPECTED = {
    "InvalidNameError": ValueError,
    "PartitionNotFoundError": LookupError,
    "TopicNotFoundError": LookupError,
    "TopicExistsError": EventLogError,
    "LogNotFoundError": FileNotFoundError,
    "EventTooLargeError": ValueError,
    "UnexpectedOffsetError": EventLogError,
    "OffsetOutOfRangeError": LookupError,
    "UnsupportedOperationError": EventLogError,
    "ClosedError": EventLogError,
    "ConsumerDisconnectedError": EventLogError,
    "LeaseLostError": EventLogError,
    "ProducerFencedError": EventLogError,
    "BufferFullError": EventLogError,
    "DeliveryError": EventLogError,
    "LogBusyError": TimeoutError,
    "PreconditionFailedError": EventLogError,
    "StoreUnavailableError": EventLogError,
    "LogFullError": OSError,
    "CorruptBatchError": EventLogError,
    "EventsExpiredError": EventLogError,
    "FormatVersionError": EventLogError,
    "NotALogError": EventLogError,
}

EXAMPLES = [
    UnexpectedOffsetError("no", expected=1, actual=2),
    OffsetOutOfRangeError("no", offset=1, beginning_offset=2, next_offset=3),
    LogBusyError("no", holder=42),
    LogFullError("no"),
    DeliveryError("no", count=3),
    CorruptBatchError("no", topic="cars", partition=1, first_offset=2, last_offset=3),
    EventsExpiredError("no", topic="cars", partition=1, first=2, last=3),
    *(kind("no") for name, kind in CLASSES.items()),
]


def drawn() -> dict[str, str]:
    """The classes in the docstring's tree, each with the builtin in parentheses, if any."""
    assert errors.__doc__ is not None
    tree = errors.__doc__.split("::")[1].split("\n\n")[1]
    return {
        found[1]: found[2] or ""
        for line in tree.splitlines()
        if (found := re.search(r"-- (\w+Error) *(?:\((\w+)\))?", line))
    }


def test_the_tree_that_is_drawn_is_the_tree_that_is_there() -> None:
    """Every class is drawn, and with the builtin it derives from."""
    tree = drawn()
    assert set(tree) == set(CLASSES) - {"EventLogError"}
    for name, builtin in tree.items():
        bases = [base.__name__ for base in CLASSES[name].__bases__]
        assert bases == ["EventLogError", *([builtin] if builtin else [])], name


def test_every_error_is_what_the_contract_says() -> None:
    """Each derives from `EventLogError`, and from the builtin that a caller may know it by."""
    assert set(EXPECTED) == set(CLASSES) - {"EventLogError"}
    for name, builtin in EXPECTED.items():
        assert issubclass(CLASSES[name], EventLogError)
        assert issubclass(CLASSES[name], builtin)


def test_every_error_is_public() -> None:
    """Whatever can be raised can be caught by its name in the package."""
    assert set(errors.__all__) == set(CLASSES)
    for name, kind in CLASSES.items():
        assert getattr(eventlog, name) is kind
        assert name in eventlog.__all__


@pytest.mark.parametrize("error", EXAMPLES)
@pytest.mark.parametrize("travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_errors_survive_a_journey_with_all_they_say(error: EventLogError, travel: object) -> None:
    """The message and every attribute, so that a parent process can act on a child's error."""
    assert callable(travel)
    again = travel(error)
    assert type(again) is type(error)
    assert str(again) == str(error) == "no"
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_errors_can_be_made_of_a_message_alone(kind: type[EventLogError]) -> None:
    """As fakes and tests do; what is not known has a value that says so."""
    assert str(kind("why")) == "why"
    assert str(kind()) in ("", "None")


def test_a_full_log_says_so_to_who_knows_only_the_operating_systems_errors() -> None:
    """`except OSError as error: error.errno == ENOSPC` works."""
    error = LogFullError("full")
    assert error.errno == errno.ENOSPC
    assert str(error) == "full"
    assert pickle.loads(pickle.dumps(error)).errno == errno.ENOSPC


def test_attributes_that_are_not_known_are_none_or_minus_one() -> None:
    """Never a value that could be one."""
    assert LogBusyError("x").holder is None
    for kind in (
        UnexpectedOffsetError,
        OffsetOutOfRangeError,
        CorruptBatchError,
        EventsExpiredError,
    ):
        assert all(value in (-1, "") for value in vars(kind("x")).values())
