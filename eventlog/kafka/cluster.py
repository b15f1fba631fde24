"""One cluster as a log sees it: its topics, and where partitions begin and end.

Every call has a time limit, and what goes wrong in passing (a leader that moves, a topic that was
made a moment ago) is tried again within it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    TopicDescription,
    TopicMetadata,
)

from eventlog.errors import (
    EventLogError,
    LogBusyError,
    LogNotFoundError,
    PartitionNotFoundError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.kafka.asking import answered, is_passing, never_came, no_leader, pauses
from eventlog.kafka.clients import Clients
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import Kind, error_of, is_transient, kind_of
from eventlog.kafka.groups.readers import GroupReaders
from eventlog.kafka.librdkafka import empty_frames
from eventlog.kafka.location import Settings
from eventlog.kafka.offset_reader import EARLIEST, LATEST, OffsetAt, OffsetReader, Spec

if TYPE_CHECKING:
    from eventlog.kafka.groups.blobs import CommittedOffset

__all__ = ["EARLIEST", "LATEST", "Cluster", "Described", "OffsetAt", "Spec"]

_SET: Final = AlterConfigOpType.SET
_DELETE: Final = AlterConfigOpType.DELETE

_SAYS_NOTHING: Final = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT)  # noqa: SLF001 - their names
"""That no broker can be reached is known already."""

_SHOWN_SECONDS: Final = 2.0
"""How long changed settings may take to be shown. A cluster may also show others than it was given.
"""

_LOGIN_POLL: Final = 0.25
"""Seconds between looks whether the login was refused: librdkafka itself would try for ever."""


class Described(NamedTuple):
    """A topic as the cluster describes it.

    `id` is 32 hex digits, and another one if it is made anew. Where a cluster gives none it is made
    from the name.
    """

    name: str
    id: str
    partitions: int


class Cluster(Clients):
    """See the module. Thread-safe.

    Attributes:
        id: the log's id, made from the cluster's.

    Raises:
        ValueError: librdkafka does not know an option.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.id = ""
        self._group_readers: Final = GroupReaders(self)
        self._offset_reader: Final = OffsetReader(self)
        self._has_controller = True

    def close(self) -> None:
        """Close it; its clients are closed by who had them made. Closing twice is fine."""
        super().close()
        if not self.is_abandoned:
            self._group_readers.close()
            self._offset_reader.close()

    # Asking

    def connect(self) -> None:
        """Find the cluster, and its id.

        Raises:
            LogNotFoundError: nothing answers there.
            EventLogError: it refuses the login.
        """
        deadline = Deadline(self.settings.timeout)
        found = None
        while found is None:
            try:
                found = self._admin.list_topics(timeout=min(deadline.left(), _LOGIN_POLL))
            except KafkaException as error:
                self._refuse_if_hopeless(error, deadline)
        self._complaint = None
        # Of librdkafka's mock cluster no broker is the one it names; -1 stands for an election.
        self._has_controller = found.controller_id < 0 or found.controller_id in found.brokers
        identity: str | None = found.cluster_id  # the stubs say it is always None
        known = identity or ",".join(sorted(self.settings.config["bootstrap.servers"].split(",")))
        self.id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"kafka-cluster:{known}"))

    def _refuse_if_hopeless(self, error: KafkaException, deadline: Deadline) -> None:
        doing = "opening the log"
        self._admin.poll(0)
        heard = self._complained()
        if heard is not None and kind_of(heard) is not Kind.NO_ANSWER:
            raise self.error(heard, doing) from error
        if deadline.passed:
            why = error_of(error) if heard is None else heard
            reason = "" if why.code() in _SAYS_NOTHING else f" ({why.str()})"
            raise LogNotFoundError(
                f"{doing}: no cluster answered at {self.settings.place} within "
                f"{deadline.seconds:g} s{reason}: check the address, that it runs, and "
                "whether it wants tls or a login"
            ) from error

    def names(self) -> list[str]:
        """The names of all topics, sorted; also those that are not shown to users."""

        def ask(left: float) -> list[str]:
            return sorted(self._admin.list_topics(timeout=left).topics)

        return self.retried("listing topics", ask)

    def describe(self, names: Sequence[str]) -> list[Described]:
        """Topics as they are now, in the order of `names`; those that are not there left out."""

        def ask(left: float) -> list[Described]:
            found = []
            for name, answer in self._ask_for(names, left):
                try:
                    found.append(self._described(name, answer(left)))
                except KafkaException as error:
                    if kind_of(error) is not Kind.TOPIC_MISSING:
                        raise
            return found

        doing = f"looking up topic {names[0]!r}" if len(names) == 1 else "looking up topics"
        return self.retried(doing, ask)

    def look_up(
        self, name: str, *, timeout: float | None = None, patient: bool = False
    ) -> Described:
        """A topic as it is now.

        Args:
            patient: it was made a moment ago, so wait until it is known everywhere.

        Raises:
            TopicNotFoundError: there is none.
        """

        def ask(left: float) -> Described:
            ((_, answer),) = self._ask_for([name], left)
            return self._described(name, answer(left))

        again = is_passing if patient else is_transient
        try:
            return self.retried(f"looking up topic {name!r}", ask, timeout=timeout, again=again)
        except TopicNotFoundError:
            raise TopicNotFoundError(
                f"the log at {self.settings.place} has no topic {name!r}"
            ) from None

    def _ask_for(
        self, names: Sequence[str], left: float
    ) -> list[tuple[str, Callable[[float], Any]]]:
        """Ask what topics are: for each name, what waits for the answer for so many seconds."""
        if not self._has_controller:
            return [(name, functools.partial(self._metadata, name)) for name in names]
        if not names:
            return []
        asked = self._admin.describe_topics(TopicCollection([*names]), request_timeout=left)
        return [(name, functools.partial(self._answered, future)) for name, future in asked.items()]

    def _described(self, name: str, found: TopicDescription | TopicMetadata) -> Described:
        topic_id = _hex(getattr(found, "topic_id", None))
        if not topic_id:
            topic_id = uuid.uuid5(uuid.UUID(self.id), name).hex
        return Described(name, topic_id, len(found.partitions))

    def _metadata(self, name: str, left: float) -> TopicMetadata:
        """The same without a controller: nobody knows its id then."""
        found = self._admin.list_topics(name, timeout=left).topics[name]
        if found.error is not None:
            raise KafkaException(found.error)
        return found

    def configs(
        self, names: Iterable[str], *, timeout: float | None = None
    ) -> dict[str, dict[str, str]]:
        """The settings of topics; those that are not there (any more) are left out."""
        asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        if not asked or not self._has_controller:
            return {resource.name: {} for resource in asked}

        def ask(left: float) -> dict[str, dict[str, str]]:
            found = {}
            answers = self._admin.describe_configs(asked, request_timeout=left)
            for resource, answer in answers.items():
                try:
                    entries = self._answered(answer, left)
                except KafkaException as error:
                    if kind_of(error) is not Kind.TOPIC_MISSING:
                        raise
                else:
                    found[resource.name] = {k: entry.value or "" for k, entry in entries.items()}
            return found

        doing = f"topic {asked[0].name!r} is" if len(asked) == 1 else "topics are"
        return self.retried(f"asking how {doing} set", ask, timeout=timeout)

    def offsets(
        self,
        topic: str,
        asked: Sequence[tuple[int, Spec]],
        *,
        committed: bool = True,
        timeout: float | None = None,
    ) -> list[OffsetAt]:
        """Offsets of partitions, in the order asked for; a partition may be asked about often.

        Args:
            committed: what transactions have not committed yet is not there.

        Raises:
            TopicNotFoundError, PartitionNotFoundError: there is none.
        """
        deadline = Deadline(self.settings.timeout if timeout is None else timeout)

        def ask(left: float) -> list[OffsetAt]:
            try:
                return self._offset_reader.offsets(topic, asked, left, committed=committed)
            except KafkaException as error:
                empty_frames(error)
                is_missing = is_passing(error) and not is_transient(error)
                if is_missing and self._has(topic, asked, deadline):
                    raise no_leader() from error  # what librdkafka remembers is not so any more
                raise

        return self.retried(f"asking for offsets of topic {topic!r}", ask, timeout=deadline.seconds)

    def _has(self, topic: str, asked: Sequence[tuple[int, Spec]], deadline: Deadline) -> bool:
        """Yes, or an error: whether the topic has the partitions that could not be found."""
        found = self.look_up(topic, timeout=deadline.left())
        for partition, _ in asked:
            if partition >= found.partitions:
                raise PartitionNotFoundError(
                    f"topic {topic!r} has partitions 0 to {found.partitions - 1}, "
                    f"no partition {partition}"
                )
        return True

    def until_visible(self, topic: str, stops: Mapping[int, int], deadline: Deadline) -> bool:
        """Wait until readers see what was stored before `stops`; False if that took too long.

        A commit is answered before its markers are written, and what stands behind another
        writer's open transaction is not shown until that has ended.
        """
        waiting = dict(stops)
        for pause in pauses():
            partitions = [*waiting]
            asked = [(number, LATEST) for number in partitions]
            try:
                found = self.offsets(topic, asked, timeout=deadline.left())
            except LogBusyError:
                return False
            for number, at in zip(partitions, found, strict=True):
                if at.offset >= waiting[number]:
                    del waiting[number]
            if not waiting:
                return True
            if deadline.left() <= pause:
                return False
            time.sleep(pause)
        raise AssertionError

    def committed(
        self,
        group: str,
        topic: str,
        partitions: Sequence[int],
        *,
        timeout: float | None = None,
        stable: bool = True,
    ) -> dict[int, CommittedOffset]:
        """What a Kafka group has committed of partitions; those without are left out.

        Args:
            stable: what a transaction is about to commit is waited for.
        """

        def ask(left: float) -> dict[int, CommittedOffset]:
            return self._group_readers.committed(group, topic, partitions, left, stable=stable)

        return self.retried(f"reading the offsets of Kafka group {group!r}", ask, timeout=timeout)

    # Changing

    def create_topic(
        self, name: str, partitions: int, config: Mapping[str, str], replication: int | None
    ) -> Described:
        """Make a topic, and wait until every partition can be used.

        Raises:
            TopicExistsError: it is there.
        """
        doing = f"making topic {name!r}"
        for factor in (-1, 1) if replication is None else (replication,):
            topic = NewTopic(name, partitions, factor, config=dict(config))
            try:
                self._change(
                    doing,
                    lambda left, topic=topic: self._admin.create_topics(  # type: ignore[misc]
                        [topic], operation_timeout=left, request_timeout=left
                    )[name],
                )
                break
            except UnsupportedOperationError:  # old brokers know no default, or it is too many
                if factor in (1, replication):
                    raise
        made = self.look_up(name, patient=True)
        self.offsets(name, [(number, LATEST) for number in range(partitions)])
        return made

    def delete_topic(self, name: str) -> None:
        """Delete a topic, and wait until it is gone.

        Raises:
            TopicNotFoundError: there is none.
        """
        self._change(
            f"deleting topic {name!r}",
            lambda left: self._admin.delete_topics(
                [name], operation_timeout=left, request_timeout=left
            )[name],
        )
        deadline = Deadline(self.settings.timeout)
        for pause in pauses():
            if name not in self.names() or deadline.passed:
                return
            time.sleep(pause)

    def add_partitions(self, name: str, total: int) -> None:
        """Give a topic more partitions, and wait until they can be used."""
        self._change(
            f"adding partitions to topic {name!r}",
            lambda left: self._admin.create_partitions(
                [NewPartitions(name, total)], operation_timeout=left, request_timeout=left
            )[name],
        )
        deadline = Deadline(self.settings.timeout)
        for pause in pauses():
            if self.look_up(name).partitions >= total or deadline.passed:
                break
            time.sleep(pause)
        self.offsets(name, [(number, LATEST) for number in range(total)])

    def set_configs(
        self, name: str, changes: Mapping[str, str | None], *, try_only: bool = False
    ) -> None:
        """Change settings of a topic, all at once, and wait until a broker shows it; others stay.

        Args:
            changes: what they are to be; None for what the cluster has for all topics.
            try_only: change nothing, but see whether it is allowed.
        """
        entries = [
            ConfigEntry(key, value, incremental_operation=_DELETE if value is None else _SET)
            for key, value in changes.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        self._change(
            f"setting topic {name!r}",
            lambda left: next(
                iter(
                    self._admin.incremental_alter_configs(
                        [resource], request_timeout=left, validate_only=try_only
                    ).values()
                )
            ),
        )
        if not try_only:
            self._wait_for_configs(name, {key: new for key, new in changes.items() if new})

    def _wait_for_configs(self, name: str, wanted: Mapping[str, str]) -> None:
        """Wait until a broker, which hears of changes from the controller, shows these settings.

        They are changed already, so it is no failure if none answers.
        """
        deadline = Deadline(min(self.settings.timeout, _SHOWN_SECONDS))
        for pause in pauses():
            with contextlib.suppress(EventLogError):
                shown = self.configs([name], timeout=deadline.left()).get(name)
                if shown is None or wanted.items() <= shown.items():
                    return
            if deadline.passed:
                return
            self.check_process()
            time.sleep(pause)

    def _answered(self, answer: Future[Any], left: float) -> Any:
        return answered(answer, left, self.check_process)

    def _change(self, doing: str, start: Callable[[float], Any]) -> None:
        if not self._has_controller:
            raise UnsupportedOperationError(f"{doing}: {self.settings.place} has no controller")
        self.retried(doing, lambda left: self._answered(start(left), left), again=never_came)


def _hex(topic_id: Any) -> str:
    """Kafka's id of a topic as 32 hex digits; empty for none."""
    if topic_id is None:
        return ""
    number = uuid.UUID(bytes=_from_base64(str(topic_id)))
    return number.hex if number.int else ""


def _from_base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
