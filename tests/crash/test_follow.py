"""Producers, consumers and pipelines killed at random with everything else running.

What they did they noted; `tests.history.check` holds the log to it.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import eventlog
from eventlog import EventLog
from tests.conftest import seed_of_today
from tests.crash import roles
from tests.crash.roles import Stage
from tests.crash.test_kill import require_sound_tree
from tests.history import Kind, Recorder, check, read_log, read_records

if TYPE_CHECKING:
    from tests.conftest import Child, Start

PLAY = "from tests.crash.roles import main; main()"
CASTS = [*roles.CASTS, *roles.ASYNC_CASTS]


class Theatre:
    """Processes that play casts on one log; each cast by one that lives, at most moments."""

    def __init__(self, start: Start, path: Path, histories: Path, seed: int) -> None:
        self._start = start
        self._arguments = path, histories
        self._seed = seed
        self._rng = random.Random(seed)
        self._numbers = dict.fromkeys(CASTS, 0)
        self._playing: dict[str, Child] = {}
        self._ready: set[int] = set()

    def begin(self) -> None:
        """All casts play."""
        for cast in CASTS:
            self._play(cast)

    def _play(self, cast: str) -> None:
        self._numbers[cast] += 1
        name = f"{cast}.{self._numbers[cast]}"
        self._playing[cast] = self._start(PLAY, *self._arguments, cast, name, self._seed)

    def strike(self) -> None:
        """One of them dies at a random moment, or is taken over from while it lives."""
        cast = self._rng.choice(CASTS)
        victim = self._playing[cast]
        if self._rng.random() < 0.8:
            self._wait_for(victim)
        self._choose_a_moment()
        if cast != "by-hand" and self._rng.random() < 0.4:
            self._take_over(cast, victim)
        else:
            self._kill(victim)
            self._play(cast)

    def _take_over(self, cast: str, victim: Child) -> None:
        """For a while there are two."""
        self._play(cast)
        if self._rng.random() < 0.7:
            self._wait_for(self._playing[cast])
        self._choose_a_moment()
        if victim.pid in self._ready and self._rng.random() < 0.4:
            self._end(victim)
        else:
            self._kill(victim)

    def _choose_a_moment(self) -> None:
        time.sleep(self._rng.uniform(0, 0.2))  # not to wait for anything

    def _kill(self, child: Child) -> None:
        child.kill()
        assert child.wait() == -signal.SIGKILL, "it had failed before"

    def end(self) -> None:
        """All are told to stop, and do."""
        for child in self._playing.values():
            self._wait_for(child)
        for child in self._playing.values():
            self._end(child)

    def _wait_for(self, child: Child) -> None:
        if child.pid not in self._ready:
            assert child.line() == "playing"
            self._ready.add(child.pid)

    def _end(self, child: Child) -> None:
        child.say("stop")
        assert child.wait() == 0


def require_true_to_history(log: EventLog, histories: Path) -> None:
    """The log is whole, and there is no fault in it."""
    assert log.check().damaged == []
    findings = check(read_records(histories), read_log(log))
    assert not findings, "\n".join(map(str, findings[:20]))


def run_theatre(start: Start, path: Path, histories: Path, strikes: int) -> None:
    seed = seed_of_today()
    with eventlog.open(path) as log:
        roles.make_topics(log)
    theatre = Theatre(start, path, histories, seed)
    theatre.begin()
    for _ in range(strikes):
        theatre.strike()
    theatre.end()
    with eventlog.open(path, create=False) as log:
        recorder = Recorder(histories)
        roles.drain(Stage(log, recorder, "last", str(seed), follow=False))
        recorder.close()
        require_true_to_history(log, histories)
        require_finished(log, histories)
    require_sound_tree(path)


def require_finished(log: EventLog, histories: Path) -> None:
    """Every group has come to the end, and enough has happened to be worth the trouble."""
    topic = log.topic(roles.INPUT)
    for group in (*roles.readers(), *roles.pipelines()):
        assert {lag.events for lag in topic.group(group).lag().values()} == {0}, group
    kinds = [record.kind for record in read_records(histories)]
    for kind in (Kind.ACKNOWLEDGED, Kind.READ, Kind.CHECKPOINTED, Kind.COMMITTED):
        assert kinds.count(kind) > 100, kind
    assert {Kind.DUPLICATE, Kind.OBSERVED} <= set(kinds)


def test_nothing_is_lost_doubled_skipped_or_torn_however_many_are_killed(
    log_path: Path, tmp_path: Path, start: Start
) -> None:
    run_theatre(start, log_path, tmp_path / "histories", strikes=10)


@pytest.mark.soak
def test_nothing_is_lost_doubled_skipped_or_torn_in_a_thousand_deaths(
    tmp_path: Path, start: Start
) -> None:
    for number in range(20):
        run_theatre(start, tmp_path / f"log-{number}", tmp_path / f"history-{number}", strikes=50)
