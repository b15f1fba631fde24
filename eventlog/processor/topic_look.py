"""How many partitions a host's topic has: asked beside the rounds, which must not be late.

Where the log is on a network it may not answer for as long as a call may take, which is longer than
some leases. So a round waits for the answer for a moment only, and otherwise goes by what is known.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from eventlog.errors import LogBusyError
from eventlog.processor.threads import in_thread

if TYPE_CHECKING:
    from eventlog.log import Topic
    from eventlog.waiting import Completion

__all__ = ["TopicLook"]

_MOMENT: Final = 1.0

_logger: Final = logging.getLogger("eventlog")


class TopicLook:
    """See the module. For one thread, but for `late`.

    Args:
        topic: the topic.
        lease_duration: in seconds; a round waits for a small part of it.

    Attributes:
        late: that the log has not answered lately; None if it has.
    """

    def __init__(self, topic: Topic, lease_duration: float) -> None:
        self.late: LogBusyError | None = None
        self._topic = topic
        self._moment = min(_MOMENT, lease_duration / 20)
        self._asked: Completion[object] | None = None
        self._told = False

    def partitions(self) -> int:
        """How many there are, as far as is known.

        Raises:
            TopicNotFoundError: the topic was deleted.
            ClosedError: the log was closed.
        """
        if self._asked is None:
            # With this it learns of partitions that others have added.
            self._asked = in_thread(lambda: self._topic.partition_info(0))
        with contextlib.suppress(TimeoutError):
            error = self._asked.exception(self._moment)
            self._asked = None
            self._take(error)
            return self._topic.partitions
        self.late = self.late or LogBusyError(
            f"asking for topic {self._topic.name!r}: no answer from the log"
        )
        return self._topic.partitions

    def _take(self, error: BaseException | None) -> None:
        if error is None:
            if self._told:
                _logger.info("topic %r is reached again", self._topic.name)
            self.late, self._told = None, False
        elif isinstance(error, LogBusyError):
            self.late = error
            if not self._told:
                self._told = True
                said = str(error).removesuffix(": try again")
                _logger.warning("%s; a host of topic %r waits", said, self._topic.name)
        else:
            raise error
