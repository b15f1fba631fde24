"""What may be a processor, and how its methods are told apart."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest

from eventlog import EventLog
from eventlog.processor.processor import (
    ErrorAction,
    EventFailed,
    EventProcessor,
    Methods,
    factory_of,
)


class Whole(EventProcessor):
    async def process(self, context: Any, events: Any) -> None: ...


async def handle(context: Any, events: Any) -> None: ...


def test_exactly_one_of_processor_and_handler_is_given() -> None:
    for given in ((None, None), (Whole, handle)):
        with pytest.raises(TypeError, match=r"not (both|neither)"):
            factory_of(*given)
    for wrong in ((None, 3), (Whole(), None)):
        with pytest.raises(TypeError, match="not"):
            factory_of(*wrong)


def test_a_function_is_a_processor_of_its_own_for_each_partition() -> None:
    make = factory_of(None, handle)
    one, another = make(), make()
    assert one is not another
    assert Methods(one).process.function is handle
    assert factory_of(Whole, None) is Whole


def test_what_is_left_out_is_not_called() -> None:
    methods = Methods(Whole())
    assert methods.process.is_async
    assert [methods.open, methods.idle, methods.close, methods.error] == [None] * 4


def test_a_processor_has_process_and_its_methods_are_some() -> None:
    with pytest.raises(TypeError, match="process"):
        Methods(object())

    class Wrong(Whole):
        close = 3  # type: ignore[assignment]

    with pytest.raises(TypeError, match="close"):
        Methods(Wrong())
    with pytest.raises(TypeError, match="abstract"):
        EventProcessor()  # type: ignore[abstract]


class Callable:
    async def __call__(self, context: Any, events: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "is_async"),
    [
        (handle, True),
        (functools.partial(handle), True),
        (Callable(), True),
        (Callable().__call__, True),
        (lambda context, events: None, False),
        (print, False),
    ],
)
def test_coroutine_functions_are_known_in_all_their_forms(function: Any, is_async: bool) -> None:
    assert Methods(factory_of(None, function)()).process.is_async is is_async


@pytest.mark.anyio
async def test_the_methods_of_the_base_class_may_be_awaited_and_need_not_be() -> None:
    class Derived(Whole):
        async def open(self, context: Any) -> None:
            await super().open(context)  # type: ignore[misc]

        def close(self, context: Any, reason: Any) -> None:
            super().close(context, reason)

        async def error(self, context: Any, exception: Any, events: Any) -> ErrorAction | None:
            answer: ErrorAction | None = await super().error(context, exception, events)  # type: ignore[misc]
            return answer

    derived = Derived()
    await derived.open(None)
    derived.close(None, None)
    assert await derived.error(None, None, None) is None


def test_an_event_that_failed_is_named_also_in_another_process(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    topic.append("a", partition=0)
    (event,) = topic.read(0)
    error = EventFailed(event)
    assert str(error) == "offset 0 could not be processed"
    again = pickle.loads(pickle.dumps(EventFailed(event, "why")))
    assert (again.event, str(again)) == (event, "why")
