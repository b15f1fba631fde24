"""A consumer's hold on the partitions of a group: claimed, moved on, looked after, given back.

What a checkpoint may cover is what the consumer handed out since the last reset it took notice of:
see `Yielded.era`. Whatever runs in which thread, what was handed out before a reset is never
written behind it.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import secrets
import socket
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from eventlog.errors import (
    ConsumerDisconnectedError,
    EventLogError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnexpectedOffsetError,
)

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.groups.checkpoints import CheckpointResetError, GroupStore

__all__ = ["Claims", "ClaimsFence", "Reset", "Yielded", "was_moved"]

_logger: Final = logging.getLogger("eventlog")


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

    Attributes:
        owner: the identity it claims them under: a new one for each consumer.
        store: the group's documents.
    """

    def __init__(self, store: GroupStore) -> None:
        self.store: Final = store
        self.owner: Final = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._mutex = threading.RLock()  # a signal handler may close the consumer
        self._claims: dict[int, _Claim] = {}
        self._unreleased: dict[int, _Claim] = {}
        self._disconnected: ConsumerDisconnectedError | None = None
        self._store_is_there = True

    def claim(self, partition: int, start: int) -> int:
        """Claim a partition; the offset at which the group goes on: `start` if it never began.

        Raises:
            ConsumerDisconnectedError: a host owns it, or a later consumer has it.
        """
        with self._mutex:
            checkpoint, etag = self.store.claim(partition, self.owner, start)
            self._claims[partition] = self._unreleased[partition] = _Claim(checkpoint.offset, etag)
            return checkpoint.offset + 1

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
        """
        with self._mutex:
            for one in yielded:
                claim = self._claims[one.partition]
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
        """Look whether all of them are still this consumer's.

        A store that cannot be reached says nothing about that: reading goes on, and a checkpoint
        will tell.

        Raises:
            ConsumerDisconnectedError: another consumer or a host reads there now.
        """
        with self._mutex:
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
        """
        from eventlog.groups.checkpoints import CheckpointResetError

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

    def release(self) -> None:
        """Give all of them back, as far as that can be done."""
        with self._mutex:
            claims, self._unreleased = self._unreleased, {}
            for partition, claim in claims.items():
                self.store.release(partition, self.owner, claim.etag)


class ClaimsFence:
    """What was handed out, checkpointed as part of a transaction; see `eventlog.transaction.Fence`.

    Whoever is not the reader any more, or was reset, has its transaction fail. So has who does not
    know where the checkpoint is: its last commit may have been stored although it was interrupted.
    """

    def __init__(self, claims: Claims, yielded: Sequence[Yielded]) -> None:
        self._claims = claims
        self._yielded = yielded or claims.standing()
        self._etags: list[str] = []

    def check(self, blobs: BlobStore) -> None:
        """Advance the checkpoints in the transaction; see `Claims.advance_within`."""
        store = self._claims.store.within(blobs)
        self._etags = [self._claims.advance_within(store, one) for one in self._yielded]

    def committed(self) -> None:
        """They stand."""
        self._claims.note(self._yielded, self._etags)


def was_moved(what: str) -> PreconditionFailedError:
    """The error for who processes what was handed out before the checkpoint was moved."""
    return PreconditionFailedError(
        f"the group's checkpoint in {what} is not where this consumer left it (it was reset, or "
        "others moved it): nothing of this transaction was stored, and the consumer goes on behind "
        "the checkpoint"
    )
