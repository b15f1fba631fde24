"""From a directory to a Kafka cluster, and back."""

from __future__ import annotations

import secrets
from pathlib import Path

import eventlog
from eventlog import Event, EventLog
from tests.copying.logs import Made, contents, numbered, to_the_millisecond

PROPERTIES = {"n": None, "t": True, "i": 1, "f": 1.5, "s": "\xe9", "b": b"\xff"}


def test_a_topic_goes_to_a_cluster_and_comes_back_with_its_groups(
    kafka_log: EventLog, tmp_path: Path
) -> None:
    name, groups = f"copied-{secrets.token_hex(4)}", f"file:{tmp_path / 'groups'}"
    with eventlog.open("memory:") as source, eventlog.open("memory:") as back:
        cars = source.create_topic(name, partitions=2, partitioner="kafka")
        cars.append_batch([Event(b"\xff", key=b"bytes", properties=PROPERTIES)])
        for beginning in (0, 3000):
            cars.append_batch(numbered(beginning, beginning + 3000))
            cars.group("g").reset(beginning // 4 + 100)

            there = Made(cars, kafka_log)
            there.check()
            assert there.run() >= 3000
            (group,) = there.carry_groups(target_store=groups)
            assert group.left == {}
            made = kafka_log.topic(name)
            assert contents(made) == to_the_millisecond(contents(cars))

            home = Made(made, back)
            home.check()
            assert home.run() >= 3000
            (group,) = home.carry_groups(store=groups)
            assert [at[1] for at in group.carried.values()] == [beginning // 4 + 99] * 2
            assert contents(back.topic(name)) == contents(made)
        assert Made(cars, kafka_log).run() == 0
