"""A log, and hosts of one group in other processes, for tests of one thing that befalls them."""

from __future__ import annotations

import functools
import itertools
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import eventlog
from eventlog import Topic
from eventlog.blobs import Blob
from eventlog.group import ConsumerGroup
from eventlog.groups.documents import HostDocument
from tests.crash.hosts_roles import PLAY, Part
from tests.crash.hosts_theatre import document_of, require_true_to_history, stop, until
from tests.history import Kind, Recorder, read_records
from tests.history.contents import body_of, name_of
from tests.history.witnesses import ProducerWitness

if TYPE_CHECKING:
    from tests.conftest import Child, Start

__all__ = ["Scene"]

TOPIC = "in"
GROUP = "g"


class Scene:
    """What there is, and what the test does.

    Args:
        store: URL of the group's store; True for a directory, False for the log itself.
    """

    def __init__(
        self, start: Start, directory: Path, *, store: bool | str = False, partitions: int = 4
    ) -> None:
        self._start = start
        self._path = directory / "log"
        self._histories = directory / "histories"
        self._recorder = Recorder(self._histories)
        self._numbers = itertools.count()
        self._children: dict[str, Child] = {}
        self._lines: dict[str, list[str]] = {}
        self.store = store if isinstance(store, str) else f"file:{directory / 'store'}" * store
        self.log = eventlog.open(self._path)
        self.topic = self.log.create_topic(TOPIC, partitions=partitions)
        for name in ("out", "dead"):
            self.log.create_topic(name, partitions=1)

    # Events

    def send(self, count: int, partition: int | None = None, *, order: str = "") -> None:
        """Append so many events to a partition, or to each, in one commit; all of them an order."""
        partitions = range(self.topic.partitions) if partition is None else (partition,)
        self.send_orders({number: [order] * count for number in partitions})

    def send_orders(self, orders: Mapping[int, Sequence[str]]) -> None:
        """Append events to partitions in one commit: orders, or the empty ones none."""
        witness = ProducerWitness(self._recorder, "test", self.topic)
        with self.log.transaction() as transaction:
            sent = {
                partition: [self._sending(witness, order) for order in some]
                for partition, some in orders.items()
            }
            for partition, some in sent.items():
                bodies = [body_of(label) for label, _ in some]
                transaction.append_batch(self.topic, bodies, partition=partition)
        offsets = {receipt.partition: receipt for receipt in transaction.receipts}
        for partition, some in sent.items():
            for index, (label, since) in enumerate(some):
                witness.acknowledged(offsets[partition], label, since, index=index)

    def _sending(self, witness: ProducerWitness, order: str) -> tuple[str, float]:
        label = f"{order or 'event'}:{next(self._numbers)}"
        return label, witness.sending(label)

    def reset(self, offsets: Mapping[int, int]) -> None:
        """Have the group go on at these offsets, by partition."""

        def note(kind: Kind, partition: int, offset: int, since: float = -1.0) -> float:
            return self._recorder.note(
                kind,
                "test",
                since=since,
                topic=name_of(self.topic),
                group=GROUP,
                partition=partition,
                offset=offset - 1,
            )

        began = {number: note(Kind.RESETTING, number, at) for number, at in offsets.items()}
        self.group.reset(offsets, force=True)
        for number, at in offsets.items():
            note(Kind.RESET, number, at, began[number])

    def recreate(self, partitions: int = 4) -> Topic:
        """Delete the topic, and make one of the same name."""
        self._recorder.note(Kind.DELETING, "test", topic=name_of(self.topic))
        self.log.delete_topic(TOPIC)
        self.topic = self.log.create_topic(TOPIC, partitions=partitions)
        return self.topic

    # Hosts

    def host(self, name: str, **more: Any) -> Child:
        """A host in a process of its own."""
        more.setdefault("store", self.store)
        part = Part(path=str(self._path), histories=str(self._histories), name=name, **more)
        child = self._start(PLAY, msgspec.json.encode(part).decode())
        self._children[name] = child
        self._lines[name] = []
        return child

    def hear(self, name: str, line: str) -> None:
        """Wait until a host says something with this in it, unless it has."""
        while not any(line in one for one in self._lines[name]):
            self._lines[name].append(self._children[name].line())

    def tell(self, name: str) -> None:
        """Have a host that blocks go on."""
        self._children[name].say()

    def signal(self, name: str, number: int) -> None:
        """Send a host a signal."""
        self._children[name].send(number)

    def end(self, name: str) -> list[str]:
        """Have a host end in good order; what it has said in all."""
        child = self._children.pop(name)
        child.send(signal.SIGTERM)
        said = [*self._lines[name], *child.rest()]
        assert child.wait() == 0
        return said

    def kill(self, name: str) -> None:
        """SIGKILL, while it runs."""
        child = self._children.pop(name)
        child.kill()
        assert child.wait() == -signal.SIGKILL, f"{name} had failed before"

    def bury(self) -> int:
        """Forget those that have killed themselves; how many have since the last time."""
        dead = [name for name, child in self._children.items() if child.has_ended]
        for name in dead:
            assert self._children.pop(name).wait() == -signal.SIGKILL, f"{name} has failed"
        return len(dead)

    @property
    def living(self) -> int:
        """How many hosts there are."""
        return len(self._children)

    def pausing(self, name: str) -> Child:
        """The process of a host that is about to stop itself."""
        self._recorder.note(Kind.PAUSED, name)
        return self._children[name]

    def pause(self, name: str) -> Child:
        """Stop a host, where it holds up nobody; its process."""
        child = self.pausing(name)
        stop(child, self.log, self.store)
        return child

    # What there is to see

    @property
    def group(self) -> ConsumerGroup:
        """The hosts' group."""
        return self.topic.group(GROUP, self.store or None)

    def owners(self) -> dict[int, str]:
        """By partition, the host that owns it: the name it was given."""
        shares = document_of(self.log, GROUP, self.store).partitions
        return {
            partition: share.owner.rpartition("-")[0]
            for partition, share in shares.items()
            if share.owner is not None
        }

    def until_shared(self, *names: str) -> dict[int, str]:
        """Wait until these hosts own everything, in even shares; the owners."""

        def is_shared() -> bool:
            if not self.group.members():
                return False
            counts = Counter(self.owners().values())
            least, more = divmod(self.topic.partitions, len(names))
            wanted = [least + 1] * more + [least] * (len(names) - more)
            return set(counts) == set(names) and sorted(counts.values(), reverse=True) == wanted

        until(is_shared, f"{names} share the partitions")
        return self.owners()

    def until_opened(self) -> None:
        """Wait until every partition has a checkpoint."""
        until(lambda: len(self.group.checkpoints()) == self.topic.partitions, "all are opened")

    def until_done(self) -> None:
        """Wait until the group has finished everything."""
        self.until_opened()
        lags = functools.partial(self.group.lag)
        until(lambda: not any(lag.events for lag in lags().values()), "all is finished")

    def until_stuck_in(self, partition: int) -> None:
        """Wait until the group has finished everything in all partitions but that one.

        So nobody is stopped between being given an event and noting it.
        """

        def is_stuck() -> bool:
            return not any(lag.events for n, lag in self.group.lag().items() if n != partition)

        self.until_opened()
        until(is_stuck, f"all but partition {partition} is finished")

    def beats(self, name: str) -> int:
        """How many heartbeats a host has written."""
        store = self.log.store(self.store or None)
        for blob_name, _ in store.list("groups/"):
            if f"/hosts/{name}-" in blob_name:
                blob = store.get(blob_name)
                assert isinstance(blob, Blob)
                return msgspec.json.decode(blob.data, type=HostDocument).beat
        return 0

    def given(self) -> Counter[tuple[int, int]]:
        """How often each event of the topic was handed over, by partition and offset."""
        return Counter(
            (record.partition, record.offset)
            for record in read_records(self._histories)
            if record.kind is Kind.READ and record.topic == name_of(self.topic)
        )

    def events(self) -> Iterator[tuple[int, int]]:
        """Partition and offset of every event there is."""
        for partition in range(self.topic.partitions):
            for offset in range(self.topic.partition_info(partition).next_offset):
                yield partition, offset

    def judge(self) -> None:
        """All hosts end, and nothing is wrong with what they noted."""
        for name in list(self._children):
            self.end(name)
        assert self.group.members() == []
        stores = [self.store] if self.store else []
        require_true_to_history(self.log, self._histories, stores)
        self.log.close()
