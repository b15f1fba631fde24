"""Groups on a cluster: checkpoints that Kafka transactions commit, in offsets of Kafka's groups.

A group's documents are in a blob store that its hosts share, here as with every engine. Kafka
cannot commit a blob together with events; but it can commit the offsets of a Kafka group. So
`GroupBlobs` stands in front of the store. Where transactions have checkpointed a partition, its
checkpoint is the document, moved on to the offset that a Kafka group has (`kafka_group`). Whoever
reads it sees one checkpoint.

Who may commit offsets is fenced as follows. Transactions with checkpoints have a *transactional
id*, and before the first one it is written into the document (`StoredCheckpoint.producers`), by a
swap. Then:

1. Which Kafka group that is says the id of the group in the document (`kafka_group`), and so do the
   transactional ids. So groups of one name do not meet in Kafka: those of several stores or topics,
   nor one that was deleted and the one made since. An offset counts only if the document names
   producers, and if the offset's metadata name the same group and the same reset as the document:
   an older one is nothing.
2. Of each version of the document one process at most commits offsets: the one that wrote it
   (`Seen.is_own`). Any other first swaps it for one of its own. So who wrote it knows, without
   asking, where its own transactions have moved it (`Seen.is_certain`).
3. Whoever becomes owner, and whoever moves or deletes what is not its own, moves the named ids to
   `StoredCheckpoint.to_fence` with the swap that does it. From then on transactions that look at
   the document refuse.
4. Then those ids are fenced: Kafka aborts what they have open and refuses what they commit from
   then on. That catches the transactions that had looked before the swap. Only then is the offset
   read, and written into the document, which names nobody any more. So the new owner begins where
   the last transaction of the former one ended; and after a deletion no offset comes that would
   overwrite those of the next group of the name.
5. Nobody is shown a document of which ids are still to be fenced: who reads it does 4 first.
6. A transaction has its producer ready before it looks at the document, and commits with that very
   one: what made it ready, another may have fenced since, but not the other way round. Producers
   are lent by *tickets*, each of which is given out once.
7. Every checkpoint that a transaction has looked at names its id, moved or not: it is to hold until
   the commit.
8. Of one process, one transaction at a time is between its look and its commit (`Turns`).

The etag of a document with producers has the offset in it, and a swap compares both. That the
offset moves between the comparison and the swap 2 and 8 exclude, or 4 finds out.

Offsets of a Kafka group that nobody uses are deleted after a while (``offsets.retention.minutes``,
a week mostly). So the document gets the offset as well when a partition or the log is closed in
good order, and some minutes after a transaction, whatever comes then (`GroupBlobs.write_down`).

What this module deliberately does not do: hold producers, those are
`eventlog.kafka.writing.producers`; show anything to Kafka's own tools, that is
`eventlog.kafka.groups.published`.
"""
