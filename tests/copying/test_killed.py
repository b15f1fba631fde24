"""Copies killed at any moment and made again: nothing is lost, nothing is there twice."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import pytest

import eventlog
from eventlog import Event
from tests.conftest import Start
from tests.copying.killing import kill_again_and_again
from tests.copying.logs import contents

COPIES = """
import os, signal, sys
import eventlog
from eventlog.copying import TopicCopy, partition
from eventlog.embedded.commit import Committer
from eventlog.embedded.topic import EmbeddedTopic

source, target, through, dies_in, dies_at = sys.argv[1:]
partition.STORE_EVENTS = 40
if through == "producers":
    EmbeddedTopic.intake = lambda self: None
if dies_in:
    steps = 0
    step = getattr(Committer, dies_in)
    def die(self, *arguments):
        global steps
        steps += 1
        if steps == int(dies_at):
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, *arguments)
    setattr(Committer, dies_in, die)

with eventlog.open(source, read_only=True) as here, eventlog.open(target) as there:
    copy = TopicCopy(here.topic("cars"), there, copied=lambda n: print(n, flush=True))
    copy.check()
    copy.run()
    copy.carry_groups()
print("done", flush=True)
"""

through = pytest.mark.parametrize("through", ["an intake", "producers"])


def fill(path: Path, first: int, count: int) -> None:
    """Append events that differ to a source, one by one and together; its group moves on."""
    with eventlog.open(path) as log:
        cars = log.create_topic("cars", partitions=3, exist_ok=True)
        events = [Event(f"{n}", key=f"k{n % 17}") for n in range(first, first + count)]
        for event in events[: count // 3]:
            cars.append(event.body, key=event.key)
        cars.append_batch(events[count // 3 :])
        starts = {number: cars.partition_info(number).next_offset - 3 for number in range(3)}
        cars.group("g").reset(starts)


def require_copy(source: Path, target: Path, *, times: bool) -> None:
    """Each event is there once, in order, and the group goes on where it stopped."""
    with eventlog.open(source) as here, eventlog.open(target, create=False) as there:
        cars, made = here.topic("cars"), there.topic("cars")
        assert contents(made, times=times) == contents(cars, times=times)
        assert there.check().damaged == []
        finished = [
            {number: one.offset for number, one in topic.group("g").checkpoints().items()}
            for topic in (cars, made)
        ]
        assert finished[0] == finished[1]


@through
def test_a_copy_that_is_killed_again_and_again_while_its_source_grows_is_whole_in_the_end(
    through: str, tmp_path: Path, start: Start
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    fill(source, 0, 600)
    more = itertools.count(600, 100)
    kill_again_and_again(
        lambda: start(COPIES, source, target, through, "", ""),
        lambda: fill(source, next(more), 100),
        8,
        start=0.4,
        step=0.003,
    )
    require_copy(source, target, times=through == "an intake")


@through
@pytest.mark.parametrize("dies_in", ["_commit_transaction", "_flush"])
def test_a_copy_may_be_killed_before_and_after_each_of_its_commits(
    through: str, dies_in: str, tmp_path: Path, start: Start
) -> None:
    """Each attempt gets one commit further than the last."""
    source = tmp_path / "source"
    fill(source, 0, 200)
    target = tmp_path / "target"
    kills = 0
    for dies_at in (1, 2, 2, 3, 2, 4, 3, 5):
        child = start(COPIES, source, target, through, dies_in, dies_at)
        lines = child.rest()
        if child.wait() == 0:
            assert lines[-1] == "done"
            break
        assert child.wait() == -signal.SIGKILL
        kills += 1
    assert kills >= 5
    assert start(COPIES, source, target, through, "", "").rest()[-1] == "done"
    require_copy(source, target, times=through == "an intake")
