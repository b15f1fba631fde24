"""Who gives the events of a topic their times: the brokers, or a copy that brings them along.

Topics of this engine have the brokers stamp what they store. While a copy is made into one, it
takes the times that it is given, however old. What says so is one change of the topic's settings,
and the change is its own mark: ``message.timestamp.after.max.ms`` is then one less than the largest
number, which nobody else has a reason to choose. So a copy that was killed leaves the mark, and
whoever ends the next one finds it. Brokers before Kafka 3.6 do not know that setting; there a topic
that this engine made is known to be stamped otherwise.

A topic of others that takes the times of who sends, is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from eventlog.errors import (
    EventLogError,
    LogBusyError,
    TopicNotFoundError,
)

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["Stamping", "is_set_by_us"]

_TYPE: Final = "message.timestamp.type"
_BEFORE: Final = "message.timestamp.before.max.ms"
_AFTER: Final = "message.timestamp.after.max.ms"

_BY_BROKERS: Final = "LogAppendTime"
_BY_SENDERS: Final = "CreateTime"
_ANY: Final = str(2**63 - 1)
_MARK: Final = str(2**63 - 2)


class Stamping:
    """Of one topic."""

    def __init__(self, topic: KafkaTopic) -> None:
        self._topic = topic
        self._cluster = topic.log.cluster
        self._is_kept = False  # by this one: brokers may not show it yet

    def is_by_brokers(self) -> bool:
        """Whether the times of its events do not decrease: the brokers', or those of copies.

        That is known only of what this engine has made. Not while a copy is made: what others
        append meanwhile has other times.
        """
        found = self._cluster.configs([self._topic.name])
        is_ours = self._topic.state.record.created_us > 0
        return is_ours and _is_by_brokers(found.get(self._topic.name, {}))

    def can_be_kept(self) -> bool:
        """Whether the topic takes, or can be made to take, the times of events.

        Raises:
            LogBusyError: there was no answer in time.
            TopicNotFoundError: it was deleted.
        """
        config = self._config()
        if not _is_by_brokers(config):
            return config.get(_TYPE) == _BY_SENDERS  # otherwise nobody knows
        try:
            self._cluster.set_configs(self._topic.name, _kept(config), try_only=True)
        except (LogBusyError, TopicNotFoundError):
            raise
        except EventLogError:  # it cannot be changed there, or not by this user
            return False
        return True

    def keep(self) -> None:
        """From now on the topic takes the times that it is given."""
        config = self._config()
        if not _is_by_brokers(config):
            return
        self._is_kept = True
        self._change(_kept(config))

    def stamp(self) -> None:
        """From now on the brokers stamp again, if they did before a copy began."""
        config = self._config()
        if not self._is_kept and not self._is_marked(config):
            return
        changes: dict[str, str | None] = {_TYPE: _BY_BROKERS}
        if _AFTER in config:
            changes |= {_BEFORE: None, _AFTER: None}
        self._change(changes)
        self._is_kept = False

    def _change(self, changes: Mapping[str, str | None]) -> None:
        self._cluster.set_configs(self._topic.name, changes)
        self._topic.refresh()

    def _is_marked(self, config: Mapping[str, str]) -> bool:
        """Whether a copy has made the topic take times, and was not there to put it right."""
        if config.get(_TYPE) != _BY_SENDERS:
            return False
        if _AFTER in config:
            return config[_AFTER] == _MARK
        return self._topic.state.record.created_us > 0

    def _config(self) -> Mapping[str, str]:
        """The topic's settings.

        Raises:
            TopicNotFoundError: it was deleted.
        """
        self._topic.refresh()
        found = self._cluster.configs([self._topic.name])
        return found.get(self._topic.name, {})


def is_set_by_us(config: Mapping[str, str]) -> bool:
    """Whether a topic is stamped as this engine has it; also if nobody can tell."""
    return config.get(_TYPE, _BY_BROKERS) == _BY_BROKERS or config.get(_AFTER) == _MARK


def _is_by_brokers(config: Mapping[str, str]) -> bool:
    return config.get(_TYPE) == _BY_BROKERS


def _kept(config: Mapping[str, str]) -> dict[str, str | None]:
    changes: dict[str, str | None] = {_TYPE: _BY_SENDERS}
    if _AFTER in config:
        changes |= {_BEFORE: _ANY, _AFTER: _MARK}
    return changes
