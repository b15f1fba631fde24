"""What a host counts and measures, for OpenTelemetry, if the program uses it.

Names, units and attributes follow OpenTelemetry's conventions for messaging where those have one;
the rest is under ``eventlog.host``:

======================================= ========== =============== ================================
instrument                              kind       unit            what is told
======================================= ========== =============== ================================
``messaging.client.consumed.messages``  counter    ``{message}``   events handed to the processor
``messaging.process.duration``          histogram  ``s``           a batch in the processor
``messaging.client.operation.duration`` histogram  ``s``           storing a checkpoint
``eventlog.host.retries``               counter    ``{retry}``     batches handed over once more
``eventlog.host.dead_letters``          counter    ``{event}``     events put aside
``eventlog.host.rebalances``            counter    ``{partition}`` partitions that came or went
``eventlog.host.lease_losses``          counter    ``{lease}``     leases that ran out
``eventlog.host.partitions``            gauge      ``{partition}`` partitions the host owns now
``eventlog.host.lag``                   gauge      ``{event}``     events not finished, by partition
======================================= ========== =============== ================================

Every measurement has ``messaging.system`` (``eventlog``), ``messaging.destination.name`` (the
topic), ``messaging.consumer.group.name`` and ``messaging.client.id`` (the host's name); what is
about one partition also ``messaging.destination.partition.id``; and the first three
``messaging.operation.name`` and ``messaging.operation.type``.

OpenTelemetry is an optional extra, and is never imported here: a program that has not imported
``opentelemetry.metrics`` itself has set up nothing that could read these. What it does with them,
and where they go, is the program's to say; a meter provider may also be set after the host began.

What this module deliberately does not do: traces. A batch is of many producers' events.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

__all__ = ["NO_METRICS", "HostMetrics", "Instruments", "Metrics", "metrics_for"]

_API: Final = "opentelemetry.metrics"
_SCOPE: Final = "eventlog"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Bounds of the histograms' buckets, as the conventions give them."""

_Attributes = Mapping[str, str]


class _PartitionStatus(Protocol):
    @property
    def lag(self) -> int | None: ...


class _HostStatus(Protocol):
    @property
    def partitions(self) -> Mapping[int, _PartitionStatus]: ...


class Metrics(Protocol):
    """Where a host and its pumps note what happens. Thread-safe; no method raises or waits."""

    def events(self, partition: int, count: int) -> None:
        """So many events were handed to the processor."""

    def batch_seconds(self, partition: int, seconds: float) -> None:
        """The processor had a batch for so long, whether it succeeded or not."""

    def checkpoint_seconds(self, partition: int, seconds: float) -> None:
        """Storing a checkpoint, alone or in a transaction, took so long."""

    def retry(self, partition: int) -> None:
        """What had failed was handed over again."""

    def dead_letter(self, partition: int, count: int) -> None:
        """So many events went to the dead-letter topic."""

    def rebalance(self, count: int) -> None:
        """So many partitions came to this host, or went from it."""

    def lease_lost(self) -> None:
        """The host's lease ran out, or was taken, while it ran."""

    def close(self) -> None:
        """Show the host's gauges no more; as when nobody holds it any more. May be called again."""


class _NoMetrics:
    """Notes nothing."""

    def events(self, partition: int, count: int) -> None:
        pass

    def batch_seconds(self, partition: int, seconds: float) -> None:
        pass

    def checkpoint_seconds(self, partition: int, seconds: float) -> None:
        pass

    def retry(self, partition: int) -> None:
        pass

    def dead_letter(self, partition: int, count: int) -> None:
        pass

    def rebalance(self, count: int) -> None:
        pass

    def lease_lost(self) -> None:
        pass

    def close(self) -> None:
        pass


NO_METRICS: Final[Metrics] = _NoMetrics()
"""For hosts in programs that measure nothing."""


def metrics_for(topic: str, group: str, host: str, status: Callable[[], _HostStatus]) -> Metrics:
    """Where a host notes what happens. Its gauges are shown until it is closed, or forgotten.

    `NO_METRICS` unless the program has imported ``opentelemetry.metrics``.

    Args:
        topic, group: names.
        host: the host's name, without what tells its incarnations apart: that would make new
            series with each start.
        status: asked for the gauges whenever the program's metrics are read, in some thread. Must
            not wait for anything that waits for the metrics.
    """
    if _API not in sys.modules:
        return NO_METRICS
    return _instruments_of_process().of_host(topic, group, host, status)


@functools.cache
def _instruments_of_process() -> Instruments:
    """The same for all hosts of the process: who makes a gauge twice loses the second."""
    from opentelemetry.metrics import get_meter

    from eventlog import __version__

    return Instruments(get_meter(_SCOPE, __version__))


class Instruments:
    """The instruments of a meter, and the hosts whose gauges are shown through it. Thread-safe.

    Args:
        meter: of a meter provider of OpenTelemetry's.
    """

    def __init__(self, meter: Meter) -> None:
        self._mutex = threading.Lock()
        self._hosts: WeakSet[HostMetrics] = WeakSet()
        self.events = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the application.",
        )
        self.batch = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.checkpoint = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._make_own(meter)

    def _make_own(self, meter: Meter) -> None:
        self.retries = meter.create_counter(
            "eventlog.host.retries", "{retry}", "Number of times events were handed over again."
        )
        self.dead_letters = meter.create_counter(
            "eventlog.host.dead_letters", "{event}", "Number of events put aside as dead letters."
        )
        self.rebalances = meter.create_counter(
            "eventlog.host.rebalances",
            "{partition}",
            "Number of partitions that came to the host or went from it.",
        )
        self.lease_losses = meter.create_counter(
            "eventlog.host.lease_losses", "{lease}", "Number of leases that ran out."
        )
        meter.create_observable_gauge(
            "eventlog.host.partitions",
            [self._owned],
            "{partition}",
            "Number of partitions the host owns.",
        )
        meter.create_observable_gauge(
            "eventlog.host.lag",
            [self._lags],
            "{event}",
            "Number of events of a partition that the group has not finished.",
        )

    def of_host(
        self, topic: str, group: str, host: str, status: Callable[[], _HostStatus]
    ) -> HostMetrics:
        """A host's metrics, which are shown from now on; see `metrics_for`."""
        metrics = HostMetrics(self, topic, group, host, status)
        with self._mutex:
            self._hosts.add(metrics)
        return metrics

    def forget(self, metrics: HostMetrics) -> None:
        """Show the gauges of a host no more."""
        with self._mutex:
            self._hosts.discard(metrics)

    def _shown(self) -> list[HostMetrics]:
        with self._mutex:
            return list(self._hosts)

    def _owned(self, _options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [Observation(*metrics.owned()) for metrics in self._shown()]

    def _lags(self, _options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [Observation(*lag) for metrics in self._shown() for lag in metrics.lags()]


class HostMetrics:
    """`Metrics` of one host. Made by `Instruments.of_host`."""

    def __init__(
        self,
        instruments: Instruments,
        topic: str,
        group: str,
        host: str,
        status: Callable[[], _HostStatus],
    ) -> None:
        self._instruments = instruments
        self._status = status
        self._host: Final = {
            "messaging.system": "eventlog",
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": group,
            "messaging.client.id": host,
        }
        # Made once for each partition: these are asked for with every batch.
        self._partition = functools.cache(self._of_partition)
        self._processing = functools.cache(functools.partial(self._operation, "process", "process"))
        self._settling = functools.cache(functools.partial(self._operation, "checkpoint", "settle"))

    def _of_partition(self, partition: int) -> _Attributes:
        return {**self._host, "messaging.destination.partition.id": str(partition)}

    def _operation(self, name: str, kind: str, partition: int) -> _Attributes:
        operation = {"messaging.operation.name": name, "messaging.operation.type": kind}
        return {**self._of_partition(partition), **operation}

    def events(self, partition: int, count: int) -> None:
        """See `Metrics.events`."""
        self._instruments.events.add(count, self._processing(partition))

    def batch_seconds(self, partition: int, seconds: float) -> None:
        """See `Metrics.batch_seconds`."""
        self._instruments.batch.record(seconds, self._processing(partition))

    def checkpoint_seconds(self, partition: int, seconds: float) -> None:
        """See `Metrics.checkpoint_seconds`."""
        self._instruments.checkpoint.record(seconds, self._settling(partition))

    def retry(self, partition: int) -> None:
        """See `Metrics.retry`."""
        self._instruments.retries.add(1, self._partition(partition))

    def dead_letter(self, partition: int, count: int) -> None:
        """See `Metrics.dead_letter`."""
        self._instruments.dead_letters.add(count, self._partition(partition))

    def rebalance(self, count: int) -> None:
        """See `Metrics.rebalance`."""
        self._instruments.rebalances.add(count, self._host)

    def lease_lost(self) -> None:
        """See `Metrics.lease_lost`."""
        self._instruments.lease_losses.add(1, self._host)

    def close(self) -> None:
        """See `Metrics.close`."""
        self._instruments.forget(self)

    def owned(self) -> tuple[int, _Attributes]:
        """How many partitions the host owns now."""
        return len(self._status().partitions), self._host

    def lags(self) -> Iterator[tuple[int, _Attributes]]:
        """The lags of its partitions, as far as they are known."""
        for partition, status in sorted(self._status().partitions.items()):
            if status.lag is not None:
                yield status.lag, self._partition(partition)
