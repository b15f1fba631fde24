"""What users need to test their processors, and what shows that a part keeps its contract.

`ProcessorDriver` gives a processor events, time and orders, as a host would, one step after the
other; nothing waits for real. `stored_event` makes an event as processors get them, for functions
that take some. `VirtualClock` is the clock that stands still until it is moved::

    with ProcessorDriver(Fraud, topics=["alerts"]) as driver:
        driver.feed(b"...")
        assert driver.checkpoints == [0]
        assert [event.body for event in driver.appended("alerts")] == [b"..."]

With ``pytest_plugins = ["eventlog.testing.plugin"]`` in a ``conftest.py`` there is a fixture
`processor_driver` that makes such drivers and closes them.

`BlobStoreContract` and `EngineContract` are suites of tests that every blob store, and every
engine, must pass; `DataPathContract` is the part of the latter that needs no administration. Who
derives from one supplies a fixture::

    class TestMyStore(BlobStoreContract):
        @pytest.fixture
        def store(self):
            with my_store.open("...") as store:
                yield store

        def opener(self, store):
            return functools.partial(my_store.open, "...")

With ``pytest.register_assert_rewrite("eventlog.testing")`` in a ``conftest.py``, failures show the
values compared. Nothing here needs pytest but where it is run, and the plugin.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from eventlog.testing.blob_store import BlobStoreContract
    from eventlog.testing.clock import VirtualClock
    from eventlog.testing.driver import ProcessorDriver
    from eventlog.testing.engine import DataPathContract, EngineContract
    from eventlog.testing.engine_base import LogOpener
    from eventlog.testing.events import stored_event
    from eventlog.testing.observing import PutAside
    from eventlog.testing.races import Opener

__all__ = [
    "BlobStoreContract",
    "DataPathContract",
    "EngineContract",
    "LogOpener",
    "Opener",
    "ProcessorDriver",
    "PutAside",
    "VirtualClock",
    "stored_event",
]

_PLACES = {
    "BlobStoreContract": "blob_store",
    "DataPathContract": "engine",
    "EngineContract": "engine",
    "LogOpener": "engine_base",
    "Opener": "races",
    "ProcessorDriver": "driver",
    "PutAside": "observing",
    "VirtualClock": "clock",
    "stored_event": "events",
}
"""In which modules they are. They are loaded when first asked for: a contract suite loads no host,
and a test of a processor no suite."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
