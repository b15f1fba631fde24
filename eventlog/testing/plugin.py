"""For pytest: the fixture `processor_driver`.

Nothing of this package is loaded by pytest by itself. Who wants the fixture says so in a
``conftest.py``::

    pytest_plugins = ["eventlog.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from eventlog.testing.driver import ProcessorDriver

__all__ = ["MakeDriver", "processor_driver"]


class MakeDriver:
    """Makes drivers that are closed after the test; what it takes is what they take."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, *arguments: Any, **options: Any) -> ProcessorDriver:
        """A driver; see `ProcessorDriver`."""
        driver = ProcessorDriver(*arguments, **options)
        self._stack.callback(driver.close)
        return driver


@pytest.fixture
def processor_driver() -> Iterator[MakeDriver]:
    """Makes drivers for a test, and closes them after it; see `MakeDriver`."""
    with ExitStack() as stack:
        yield MakeDriver(stack)
