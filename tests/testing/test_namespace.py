"""`eventlog.testing` as it is imported: everything that is named is there, and little is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import eventlog.testing


def python(source: str) -> Any:
    """What a fresh interpreter prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_everything_named_is_there_and_documented() -> None:
    assert eventlog.testing.__all__ == sorted(eventlog.testing.__all__)
    assert set(eventlog.testing.__all__) <= set(dir(eventlog.testing))
    for name in set(eventlog.testing.__all__) - {"LogOpener", "Opener"}:  # aliases of types
        assert getattr(eventlog.testing, name).__doc__


def test_what_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(eventlog.testing, "nothing")


def test_nothing_but_the_plugin_needs_pytest() -> None:
    """Nor trio, which only tests on trio do."""
    source = """
import json, sys
from eventlog.testing import *
with ProcessorDriver(lambda context, events: None) as driver:
    driver.feed(b"a")
print(json.dumps([name in sys.modules for name in ("pytest", "trio")]))
"""
    assert python(source) == [False, False]


def test_asking_for_the_package_loads_no_engine_and_no_event_loop() -> None:
    source = """
import json, sys
import eventlog.testing
from eventlog.testing import stored_event
print(json.dumps([name in sys.modules for name in ("lmdb", "asyncio", "eventlog.processor.pump")]))
"""
    assert python(source) == [False, False, False]
