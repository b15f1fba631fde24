"""What hosts measure, as a program that uses OpenTelemetry reads it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from eventlog.processor.metrics import NO_METRICS, HostMetrics, Instruments, metrics_for
from tests.cli.running import ROOT

HOST = {
    "messaging.system": "eventlog",
    "messaging.destination.name": "cars",
    "messaging.consumer.group.name": "fraud",
    "messaging.client.id": "a",
}
PROCESS = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
CHECKPOINT = {"messaging.operation.name": "checkpoint", "messaging.operation.type": "settle"}


class PartitionStatus(NamedTuple):
    lag: int | None


class HostStatus(NamedTuple):
    """As much of a host's status as is measured."""

    partitions: Mapping[int, PartitionStatus]


def status(**lags: int | None) -> HostStatus:
    """Of a host that owns some partitions: ``status(p3=10)``."""
    return HostStatus({int(name[1:]): PartitionStatus(lag) for name, lag in lags.items()})


def of_partition(number: int, **more: str) -> dict[str, str]:
    return {**HOST, "messaging.destination.partition.id": str(number), **more}


class Meter:
    """Instruments of a meter of their own, and what was measured with them."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.instruments = Instruments(self.provider.get_meter("eventlog"))

    def metrics(self) -> dict[str, Any]:
        """All metrics by name."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[tuple[Any, Mapping[str, Any]]]:
        """Values and attributes of a metric; of a histogram the count and the sum."""
        metric = self.metrics().get(name)
        points = [] if metric is None else metric.data.data_points
        return [(_value(point), dict(point.attributes)) for point in points]


def _value(point: Any) -> Any:
    return (point.count, point.sum) if hasattr(point, "bucket_counts") else point.value


@pytest.fixture
def meter() -> Iterator[Meter]:
    meter = Meter()
    yield meter
    meter.provider.shutdown()


@pytest.fixture
def host(meter: Meter) -> HostMetrics:
    """Of a host that owns two partitions, and does not know yet how far it is behind in one."""
    return meter.instruments.of_host("cars", "fraud", "a", lambda: status(p0=7, p3=None))


def test_events_are_counted_by_partition(meter: Meter, host: HostMetrics) -> None:
    host.events(0, 10)
    host.events(0, 5)
    host.events(3, 1)
    assert meter.points("messaging.client.consumed.messages") == [
        (15, of_partition(0, **PROCESS)),
        (1, of_partition(3, **PROCESS)),
    ]


def test_batches_and_checkpoints_are_timed(meter: Meter, host: HostMetrics) -> None:
    host.batch_seconds(0, 0.25)
    host.batch_seconds(0, 0.5)
    host.checkpoint_seconds(0, 0.125)
    assert meter.points("messaging.process.duration") == [
        ((2, 0.75), of_partition(0, **PROCESS)),
    ]
    assert meter.points("messaging.client.operation.duration") == [
        ((1, 0.125), of_partition(0, **CHECKPOINT)),
    ]


def test_durations_are_in_the_buckets_of_the_conventions(meter: Meter, host: HostMetrics) -> None:
    host.batch_seconds(0, 0.003)
    (point,) = meter.metrics()["messaging.process.duration"].data.data_points
    assert point.explicit_bounds[:3] == (0.005, 0.01, 0.025)
    assert point.explicit_bounds[-1] == 10


def test_what_goes_wrong_is_counted(meter: Meter, host: HostMetrics) -> None:
    host.retry(3)
    host.dead_letter(3, 2)
    host.lease_lost()
    host.rebalance(4)
    assert meter.points("eventlog.host.retries") == [(1, of_partition(3))]
    assert meter.points("eventlog.host.dead_letters") == [(2, of_partition(3))]
    assert meter.points("eventlog.host.lease_losses") == [(1, HOST)]
    assert meter.points("eventlog.host.rebalances") == [(4, HOST)]


@pytest.mark.usefixtures("host")
def test_gauges_are_of_the_status_when_they_are_read(meter: Meter) -> None:
    assert meter.points("eventlog.host.partitions") == [(2, HOST)]
    assert meter.points("eventlog.host.lag") == [(7, of_partition(0))]


def test_the_lag_of_a_partition_that_went_is_shown_no_more(meter: Meter) -> None:
    now = status(p0=7, p1=1)
    host = meter.instruments.of_host("cars", "fraud", "a", lambda: now)
    assert len(meter.points("eventlog.host.lag")) == 2
    now = status(p1=2)
    assert meter.points("eventlog.host.lag") == [(2, of_partition(1))]
    assert meter.points("eventlog.host.partitions") == [(1, HOST)]
    host.close()


@pytest.mark.usefixtures("host")
def test_hosts_of_one_process_are_told_apart_and_shown_until_they_end(meter: Meter) -> None:
    other = meter.instruments.of_host("cars", "fraud", "b", lambda: status(p1=0))
    owned = meter.points("eventlog.host.partitions")
    assert len(owned) == 2
    assert (2, HOST) in owned
    assert (1, {**HOST, "messaging.client.id": "b"}) in owned
    other.close()
    other.close()
    assert meter.points("eventlog.host.partitions") == [(2, HOST)]


def test_a_host_that_nobody_holds_any_more_is_shown_no_more(meter: Meter) -> None:
    host = meter.instruments.of_host("cars", "fraud", "a", lambda: status(p1=0))
    assert len(meter.points("eventlog.host.partitions")) == 1
    del host
    gc.collect()
    assert meter.points("eventlog.host.partitions") == []


def test_every_instrument_has_a_unit_and_says_what_it_is(meter: Meter, host: HostMetrics) -> None:
    host.events(0, 1)
    host.batch_seconds(0, 1)
    host.checkpoint_seconds(0, 1)
    host.retry(0)
    host.dead_letter(0, 1)
    host.rebalance(1)
    host.lease_lost()
    units = {name: metric.unit for name, metric in meter.metrics().items()}
    assert units == {
        "messaging.client.consumed.messages": "{message}",
        "messaging.process.duration": "s",
        "messaging.client.operation.duration": "s",
        "eventlog.host.retries": "{retry}",
        "eventlog.host.dead_letters": "{event}",
        "eventlog.host.rebalances": "{partition}",
        "eventlog.host.lease_losses": "{lease}",
        "eventlog.host.partitions": "{partition}",
        "eventlog.host.lag": "{event}",
    }
    assert all(metric.description for metric in meter.metrics().values())


def test_no_metrics_takes_everything_and_does_nothing() -> None:
    NO_METRICS.events(0, 1)
    NO_METRICS.batch_seconds(0, 1)
    NO_METRICS.checkpoint_seconds(0, 1)
    NO_METRICS.retry(0)
    NO_METRICS.dead_letter(0, 1)
    NO_METRICS.rebalance(1)
    NO_METRICS.lease_lost()
    NO_METRICS.close()


def run(program: str) -> str:
    """What a program prints that knows nothing of this process."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_nothing_of_opentelemetry_is_imported_for_a_program_that_does_not_use_it() -> None:
    program = """
import sys
from eventlog.processor.metrics import NO_METRICS, metrics_for
assert metrics_for("cars", "fraud", "a", lambda: None) is NO_METRICS
import eventlog, eventlog.processor, eventlog.cli.program
print(*[name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert run(program) == "\n"


def test_a_program_may_set_its_provider_after_the_host_began() -> None:
    program = """
from types import SimpleNamespace
from opentelemetry import metrics
from eventlog import __version__
from eventlog.processor.metrics import metrics_for
host = metrics_for("cars", "fraud", "a", lambda: SimpleNamespace(partitions={}))
host.events(0, 1)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
host.events(0, 2)
host.events(0, 3)
(scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
assert (scope.scope.name, scope.scope.version) == ("eventlog", __version__)
for metric in scope.metrics:
    print(metric.name, *[point.value for point in metric.data.data_points])
"""
    assert run(program).splitlines() == [
        "messaging.client.consumed.messages 5",
        "eventlog.host.partitions 0",
    ]


def test_hosts_of_a_program_that_uses_it_share_instruments() -> None:
    first = metrics_for("cars", "fraud", "a", lambda: status(p0=1))
    second = metrics_for("cars", "fraud", "b", lambda: status(p1=1))
    try:
        assert isinstance(first, HostMetrics)
        assert isinstance(second, HostMetrics)
        assert first._instruments is second._instruments
    finally:
        first.close()
        second.close()
