"""A partition that a simulated host owns: the real checkpoint, and a handler that takes long."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from eventlog.errors import LeaseLostError, PreconditionFailedError, StoreUnavailableError
from eventlog.groups.documents import CheckpointResetError
from eventlog.groups.steps import Steps, StoreCall
from eventlog.processor.checkpoint import PartitionCheckpoint
from tests.processor.simulation.blobs import Actor
from tests.processor.simulation.truth import IDS

if TYPE_CHECKING:
    from eventlog.groups.documents import GroupDocument
    from eventlog.processor.membership import Membership
    from tests.processor.simulation.host import SimulatedHost

__all__ = ["Life", "LightPump", "Outcome", "SimulatedPump", "Sleep"]


class Sleep(NamedTuple):
    """Wait so long, on the own clock.

    Attributes:
        until_poked: or until somebody has news.
    """

    seconds: float
    until_poked: bool = True


Life: TypeAlias = Generator[StoreCall | Sleep, Any, None]
"""What somebody does: store calls, and waiting in between."""


class Outcome(enum.Enum):
    """How a pump ended."""

    RELEASED = "closed in good order"
    LOST = "lost its lease"


class SimulatedPump:
    """Goes through one partition, batch by batch.

    Attributes:
        outcome: None until it has ended.
        working: whether it has opened its checkpoint, and may hand events over.
        is_told_to_stop: it is to finish its batch and close.
        is_left_behind: its host has given it up, and it goes on all the same.
    """

    def __init__(
        self,
        host: SimulatedHost,
        membership: Membership,
        document: GroupDocument,
        partition: int,
        epoch: int,
    ) -> None:
        member = membership.member
        self.actor: Final = Actor(host.name, member, partition, epoch)
        self.group_id: Final = document.group
        self.partition: Final = partition
        self.epoch: Final = epoch
        self.outcome: Outcome | None = None
        self.working = False
        self.is_told_to_stop = self.is_left_behind = False
        self.is_told_to_look = False
        self._host = host
        self._world = host.world
        self._lease = membership.lease
        self._start = host.world.start(partition, document)
        self._next = -1  # the first event that was not handled yet
        self._checkpoint = PartitionCheckpoint(
            IDS,
            document.group,
            partition,
            member,
            epoch,
            clock=host.wall_us,
            group=host.look_at_group,
            outlived=host.was,
        )
        self._world.truth.created(self)

    @property
    def outdone_by(self) -> int | None:
        """The epoch of the other owner that its checkpoint has named."""
        return self._checkpoint.outdone_by

    # ---- What it does ----------------------------------------------------------------------------

    def life(self) -> Life:
        """All of it."""
        try:
            yield from self._patiently(self._open)
            while not self.is_told_to_stop:
                yield from self._work()
            yield from self._save()
        except LeaseLostError as error:
            self.end(Outcome.LOST, str(error))
            return
        self.working = False
        yield from self._release()
        self.end(Outcome.RELEASED)

    def _work(self) -> Life:
        """Look, handle one batch, checkpoint: what there is to do of it."""
        if self.is_told_to_look:
            self.is_told_to_look = False
            yield from self._patiently(self._checkpoint.look)
        count = self._world.events(self.partition) - self._next
        if count <= 0 or self._world.is_calm:
            yield Sleep(self._world.chance.uniform(1, 15))
        if count <= 0:
            return
        alone = self._checkpoint.alone_until > self._next
        if alone:
            yield from self._patiently(lambda: self._checkpoint.attempt(self._next))
        first = self._next
        last = first + (0 if alone else min(count, self._world.chance.randint(1, 30)) - 1)
        self._require_lease()
        if self.is_told_to_stop:
            return
        yield from self._handle(first, last)
        if self._next == last + 1 and self._world.chance.random() < 0.7:
            yield from self._save()

    def _handle(self, first: int, last: int) -> Life:
        world = self._world
        if not self.is_left_behind:
            world.truth.hands_over(self, first, last)
        yield Sleep(world.batch_seconds(), until_poked=False)
        world.truth.finished(self, first, last)
        self._next = last + 1
        self._note(lambda: f"handled {first} to {last}", dull=True)

    def _save(self) -> Life:
        yield from self._patiently(self._advance)

    def _advance(self) -> Steps[None]:
        last = self._next - 1
        if self._checkpoint.offset < last:
            self._require_lease()
            yield from self._checkpoint.advance(last, None)
            self._world.truth.told_stored(self, last)

    def _open(self) -> Steps[None]:
        yield from self._checkpoint.open(self._start, max_batch=30)
        self._go_on_behind(self._checkpoint.offset)

    def _go_on_behind(self, offset: int, *, again: bool = False) -> None:
        if self.is_left_behind or not self._lease.held():
            raise LeaseLostError("the lease ran out before it had begun")
        self.working = True
        self._next = offset + 1
        self._world.truth.opened(self, offset, again=again)
        self._note(f"goes on at {self._next}")

    def _release(self) -> Life:
        """Once: if it fails the next owner counts a crash that was none."""
        with contextlib.suppress(StoreUnavailableError, PreconditionFailedError):
            yield from self._checkpoint.release()

    def _patiently(self, do: Callable[[], Steps[Any]]) -> Life:
        """Again and again while the store is away and the lease is held; after a reset, there."""
        while True:
            with contextlib.suppress(StoreUnavailableError, PreconditionFailedError):
                try:
                    yield from do()
                except CheckpointResetError:
                    self._go_on_behind(self._checkpoint.offset, again=True)
                return
            self._require_lease()
            yield Sleep(self._world.chance.uniform(0.1, 3))

    def _require_lease(self) -> None:
        if not (self._lease.held() or self._world.setting.stubborn):
            raise LeaseLostError("the lease has run out")

    # ---- What it is told -------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Finish the batch, and close."""
        self.is_told_to_stop = True
        self._note("is told to close")

    def cancel(self, why: str) -> None:
        """Its host has lost the lease. Who is stubborn goes on, for nobody."""
        if not self._world.setting.stubborn:
            self.end(Outcome.LOST, why)
            return
        self._note(f"is left behind: {why}")
        self._close(in_order=False)
        self.is_left_behind = True

    def end(self, outcome: Outcome, why: str = "") -> None:
        """It hands nothing over any more."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self._note(f"{outcome.value}{': ' if why else ''}{why}")
        self._host.pump_ended(self)
        if not self.is_left_behind:
            self._close(in_order=outcome is Outcome.RELEASED)

    def _close(self, *, in_order: bool) -> None:
        self.working = False
        self._world.truth.closed(self, in_order=in_order)
        self._host.pump_closed(self)

    def _note(self, what: str | Callable[[], str], *, dull: bool = False) -> None:
        self._world.note(self.actor, what, partition=self.partition, dull=dull)


class LightPump(SimulatedPump):
    """Hands over no events: there may be ten thousand."""

    def _work(self) -> Life:
        yield Sleep(1e9)
        yield Sleep(self._world.batch_seconds(), until_poked=False)
