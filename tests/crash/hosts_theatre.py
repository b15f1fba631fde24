"""Hosts of several groups under load, in processes that join, leave, stop, wake and die at random.

`Theatre` does that to them; what they did they noted, and `tests.history.check` holds the log to
it.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

import eventlog
from eventlog import EventLog, LogBusyError, StoreUnavailableError, Topic
from eventlog.blobs import BlobStore
from eventlog.blobs.directory import DirectoryBlobs
from eventlog.embedded.engine import EmbeddedLog
from eventlog.group import group_store
from eventlog.groups.documents import GroupDocument
from tests.crash.hosts_roles import PLAY, Part
from tests.crash.roles import INPUT
from tests.history import Kind, Recorder, check, read_log, read_records

if TYPE_CHECKING:
    from tests.conftest import Child, Start

__all__ = ["SENDERS", "Cast", "Theatre", "document_of", "require_true_to_history", "stop", "until"]

PATIENCE: Final = 60.0
PARTITIONS: Final = 8
LEASE: Final = 2.0
_HELD_SECONDS: Final = 0.2
"""Nobody who is not stopped keeps a log, or a directory, locked for so long; mostly."""

MOST_HOSTS: Final = 4
"""Of a group; more than that the machines that run tests do not take."""

SENDERS: Final = "from tests.crash.hosts_theatre import send; send()"
"""A program that sends to the topic, in several threads, until it is told to stop."""


def until(condition: Callable[[], object], what: str = "", patience: float = PATIENCE) -> None:
    """Wait for a condition, as long as it may take."""
    deadline = time.monotonic() + patience
    pause = 0.01
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(pause)
        pause = min(pause * 1.2, 0.1)  # to look costs those something that are waited for


def document_of(log: EventLog, group: str, store: str = "", topic: str = INPUT) -> GroupDocument:
    """What the hosts of a group have agreed on."""
    found = group_store(log.topic(topic), group, log.store(store or None)).document()
    assert found is not None
    return found


def stop(child: Child, log: EventLog, store: str) -> int:
    """SIGSTOP, but not inside a commit, or with a directory locked: there it stops all the others.

    Returns: how often it had to go on from such a place.
    """
    for number in range(200):
        child.send(signal.SIGSTOP)
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it has ended"
        if not _is_held(log, store):
            return number
        child.send(signal.SIGCONT)
        time.sleep(0.05)  # not to wait for anything: to find another moment
    raise AssertionError("it does nothing but commit")


def _is_held(log: EventLog, store: str) -> bool:
    """Whether somebody keeps others from writing, longer than anyone who is not stopped does."""
    try:
        assert isinstance(log, EmbeddedLog)
        log.commit(lambda writer: None, timeout=_HELD_SECONDS)
        if store.startswith("file:"):
            DirectoryBlobs(store.removeprefix("file:"), lock_timeout=_HELD_SECONDS).put(
                "probe", b""
            )
    except (LogBusyError, StoreUnavailableError):
        return True
    return False


def send() -> None:
    """Play the senders: path of the log, histories, name, seed."""
    import sys

    from tests.crash import roles

    path, histories, name, seed = sys.argv[1:]
    with eventlog.open(path) as log:
        stage = roles.Stage(log, Recorder(Path(histories)), name, seed)
        roles._play(
            stage,
            (
                functools.partial(roles.send_named, producer_id="p"),
                roles.send_plain,
                roles.append_directly,
            ),
        )


class Cast(NamedTuple):
    """The hosts of one group.

    Attributes:
        store: the group's, as in `Part`.
        output: the same.
    """

    group: str
    store: str = ""
    output: str = ""


class Player(NamedTuple):
    """A process that is a host."""

    child: Child
    cast: Cast
    name: str


def require_true_to_history(log: EventLog, histories: Path, stores: Iterable[str] = ()) -> None:
    """The log is whole, and there is no fault in it."""
    assert log.check().damaged == []
    contents = read_log(log, *(log.store(store) for store in stores))
    findings = check(read_records(histories), contents)
    assert not findings, "\n".join(map(str, findings[:20]))


class Theatre:
    """Processes that are hosts of some groups, and what befalls them.

    Args:
        failures: how probable it is that a batch fails.
    """

    def __init__(
        self,
        start: Start,
        path: Path,
        histories: Path,
        casts: Iterable[Cast],
        *,
        seed: int,
        failures: float = 0.01,
    ) -> None:
        self.casts = list(casts)
        self.log = eventlog.open(path)
        self.topic = self.log.create_topic(INPUT, partitions=PARTITIONS)
        for cast in self.casts:
            if cast.output:
                self.log.create_topic(cast.output, partitions=2)
        self.moves = dict.fromkeys(("kill", "pause", "leave", "join", "kill paused"), 0)
        self.in_commits = 0
        self.playing: list[Player] = []
        self._paused: dict[str, float] = {}
        self._leaving: list[Player] = []
        self._start = start
        self._path = path
        self._histories = histories
        self._recorder = Recorder(histories)
        self._failures = failures
        self._seed = seed
        self._rng = random.Random(seed)
        self._number = 0
        self._heard: dict[int, set[str]] = {}

    # Who plays

    def begin(self) -> None:
        """Senders send, and each group has two hosts."""
        self._senders = self._start(
            SENDERS, self._path, self._histories, "senders", str(self._seed)
        )
        for cast in self.casts:
            for _ in range(2):
                self.join(cast)

    def join(self, cast: Cast) -> Player:
        """One more host."""
        self._number += 1
        rng = random.Random(f"{self._seed} {self._number}")
        name = f"{cast.group}-{self._number}"
        part = Part(
            path=str(self._path),
            histories=str(self._histories),
            name=name,
            topic=INPUT,
            group=cast.group,
            store=cast.store,
            output=cast.output,
            backend=rng.choice(("asyncio", "trio")),
            plain=rng.random() < 0.3,
            auto=not cast.output and rng.random() < 0.5,
            lease=LEASE,
            renew=LEASE / 4,
            max_batch=200,
            pause=rng.choice((0.0, 0.05, 0.2)),
            failures=self._failures,
        )
        player = Player(self._start(PLAY, msgspec.json.encode(part).decode()), cast, name)
        self.playing.append(player)
        return player

    def wait_for(self, child: Child) -> None:
        """Until it plays."""
        heard = self._heard.setdefault(child.pid, set())
        while "playing" not in heard:
            heard.add(child.line())

    # What befalls them

    def strike(self, moves: Iterable[str]) -> None:
        """Something happens, at a random moment."""
        self._wake(time.monotonic())
        time.sleep(self._rng.uniform(0, 0.5))  # not to wait for anything: to choose the moment
        cast = self._rng.choice(self.casts)
        there = [player for player in self.playing if player.cast == cast]
        move = self._rng.choice(list(moves)) if there else "join"
        if len(there) >= MOST_HOSTS and move == "join":
            move = "kill" if "kill" in moves else "leave"
        player = self._rng.choice(there) if there else None
        self._do(move, cast, player)

    def _do(self, move: str, cast: Cast, player: Player | None) -> None:
        if move == "join" or player is None:
            self.moves["join"] += 1
            self.join(cast)
        elif move == "kill":
            self._kill(player)
        elif player.name in self._paused:
            return
        elif move == "leave":
            self.wait_for(player.child)
            self._leave(player)
        else:
            if self._rng.random() < 0.9:  # mostly not while it starts
                self.wait_for(player.child)
            self._pause(player)

    def _kill(self, player: Player) -> None:
        was_paused = self._paused.pop(player.name, None) is not None
        self.moves["kill paused" if was_paused else "kill"] += 1
        self.playing.remove(player)
        player.child.kill()
        assert player.child.wait() == -signal.SIGKILL, f"{player.name} had failed before"

    def _leave(self, player: Player) -> None:
        self.moves["leave"] += 1
        self.playing.remove(player)
        self._leaving.append(player)
        player.child.send(signal.SIGTERM)

    def _pause(self, player: Player) -> None:
        self._recorder.note(Kind.PAUSED, player.name)
        self.in_commits += stop(player.child, self.log, player.cast.store)
        self.moves["pause"] += 1
        self._paused[player.name] = time.monotonic() + LEASE * self._rng.uniform(1.1, 1.6)

    def _wake(self, now: float) -> None:
        for player in self.playing:
            if self._paused.get(player.name, now) < now:
                del self._paused[player.name]
                player.child.send(signal.SIGCONT)

    # The end

    def end(self, patience: float = PATIENCE) -> None:
        """Senders stop, everything is processed, and all leave."""
        self._wake(float("inf"))
        self._senders.say("stop")
        assert self._senders.wait() == 0
        for cast in self.casts:
            if not any(player.cast == cast for player in self.playing):
                self.join(cast)
        for player in self.playing:
            self.wait_for(player.child)
        for cast in self.casts:
            done = functools.partial(self._is_done, cast)
            until(done, f"{cast.group} gets to the end", patience)
        for player in self.playing:
            player.child.send(signal.SIGTERM)
        for player in (*self.playing, *self._leaving):
            assert player.child.wait() == 0, player.name
        self.playing.clear()
        self._recorder.close()

    def _is_done(self, cast: Cast) -> bool:
        group = self.topic.group(cast.group, cast.store or None)
        checkpoints = group.checkpoints()
        return len(checkpoints) == PARTITIONS and not any(
            lag.events for lag in group.lag().values()
        )

    def judge(self, least: int = 100) -> None:
        """Nothing is wrong with what they noted, nothing is left of them, and a lot happened.

        Args:
            least: of each kind of thing more than that happened.
        """
        self.log.close()
        with eventlog.open(self._path, create=False) as log:
            stores = [cast.store for cast in self.casts if cast.store]
            require_true_to_history(log, self._histories, stores)
            topic = log.topic(INPUT)
            for cast in self.casts:
                self._require_left(topic, cast, log.store(cast.store or None))
        kinds = [record.kind for record in read_records(self._histories)]
        for kind in (Kind.ACKNOWLEDGED, Kind.READ, Kind.CHECKPOINTED):
            assert kinds.count(kind) > least, kind

    def _require_left(self, topic: Topic, cast: Cast, store: BlobStore) -> None:
        assert topic.group(cast.group, store).members() == []
        place = group_store(topic, cast.group, store).ids.hosts
        members = {name for name, _ in store.list(place)}
        assert len(members) <= sum(self.moves[move] for move in ("kill", "kill paused"))
