"""Groups of one name on one cluster, in several stores, have nothing to do with each other."""

from __future__ import annotations

from collections.abc import Callable

from eventlog import ConsumerGroup, EventLog, Topic
from eventlog.groups.documents import GroupDocument, GroupIds, decode
from eventlog.kafka.groups.checkpoint import kafka_group
from tests.kafka.writing import as_kafka, of_five


def finish(topic: Topic, offset: int) -> None:
    with topic.log.transaction() as tx:
        tx.checkpoint(topic, "fraud", partition=0, offset=offset)


def stands(group: ConsumerGroup) -> int:
    return group.checkpoints()[0].offset


def test_nobody_moves_or_fences_a_group_of_that_name_in_another_store(
    opened: Callable[..., EventLog],
) -> None:
    with opened("a") as a, opened("b") as b:
        cars = of_five(a)
        there = b.topic(cars.name)
        for offset in range(3):
            finish(cars, offset + 2)
            finish(there, offset)
        with opened("a") as log:
            assert stands(log.topic(cars.name).group("fraud")) == 4
        with opened("b") as log:
            assert stands(log.topic(cars.name).group("fraud")) == 2


def test_consumers_of_one_number_in_two_stores_do_not_shut_each_other_out(
    opened: Callable[..., EventLog],
) -> None:
    with opened("a") as a, opened("b") as b:
        cars = of_five(a)
        one = cars.consumer(group="fraud", max_wait=0)
        other = b.topic(cars.name).consumer(group="fraud", max_wait=0)
        with one, other:
            for number in range(5):
                for consumer in (one, other):
                    assert next(consumer).offset == number
                    with consumer.transaction():
                        pass


def kafka_group_of(topic: Topic) -> str:
    log = as_kafka(topic.log)
    ids = GroupIds(log.id, topic.name, topic.id, "fraud")
    blob = log.blobs.get(ids.document)
    document = decode(ids.document, blob.data, GroupDocument, ids)  # type: ignore[union-attr]
    assert document is not None
    return kafka_group("fraud", document.group)


def test_the_id_in_the_groups_document_says_where_its_offsets_are(
    opened: Callable[..., EventLog],
) -> None:
    """Also when it was reset, deleted and made anew."""
    with opened("a") as log:
        cars = of_five(log)
        group, cluster = cars.group("fraud"), as_kafka(log).cluster
        finish(cars, 1)
        first = kafka_group_of(cars)
        assert cluster.committed(first, cars.name, [0])[0].next_offset == 2
        group.reset(1)
        finish(cars, 2)
        assert kafka_group_of(cars) == first
        assert cluster.committed(first, cars.name, [0])[0].next_offset == 3
        group.delete()
        assert group.checkpoints() == {}
        finish(cars, 0)
        second = kafka_group_of(cars)
        assert second != first
        assert cluster.committed(second, cars.name, [0])[0].next_offset == 1
        assert stands(group) == 0
