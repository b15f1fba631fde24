"""Copying topics from one log to another, whatever engines they are on, with their groups.

A `TopicCopy` takes a topic's events over, partition by partition, and carries the checkpoints of
its groups. Whatever ends it, it can be made again and goes on: the target remembers, in the step
that stores events, up to which offset of the source they are there.

Only the contracts of `EventLog` and `Topic` are used here, and what an engine may offer beyond
producers to store through (`eventlog.producing.intake`).
"""

from eventlog.copying.groups import CarriedGroup
from eventlog.copying.partition import CopiedPartition, OthersEventsError
from eventlog.copying.topic import TopicCopy

__all__ = ["CarriedGroup", "CopiedPartition", "OthersEventsError", "TopicCopy"]
