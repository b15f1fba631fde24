"""Checkpoints shown to Kafka's own tools: as offsets of the Kafka group of the same name.

They are for looking at: nobody goes on from them. Where a group really is stands in its documents,
and in the offsets of a Kafka group of another name (`eventlog.kafka.groups`). So it does no harm
that an offset comes late, or not at all, or that another client or a person changes it.

What this module deliberately does not do: hold up, or fail, who checkpoints.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from eventlog.errors import EventLogError
from eventlog.kafka.asking import timed_out
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import is_transient

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventlog.groups.documents import StoredCheckpoint
    from eventlog.kafka.clients import Clients
    from eventlog.kafka.groups.checkpoint import Place
    from eventlog.kafka.later import Later

__all__ = ["PublishedCheckpoints"]

_logger: Final = logging.getLogger("eventlog")

_EVERY: Final = 1.0
"""Seconds between commits: who draws lags looks less often, and Event Hubs takes 4 a second."""

_AFTER_A_FAILURE: Final = 10.0
_AGAIN: Final = 86_400.0
"""Seconds after which an offset that stays is committed again, before Kafka forgets it."""

_PATIENCE: Final = 5.0
"""Seconds after which a commit is given up; the next one may go well."""

_POLL: Final = 0.05
_MOST_GROUPS: Final = 16
"""Consumers that are kept for the next commit; each has a few threads that sleep."""


class _Shown(NamedTuple):
    """What was committed, or is to be.

    Attributes:
        era: the group's id, and how many resets there were.
    """

    offset: int
    era: tuple[str, int]
    at: float = 0.0


class PublishedCheckpoints:
    """Commits checkpoints to Kafka groups, soon. Thread-safe."""

    def __init__(self, clients: Clients, later: Later) -> None:
        self._clients = clients
        self._later = later
        self._mutex = threading.Lock()
        self._wanted: dict[Place, _Shown] = {}
        self._shown: dict[Place, _Shown] = {}
        self._committers: OrderedDict[str, _Committer] = OrderedDict()
        self._next_at = 0.0
        self._refused: set[str] = set()

    def note(self, place: Place, document: StoredCheckpoint) -> None:
        """A checkpoint is there now. Does not block, and raises nothing."""
        if place.group.startswith("-"):
            return  # none of a group that people name
        wanted = _Shown(document.offset + 1, (document.group, document.reset))
        now = time.monotonic()
        with self._mutex:
            known = self._wanted.get(place) or self._shown.get(place)
            if known is not None and known.era == wanted.era:
                stays = known.offset == wanted.offset and now - known.at < _AGAIN
                if stays or wanted.offset < known.offset:
                    return
            self._wanted[place] = wanted._replace(at=now)
            soon = max(self._next_at - now, 0.0)
        self._later.within(soon, self, self._publish)

    def _publish(self) -> None:
        with self._mutex:
            wanted, self._wanted = self._wanted, {}
        groups: defaultdict[str, list[Place]] = defaultdict(list)
        for place in wanted:
            groups[place.group].append(place)
        failed: list[Place] = []
        for group, places in groups.items():
            try:
                self._commit(group, [(place, wanted[place].offset) for place in places])
            except (KafkaException, EventLogError) as error:
                failed += places
                self._complain(group, error)
            else:
                self._refused.discard(group)
        self._note_done(wanted, failed)

    def _commit(self, group: str, places: Iterable[tuple[Place, int]]) -> None:
        committer = self._committers.get(group)
        if committer is None:
            committer = self._committers[group] = _Committer(self._clients, group)
            self._let_go(len(self._committers) - _MOST_GROUPS)
        self._committers.move_to_end(group)
        committer.commit([TopicPartition(one.topic, one.partition, at) for one, at in places])

    def _let_go(self, surplus: int) -> None:
        idle = [group for group, one in self._committers.items() if not one.is_waiting]
        for group in idle[: max(surplus, 0)]:
            del self._committers[group]

    def _complain(self, group: str, error: KafkaException | EventLogError) -> None:
        """Once, until it works again."""
        if group not in self._refused:
            doing = f"showing the checkpoints of group {group!r} to Kafka's own tools"
            told = self._clients.error(error, doing) if isinstance(error, KafkaException) else error
            _logger.warning("%s (the checkpoints themselves are kept)", told)
        self._refused.add(group)

    def _note_done(self, wanted: dict[Place, _Shown], failed: list[Place]) -> None:
        now = time.monotonic()
        with self._mutex:
            for place, shown in wanted.items():
                if place in failed:
                    self._wanted.setdefault(place, shown)
                else:
                    self._shown[place] = shown._replace(at=now)
            pause = _AFTER_A_FAILURE if failed else _EVERY
            self._next_at = now + pause
            again = bool(self._wanted)
        if again:
            self._later.after(pause, self, self._publish)

    def close(self) -> None:
        """Commit what was noted, if that can be done in a moment, and let go of the consumers."""
        self._later.close()
        waiting = [one for one in self._committers.values() if one.is_waiting]
        self._committers.clear()
        if waiting:
            threading.Thread(target=waiting.clear, name="eventlog committers", daemon=True).start()


class _Committer:
    """Commits offsets of one group, of which it is no member.

    As long as an answer may come, it must not be freed where that would hold up somebody:
    librdkafka waits for the answer then, or until it gives up by itself.

    Attributes:
        is_waiting: whether an answer may come.
    """

    def __init__(self, clients: Clients, group: str) -> None:
        self.is_waiting = False
        self._answers: queue.SimpleQueue[KafkaError | None] = queue.SimpleQueue()
        self._consumer = clients.consumer(
            group_id=group,
            enable_auto_commit=False,
            on_commit=functools.partial(_answered, self._answers),  # itself it must not refer to
        )

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Commit them.

        Raises:
            KafkaException: they were refused, or there was no answer in time.
        """
        deadline = Deadline(_PATIENCE)
        if self.is_waiting:
            with contextlib.suppress(KafkaException):
                self._wait(deadline)
            if self.is_waiting:
                raise timed_out()
        self._consumer.commit(offsets=[*offsets], asynchronous=True)
        self.is_waiting = True
        self._wait(deadline)

    def _wait(self, deadline: Deadline) -> None:
        while self._answers.empty():
            told = self._consumer.poll(_POLL)
            error = None if told is None else told.error()
            if error is not None and not is_transient(error):
                raise KafkaException(error)
            if deadline.passed:
                raise timed_out()
        self.is_waiting = False
        answer = self._answers.get()
        if answer is not None:
            raise KafkaException(answer)


def _answered(
    answers: queue.SimpleQueue[KafkaError | None],
    error: KafkaError | None,
    places: Sequence[TopicPartition],
) -> None:
    errors = (error, *(place.error for place in places))
    answers.put(next((one for one in errors if one is not None), None))
