"""Actors that take turns at every call of a store, and a store that does to them what stores do.

Everything runs in one process, one thread at a time. At each call of the store another actor may go
on, answers get lost, puts arrive late, actors are killed: as a `random.Random` decides, so that its
seed tells the history.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias

from eventlog import PreconditionFailedError, StoreUnavailableError
from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, NotModified

PATIENCE: Final = 60.0
LONGEST: Final = 20_000
"""Steps; a history that goes on longer never ends."""

Changes: TypeAlias = Callable[[str, str, Blob | None, bytes | None], None]


class KilledError(BaseException):
    """SIGKILL: nothing more is done."""


class Schedule:
    """Runs actors in threads of their own, one at a time, and switches between them at random.

    In some histories an actor does many steps in a row: all that others do happens between two of
    its own.
    """

    def __init__(self, chance: random.Random) -> None:
        self.current = ""
        self._chance = chance
        self._eagerness = chance.choice([0.1, 0.4, 1.0])
        self._turns: dict[str, threading.Semaphore] = {}
        self._mine = threading.Semaphore(0)
        self._running: list[str] = []
        self._failure: BaseException | None = None

    def run(self, actors: Mapping[str, Callable[[], None]]) -> None:
        """Run all of them to their ends; raises the first failure."""
        threads = []
        for name, act in actors.items():
            self._turns[name] = threading.Semaphore(0)
            threads.append(threading.Thread(target=self._act, args=(name, act), daemon=True))
            self._running.append(name)
        for thread in threads:
            thread.start()
        steps = 0
        while self._running:
            steps += 1
            if steps > LONGEST and self._failure is None:
                self._failure = AssertionError(f"after {LONGEST} steps {self._running} go on")
            if self.current not in self._running or self._chance.random() < self._eagerness:
                self.current = self._chance.choice(self._running)
            self._turns[self.current].release()
            assert self._mine.acquire(timeout=PATIENCE), f"{self.current} hangs"
        for thread in threads:
            thread.join(PATIENCE)
        if self._failure is not None:
            raise self._failure

    def _act(self, name: str, act: Callable[[], None]) -> None:
        self._turns[name].acquire()
        try:
            act()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by run()
            error.add_note(f"in {name}")
            self._failure = self._failure or error
        finally:
            self._running.remove(name)
            self._mine.release()

    def step(self) -> None:
        """Called by an actor: here others may go on."""
        if self.current not in self._turns:
            return
        turn = self._turns[self.current]
        self._mine.release()
        turn.acquire()
        if self._failure is not None:
            raise KilledError


class SimulatedStore(BlobStore):
    """A store that tells a history what changes, and does what stores do to people.

    Attributes:
        faults: how often, of 1, something goes wrong with a call.
        kills: whether that may be the death of who made it.
        came_late: how many puts were done long after they were given up.

    Args:
        changes: called before each change with the actor, the name, what is there (None: nothing)
            and what will be (None: nothing).
        hashed: an etag is a hash of the content, and comes back with it, as on S3.
    """

    def __init__(
        self, schedule: Schedule, chance: random.Random, changes: Changes, *, hashed: bool = False
    ) -> None:
        self.faults = 0.0
        self.kills = True
        self.came_late = 0
        self._changes = changes
        self._schedule = schedule
        self._chance = chance
        self._hashed = hashed
        self._blobs: dict[str, Blob] = {}
        self._version = 0
        self._late: list[Callable[[], object]] = []

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        self._begin("unavailable")
        blob = self._blobs.get(name)
        return NOT_MODIFIED if blob and blob.etag == if_none_match else blob

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        actor = self._schedule.current
        fault = self._begin("unavailable", "late", "late", "lost", "repeated", "killed")

        def do() -> str:
            there = self._blobs.get(name)
            if if_absent == (there is not None) or (there and there.etag != if_match):
                raise PreconditionFailedError(name)
            self._version += 1
            etag = hashlib.sha256(data).hexdigest() if self._hashed else str(self._version)
            self._changes(actor, name, there, data)
            self._blobs[name] = Blob(name, data, etag, datetime.now(UTC))
            return etag

        if fault == "late":
            self._late.append(do)
            raise StoreUnavailableError("it may arrive yet")
        etag = do()
        if fault == "killed":
            raise KilledError
        if fault == "lost":
            raise StoreUnavailableError("the answer was lost")
        if fault == "repeated":
            raise PreconditionFailedError("the client met its own put")
        return etag

    def list(self, prefix: str) -> list[tuple[str, str]]:
        self._begin("unavailable")
        listed = []
        for name in sorted(self._blobs):
            if name.startswith(prefix) and (blob := self._blobs.get(name)):
                listed.append((name, blob.etag))
                self._schedule.step()  # a listing is no picture of one moment
        return listed

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        fault = self._begin("unavailable", "lost", "killed")
        there = self._blobs.get(name)
        if if_match is not None and (there is None or there.etag != if_match):
            raise PreconditionFailedError(name)
        self._changes(self._schedule.current, name, there, None)
        self._blobs.pop(name, None)
        if fault == "killed":
            raise KilledError
        if fault == "lost":
            raise StoreUnavailableError("the answer was lost")

    def close(self) -> None:
        """From here on nothing goes wrong, and what was late has come."""
        self.faults = 0.0
        while self._late:
            self._arrive()

    def data(self, name: str) -> bytes | None:
        """For the history, which is no actor."""
        blob = self._blobs.get(name)
        return None if blob is None else blob.data

    def _arrive(self) -> None:
        with contextlib.suppress(PreconditionFailedError):
            self._late.pop(self._chance.randrange(len(self._late)))()
            self.came_late += 1

    def _begin(self, *faults: str) -> str:
        self._schedule.step()
        while self._late and self._chance.random() < 0.1:
            self._arrive()
        if self._chance.random() >= self.faults:
            return ""
        fault = self._chance.choice([one for one in faults if self.kills or one != "killed"])
        if fault == "unavailable":
            raise StoreUnavailableError("it is away")
        return fault
