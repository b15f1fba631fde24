"""What is being done for a caller, and for how long it may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from eventlog.errors import EventLogError, LogBusyError, TopicNotFoundError
from eventlog.kafka.deadline import Deadline

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic
    from eventlog.kafka.topic_record import TopicState

__all__ = ["Errand"]

_MOMENT: Final = 1.0
_LEAST_MOMENT: Final = 0.25


class Errand(NamedTuple):
    """What is being done.

    Attributes:
        doing: what, for errors: ``"appending to topic 'cars'"``.
        deadline: until when.
        topics: to which topics.
    """

    doing: str
    deadline: Deadline
    topics: Sequence[KafkaTopic]

    def state_of(self, topic: KafkaTopic) -> TopicState:
        """A topic as it is now; or as it was known, if no answer comes: sending waits for that.

        Raises:
            TopicNotFoundError: it was deleted.
        """
        try:
            return topic.current(timeout=self._moment())
        except LogBusyError:
            return topic.state

    def look(self) -> None:
        """Look whether the topics are still there.

        Whoever waits for an acknowledgement does so now and then: librdkafka would wait for a
        deleted topic to be made again.

        Raises:
            TopicNotFoundError: one was deleted.
        """
        for topic in self.topics:
            cluster = topic.log.cluster
            try:
                found = cluster.look_up(topic.name, timeout=self._moment())
            except TopicNotFoundError:
                raise
            except EventLogError:
                return  # no answer: that is what is waited for, too
            if found.id != topic.id:
                raise TopicNotFoundError(
                    f"topic {topic.name!r} was deleted from the log at {topic.log.location}"
                )

    def _moment(self) -> float:
        """Seconds to wait for an answer that is not what the errand is about."""
        return min(max(self.deadline.left(), _LEAST_MOMENT), _MOMENT)
