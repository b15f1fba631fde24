"""Copying a topic: making it in the target, its partitions one after the other, its groups."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, cast

from eventlog.copying.groups import CarriedGroup, carry
from eventlog.copying.partition import (
    CopiedPartition,
    OthersEventsError,
    PartitionCopy,
    copy_name,
)
from eventlog.copying.reading import was_used
from eventlog.copying.recollection import recollected
from eventlog.copying.through_producer import ProducerIntake
from eventlog.errors import TopicExistsError, TopicNotFoundError, UnsupportedOperationError
from eventlog.log import EventLog, Topic
from eventlog.partitioning import PARTITIONERS
from eventlog.producing.intake import Intake
from eventlog.topic_settings import duration_text, setting_text

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore

__all__ = ["TopicCopy"]

_FINEST: Final = timedelta(microseconds=1)


def _nobody(_what: object) -> None:
    """Whom nobody wants to hear."""


class TopicCopy:
    """The copy of a topic in another log; goes on with what an earlier one has copied.

    Args:
        source: the topic; others may go on using it.
        target: the log to copy it to.
        name: of the topic there, if it is another.
        mix: also copy behind events that are not the copy's.
        skip_damaged: pass over what is damaged in the source.
        note: called with a sentence on each thing that is not quite as it was in the source; what
            is no matter of the topic alone is said in the same words by each copy.
        copied: called with the number of events each time that some are stored.

    Attributes:
        remaining: about how many events there were to copy when it was checked: offsets that stand
            for none count too.
        partitions: what became of each partition.
    """

    def __init__(
        self,
        source: Topic,
        target: EventLog,
        *,
        name: str | None = None,
        mix: bool = False,
        skip_damaged: bool = False,
        note: Callable[[str], object] = _nobody,
        copied: Callable[[int], object] = _nobody,
    ) -> None:
        self.source: Final = source
        self.remaining = 0
        self.name: Final = source.name if name is None else name
        self.partitions: Final[list[CopiedPartition]] = []
        self._log = target
        self._mix = mix
        self._skip_damaged = skip_damaged
        self._note = note
        self._copied = copied

    def check(self) -> None:
        """Refuse what cannot be copied, before anything is changed.

        Raises:
            OthersEventsError: a topic of the name is in the target, with events of others.
            TopicExistsError: it is there with other partitions, or another partitioner.
            UnsupportedOperationError: the topic cannot be made in the target.
            ValueError: it would be copied onto itself.
        """
        if (self.source.log.id, self.source.name) == (self._log.id, self.name):
            raise ValueError(f"topic {self.name!r} cannot be copied onto itself: name the copy")
        there = self._there()
        known = [-1] * self._partitions()
        if there is not None:
            known = self._looked_at(there)
        elif self.source.partitioner not in PARTITIONERS:
            raise UnsupportedOperationError(
                f"topic {self.source.name!r} places keys with {self.source.partitioner!r}, a "
                f"function: make the topic at {self._log.location} with it first, by "
                f"create_topic({self.name!r}, partitions={self.source.partitions}, "
                "partitioner=...)"
            )
        infos = [self.source.partition_info(number) for number in range(len(known))]
        self.remaining = sum(
            max(info.next_offset - max(info.beginning_offset, last + 1), 0)
            for info, last in zip(infos, known, strict=True)
        )

    def run(self) -> int:
        """Copy what is in the source now, and is not copied yet; the number of events.

        Raises:
            TopicExistsError, UnsupportedOperationError, ValueError: see `check`.
            ProducerFencedError: another copy of the topic has begun since.
            EventLogError: what the logs raise. What was copied before stays; it can be repeated.
        """
        self.partitions.clear()
        target, known = self._target()
        ends = [self.source.partition_info(number).next_offset for number in range(len(known))]
        self._note_settings(target)
        with closing(_intake(target)) as intake:
            self._note_times(intake)
            for copied_to, end in zip(known, ends, strict=True):
                self._copy(target, intake, copied_to, end)
            intake.finish()
        return sum(partition.events for partition in self.partitions)

    def carry_groups(
        self,
        names: Collection[str] | None = None,
        *,
        store: BlobStore | str | None = None,
        target_store: BlobStore | str | None = None,
    ) -> list[CarriedGroup]:
        """Carry checkpoints of groups over, to be called after `run`; see `carry`.

        Args:
            names: of which; None means all.
            store, target_store: where they are, and go, if not in the logs' own stores.
        """
        target = self._log.topic(self.name)
        with closing(_intake(target)) as intake:
            keeps_times = intake.resolution is not None
        return carry(
            self.source,
            target,
            self.partitions,
            names,
            store=store,
            target_store=target_store,
            keeps_times=keeps_times,
            note=self._say,
        )

    # The topic in the target

    def _partitions(self) -> int:
        """How many the source has; others may have added some."""
        self.source.partition_info(0)
        return self.source.partitions

    def _there(self) -> Topic | None:
        try:
            return self._log.topic(self.name)
        except TopicNotFoundError:
            return None

    def _known(self, there: Topic, intake: Intake) -> list[int]:
        """Up to which offset of the source each partition is copied; -1 where nothing is."""
        known = [-1] * self._partitions()
        for number in range(min(len(known), there.partitions)):
            known[number] = intake.last_sequence(copy_name(self.source, number))
            if known[number] < 0 and intake.resolution is not None:
                known[number] = recollected(self.source, there, number)
        return known

    def _target(self) -> tuple[Topic, list[int]]:
        """The topic in the target, made as the source is if it was not there; what it has."""
        there = self._there()
        if there is None:
            made = self._make()
            return made, [-1] * made.partitions
        known = self._looked_at(there)
        if len(known) > there.partitions:
            there.add_partitions(len(known) - there.partitions)
        return there, known

    def _looked_at(self, there: Topic) -> list[int]:
        """Up to which offset each partition of the source is copied; -1 where nothing is.

        Raises:
            TopicExistsError: it is no copy, nor may it become one.
        """
        with closing(_intake(there)) as intake:
            known = self._known(there, intake)
            self._refuse_other(there, known, intake)
        return known

    def _make(self) -> Topic:
        source = self.source
        return self._log.create_topic(
            self.name,
            partitions=self._partitions(),
            retention=source.retention,
            retention_bytes=source.retention_bytes,
            compression=cast("Literal['zstd', 'none']", source.compression),
            partitioner=source.partitioner,
            max_event_bytes=source.max_event_bytes,
        )

    def _refuse_other(self, there: Topic, known: list[int], intake: Intake) -> None:
        """Refuse a topic that keys would stand elsewhere in, or that is full of other things.

        What is there may be of another copy, whose first step came after `known` was read: then
        that is made good.
        """
        grown = any(last >= 0 for last in known) and there.partitions < self._partitions()
        if there.partitions != self._partitions() and not grown:
            raise self._differs(there, "partitions", there.partitions, self._partitions())
        if there.partitioner != self.source.partitioner:
            raise self._differs(there, "partitioner", there.partitioner, self.source.partitioner)
        if self._mix:
            return
        for number, last in enumerate(known[: there.partitions]):
            if last >= 0 or self.source.partition_info(number).is_empty:
                continue
            if not was_used(there, number):
                continue
            known[number] = intake.last_sequence(copy_name(self.source, number))
            if known[number] < 0:
                raise OthersEventsError(
                    f"topic {self.name!r} exists at {self._log.location}, with events in partition "
                    f"{number} that are no copies of topic {self.source.name!r} at "
                    f"{self.source.log.location}, or copies that were forgotten"
                )

    def _differs(self, there: Topic, what: str, has: object, wanted: object) -> TopicExistsError:
        return TopicExistsError(
            f"topic {there.name!r} exists at {self._log.location} with {what} {has!r}; keys keep "
            f"their partitions only with {wanted!r}, as in the source"
        )

    # What is said

    def _say(self, sentence: str) -> None:
        self._note(f"topic {self.name!r}: {sentence}")

    def _note_settings(self, there: Topic) -> None:
        for setting in ("retention", "retention_bytes", "max_event_bytes", "compression"):
            has, wanted = getattr(there, setting), getattr(self.source, setting)
            if has != wanted:
                self._say(
                    f"its {setting} stays {setting_text(has)}; the source's is "
                    f"{setting_text(wanted)}"
                )
        if (there.retention or timedelta.max) < (self.source.retention or timedelta.max):
            self._say("what is older than its retention expires in the copy at once")

    def _note_times(self, intake: Intake) -> None:
        if intake.resolution is None:
            self._say(
                f"events get new times: {self._log.location} does not keep those they have, so "
                "that retention counts from now on too"
            )
        elif intake.resolution > _FINEST:
            steps = duration_text(intake.resolution)
            self._note(f"{self._log.location}: times of events are kept in steps of {steps}")

    def _copy(self, target: Topic, intake: Intake, copied_to: int, end: int) -> None:
        """Copy the next partition."""
        copy = PartitionCopy(
            self.source,
            target,
            CopiedPartition(len(self.partitions), copied_to=copied_to),
            mix=self._mix,
            skip_damaged=self._skip_damaged,
            copied=self._copied,
        )
        self.partitions.append(copy.outcome)
        try:
            copy.run(intake, end)
        finally:
            self._note_lost(copy.outcome)

    def _note_lost(self, copied: CopiedPartition) -> None:
        for first, last in copied.lost:
            self._say(
                f"partition {copied.partition}: offsets {first} to {last} expired in the source "
                "before they were copied"
            )
        for first, last in copied.damaged:
            self._say(
                f"partition {copied.partition}: offsets {first} to {last} are damaged in the "
                "source and were not copied"
            )


def _intake(topic: Topic) -> Intake:
    return topic.intake() or ProducerIntake(topic)
