"""A worker: one host, which counts the flights of the partitions that come to it.

    python -m examples.balancing.worker DIRECTORY NAME LEASE_SECONDS

It ends in good order at SIGTERM, and when whoever started it is gone. For the demo only, SIGUSR1
asks it to stop itself (SIGSTOP) with a batch in its hands.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator

import eventlog
from eventlog import (
    CloseReason,
    EventProcessor,
    EventProcessorHost,
    LeaseLostError,
    PartitionContext,
    ProcessorOptions,
    StoredEvent,
)
from examples.balancing import figures
from examples.balancing.flights import TOPIC
from examples.balancing.reports import Closed, Opened, Refused, Status, Stopping, send

__all__ = ["GROUP", "CarrierFigures", "Worker"]

GROUP = "carriers"
STATUS_SECONDS = 0.25


class CarrierFigures(EventProcessor):
    """Sums up the flights of one partition by carrier, batch by batch; each flight counts once.

    The figures of a batch are stored together with the checkpoint behind it, or not at all. A
    batch that was lost with its process is handed to another again, from the checkpoint on; and a
    process that was thought dead finds, when it comes back, that it may not commit any more.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def open(self, context: PartitionContext) -> None:
        """The partition is ours."""
        send(Opened(partition=context.partition, epoch=context.epoch))

    async def process(self, context: PartitionContext, events: list[StoredEvent]) -> None:
        """Count a batch."""
        counted = figures.of_batch(events, self._worker.name)
        self._worker.stop_if_asked(context.partition)
        try:
            with self._worker.committing():
                async with context.transaction() as tx:
                    tx.append(figures.FIGURES, counted, partition=context.partition)
        except LeaseLostError as error:
            send(
                Refused(
                    partition=context.partition,
                    epoch=context.epoch,
                    error=f"{type(error).__name__}: {error}",
                )
            )
            raise
        self._worker.counted += len(events)

    async def close(self, context: PartitionContext, reason: CloseReason) -> None:
        """The partition is not ours any more."""
        send(Closed(partition=context.partition, epoch=context.epoch, reason=reason.value))


class Worker:
    """What the processors of this process share.

    Attributes:
        counted: how many flights they have counted.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counted = 0
        self._commits = 0
        self._asked = False

    def ask_to_stop(self) -> None:
        """Stop this process at the next occasion."""
        self._asked = True

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """While this lasts, the process does not stop itself."""
        self._commits += 1
        try:
            yield
        finally:
            self._commits -= 1

    def stop_if_asked(self, partition: int) -> None:
        """Stop this process if that was asked for and no batch is being committed.

        A process that stops within a commit would hold up all who write to the log.
        """
        if self._asked and not self._commits:
            self._asked = False
            send(Stopping(partition=partition))
            os.kill(os.getpid(), signal.SIGSTOP)


def work(directory: str, name: str, lease: float) -> None:
    """Count flights until SIGTERM."""
    worker = Worker(name)
    signal.signal(signal.SIGUSR1, lambda *_: worker.ask_to_stop())
    with eventlog.open(directory, create=False) as log:
        host = EventProcessorHost(
            log.topic(TOPIC),
            group=GROUP,
            processor=lambda: CarrierFigures(worker),
            host_name=name,
            options=ProcessorOptions(lease_duration=lease, renew_interval=lease / 3),
        )
        threading.Thread(target=tell, args=(host, worker), daemon=True).start()
        host.run_sync()


def tell(host: EventProcessorHost, worker: Worker) -> None:
    """Say how the host is, again and again; stop it when nobody listens."""
    pause = threading.Event()
    try:
        while True:
            send(Status(health=host.status().health, counted=worker.counted))
            pause.wait(STATUS_SECONDS)
    except BrokenPipeError:
        host.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    work(sys.argv[1], sys.argv[2], float(sys.argv[3]))
