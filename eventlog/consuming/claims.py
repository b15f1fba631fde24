"""A consumer's hold on the partitions of a group: claimed, moved on, looked after, given back.

What a checkpoint may cover is what the consumer handed out since the last reset it took notice of:
see `Yielded.era`. Whatever runs in which thread, what was handed out before a reset is never
written behind it.

What was given back stays so: a claim that is under way meanwhile gives back itself what it gets.
A forked child gives back only what was claimed in it.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
import logging
import math
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from eventlog.errors import (
    ClosedError,
    ConsumerDisconnectedError,
    EventLogError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnexpectedOffsetError,
)

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.groups.checkpoints import CheckpointResetError, GroupStore
    from eventlog.groups.documents import GroupIds

__all__ = ["Claimed", "Claims", "ClaimsFence", "Reset", "Yielded", "was_moved"]

_logger: Final = logging.getLogger("eventlog")

Claimed: TypeAlias = "MutableMapping[tuple[GroupIds, int], Claims]"
"""Who was the last to claim a partition of a group, and has not given it back."""


class Yielded(NamedTuple):
    """The last event of a partition that was handed out and is not checkpointed.

    Attributes:
        era: how many resets of the group the consumer knew of there.
    """

    partition: int
    offset: int
    enqueued_at: datetime | None
    era: int


class Reset(NamedTuple):
    """A person has moved the group: it goes on at `start`, and another era begins."""

    partition: int
    era: int
    start: int


class _Claim:
    """What is known of one partition's checkpoint.

    Attributes:
        era: how many resets were found.
        told_era: how many of them the consumer has followed.
        reset: the last one, until it is followed: its era, and where to go on.
    """

    def __init__(self, offset: int, etag: str) -> None:
        self.offset = offset
        self.etag = etag
        self.era = 0
        self.told_era = 0
        self.reset: tuple[int, int] | None = None


class Claims:
    """The partitions one consumer has claimed. Thread-safe; its methods block.

    Args:
        claimed: is told of what it claims; so that can be given back although nobody has the
            consumer any more.

    Attributes:
        owner: the identity it claims them under: a new one for each consumer.
        store: the group's documents.
    """

    def __init__(self, store: GroupStore, claimed: Claimed | None = None) -> None:
        self.store: Final = store
        self.owner: Final = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._mutex = threading.RLock()  # a signal handler may close the consumer
        self._claims: dict[int, _Claim] = {}
        self._claimed: Claimed = {} if claimed is None else claimed
        self._unreleased: dict[int, None] = {}  # which may be its own, in this process
        self._process = os.getpid()
        self._released = False
        self._disconnected: ConsumerDisconnectedError | None = None
        self._store_is_there = True

    def claim(self, partition: int, start: int) -> int:
        """Claim a partition; the offset at which the group goes on: `start` if it never began.

        Raises:
            ConsumerDisconnectedError: a host owns it, or a later consumer has it.
            ClosedError: they were released.
        """
        with self._mutex:
            self._refuse_released()
            self._note_claim(partition)
            checkpoint, etag = self.store.claim(partition, self.owner, start)
            self._claims[partition] = _Claim(checkpoint.offset, etag)
            if self._released:  # by a signal handler, or by who did not wait for the store so long
                self._note_claim(partition)
                self._give_back()
                self._refuse_released()
            return checkpoint.offset + 1

    def _note_claim(self, partition: int) -> None:
        """It may be its own from now on, whatever interrupts the claim."""
        if self._process != os.getpid():  # what was claimed before the fork is the parent's
            self._process, self._unreleased = os.getpid(), {}
        self._unreleased[partition] = None
        self._claimed[self.store.ids, partition] = self

    def _refuse_released(self) -> None:
        if self._released:
            ids = self.store.ids
            raise ClosedError(
                f"the consumer of topic {ids.topic_name!r} for group {ids.group!r} was closed, or "
                "its log was"
            )

    def known_partitions(self, partitions: int) -> int:
        """How many partitions there were when a consumer of the group last came; 0: none ever did.

        Args:
            partitions: how many there are now, which the next one is told.
        """
        self.store.topic_partitions = partitions
        group = self.store.document()
        return 0 if group is None else group.topic_partitions

    def offset(self, partition: int) -> int:
        """The offset of its checkpoint."""
        return self._claims[partition].offset

    def era(self, partition: int) -> int:
        """How many resets of it the consumer has `followed`."""
        return self._claims[partition].told_era

    def eras(self) -> dict[int, int]:
        """Those of all partitions."""
        return {partition: claim.told_era for partition, claim in list(self._claims.items())}

    def resets(self) -> list[Reset]:
        """Those that were not `followed`. Does not block."""
        return [
            Reset(partition, *claim.reset)
            for partition, claim in list(self._claims.items())
            if claim.reset is not None
        ]

    def followed(self, reset: Reset) -> None:
        """What is handed out from now on belongs to the era of that reset. Does not block."""
        claim = self._claims[reset.partition]
        claim.told_era = reset.era
        if claim.reset == (reset.era, reset.start):
            claim.reset = None

    def advance(self, yielded: Sequence[Yielded]) -> None:
        """Checkpoint what was handed out.

        Raises:
            ConsumerDisconnectedError: another consumer or a host reads there now.
            ClosedError: they were released.
        """
        with self._mutex:
            for one in yielded:
                claim = self._claims[one.partition]
                self._refuse_released()
                self._refuse_disconnected()
                if one.era == claim.era and one.offset > claim.offset:
                    self._advance(claim, one)

    def _advance(self, claim: _Claim, one: Yielded) -> None:
        from eventlog.groups.checkpoints import CheckpointResetError

        try:
            claim.etag = self.store.advance(
                one.partition, self.owner, one.offset, one.enqueued_at, claim.etag
            )
            claim.offset = one.offset
        except CheckpointResetError as reset:
            self._reset(reset)
        except ConsumerDisconnectedError as error:
            self._disconnected = error
            raise

    def note(self, yielded: Sequence[Yielded], etags: Sequence[str]) -> None:
        """They were checkpointed otherwise, in a transaction."""
        with self._mutex:
            for one, etag in zip(yielded, etags, strict=True):
                claim = self._claims[one.partition]
                if one.era == claim.era:
                    claim.offset, claim.etag = one.offset, etag

    def check(self) -> None:
        """Look whether all of them are still this consumer's, unless they were released.

        A store that cannot be reached says nothing about that: reading goes on, and a checkpoint
        will tell.

        Raises:
            ConsumerDisconnectedError: another consumer or a host reads there now.
        """
        with self._mutex:
            if self._released:
                return
            self._refuse_disconnected()
            try:
                self._look()
                self._store_is_there = True
            except ConsumerDisconnectedError as error:
                self._disconnected = error
                raise
            except StoreUnavailableError as error:
                if self._store_is_there:
                    _logger.warning("group %r: %s", self.store.ids.group, error)
                self._store_is_there = False

    def _look(self) -> None:
        from eventlog.groups.checkpoints import CheckpointResetError

        while True:
            etags = {partition: claim.etag for partition, claim in self._claims.items()}
            try:
                etags = self.store.still_mine(self.owner, etags)
            except CheckpointResetError as reset:
                self._reset(reset)
                continue
            for partition, etag in etags.items():
                self._claims[partition].etag = etag
            return

    def _reset(self, reset: CheckpointResetError) -> None:
        claim = self._claims[reset.partition]
        # In this order, since Ctrl-C may come between: from here on nothing older is written, and
        # as long as the etag is the old one the reset is found again.
        claim.era += 1
        claim.reset = (claim.era, reset.checkpoint.offset + 1)
        claim.offset = reset.checkpoint.offset
        claim.etag = reset.etag

    def standing(self) -> list[Yielded]:
        """Where all checkpoints stand: what is to hold if nothing was handed out."""
        return [
            Yielded(partition, claim.offset, None, claim.told_era)
            for partition, claim in list(self._claims.items())
        ]

    def advance_within(self, store: GroupStore, one: Yielded) -> str:
        """Checkpoint in a transaction, from exactly where it was left; the etag it then has.

        Raises:
            ConsumerDisconnectedError: another consumer or a host reads there now.
            PreconditionFailedError: a person has reset the group since, or others moved it.
            ClosedError: they were released.
        """
        from eventlog.groups.checkpoints import CheckpointResetError

        self._refuse_released()
        claim = self._claims[one.partition]
        try:
            if claim.era == one.era:
                return store.advance(
                    one.partition,
                    self.owner,
                    one.offset,
                    one.enqueued_at,
                    claim.etag,
                    known=claim.offset,
                )
        except (CheckpointResetError, UnexpectedOffsetError):
            pass
        raise was_moved(f"partition {one.partition}")

    def go_back(self, yielded: Sequence[Yielded]) -> None:
        """What was handed out was not finished: go on behind the checkpoints once more.

        They are looked at again, since what failed may have moved them; where that cannot be done,
        the last that is known counts.
        """
        with self._mutex:
            for one in yielded:
                claim = self._claims[one.partition]
                if claim.era != one.era:
                    continue  # a reset, which says where to go on
                with contextlib.suppress(EventLogError):
                    found = self.store.checkpoint(one.partition)
                    if found is not None and found[0].owner == self.owner:
                        claim.offset, claim.etag = found[0].offset, found[1]
                claim.era += 1
                claim.reset = (claim.era, claim.offset + 1)

    def _refuse_disconnected(self) -> None:
        if self._disconnected is not None:
            raise copy.copy(self._disconnected)

    # Giving them back

    def release(self) -> None:
        """Give all of them back, as far as that can be done, and claim none any more."""
        self._released = True
        if self._process == os.getpid():
            with self._mutex:
                self._give_back()

    def release_until(self, end: float) -> bool:
        """Likewise, but wait for nobody longer than that, by the monotonic clock.

        Returns: whether it was done by then.
        """
        self._released = True
        if self._process != os.getpid():
            return True  # nor is anybody there who would let go of the mutex
        if not self._mutex.acquire(timeout=_left(end)):
            return False
        try:
            if self._unreleased:
                _do_until(end, lambda: self._give_back(end))
            return not self._unreleased
        finally:
            self._mutex.release()

    def _give_back(self, end: float = math.inf) -> None:
        """Those that are not given back, one by one; the mutex is held by who waits for that."""
        for partition in list(self._unreleased):
            if time.monotonic() >= end:
                break
            claim = self._claims.get(partition)
            self.store.release(partition, self.owner, "" if claim is None else claim.etag)
            self._unreleased.pop(partition, None)
            place = self.store.ids, partition
            if self._claimed.get(place) is self:
                self._claimed.pop(place, None)


class ClaimsFence:
    """What was handed out, checkpointed as part of a transaction; see `eventlog.transaction.Fence`.

    Whoever is not the reader any more, or was reset, has its transaction fail. So has who does not
    know where the checkpoint is: its last commit may have been stored although it was interrupted.
    """

    def __init__(
        self,
        claims: Claims,
        yielded: Sequence[Yielded],
        on_committed: Callable[[], object] = lambda: None,
    ) -> None:
        self._claims = claims
        self._on_committed = on_committed
        self._yielded = yielded or claims.standing()
        self._etags: list[str] = []

    def check(self, blobs: BlobStore) -> None:
        """Advance the checkpoints in the transaction; see `Claims.advance_within`."""
        store = self._claims.store.within(blobs)
        self._etags = [self._claims.advance_within(store, one) for one in self._yielded]

    def committed(self) -> None:
        """They stand."""
        self._claims.note(self._yielded, self._etags)
        self._on_committed()


def was_moved(what: str) -> PreconditionFailedError:
    """The error for who processes what was handed out before the checkpoint was moved."""
    return PreconditionFailedError(
        f"the group's checkpoint in {what} is not where this consumer left it (it was reset, or "
        "others moved it): nothing of this transaction was stored, and the consumer goes on behind "
        "the checkpoint"
    )


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.0)


def _do_until(end: float, do: Callable[[], object]) -> None:
    """Do it in a thread, which is left alone when the time is over.

    Not in a `threading.Thread`: a signal handler that comes while one is started can start none.
    """
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run() -> None:
        try:
            do()
        except Exception:
            _logger.exception("what a consumer had claimed could not be given back")
        finally:
            done.put(None)

    # No thread is begun any more while the interpreter ends; and some do not end in time.
    with contextlib.suppress(RuntimeError, queue.Empty):
        _thread.start_new_thread(run, ())
        done.get(timeout=_left(end))
