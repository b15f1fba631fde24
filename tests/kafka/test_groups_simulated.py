"""Random histories of a group whose checkpoints Kafka transactions commit.

What a seed decides is decided again by the same seed; a failure names it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import pytest
from confluent_kafka import TopicPartition
from msgspec import UNSET
from msgspec.structs import replace

from eventlog.blobs import Blob
from eventlog.errors import (
    PreconditionFailedError,
    StoreUnavailableError,
)
from eventlog.groups.documents import StoredCheckpoint
from eventlog.kafka.groups.blobs import GroupBlobs, _translated
from eventlog.kafka.groups.checkpoint import (
    CommittedOffset,
    Place,
    Seen,
    counted,
    decode_checkpoint,
    moved_on,
    of_base,
    owner_of,
)
from eventlog.kafka.groups.commit_view import CommitView, _Look
from tests.kafka.group_actors import (
    ALL,
    BOTH,
    CONSUMERS,
    DELETED,
    HOSTS,
    OTHERS,
    SHARED,
    Crowd,
    history,
)
from tests.kafka.simulated_groups import (
    Kinds,
    Process,
    World,
)

Act: TypeAlias = Callable[[World, Process], None]

SIMULATED = "tests.kafka.simulated_groups"
SEEDS = 300
MOST_SEEDS = 1000


@pytest.mark.parametrize("hashed", [False, True], ids=["any etags", "etags of the content"])
@pytest.mark.parametrize("faults", [0.0, 0.03, 0.15])
def test_every_event_is_finished_once_by_who_owns_its_partition(
    hashed: bool, faults: float
) -> None:
    """Since the last reset, that is. `World` says what else must hold."""
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        happened += history(seed, hashed=hashed, faults=faults)
    for what in ("began", "committed", "fenced", "reset", "deleted", "released"):
        assert happened[what] > SEEDS // 20, happened
    for what in ("written down", "committed next door"):
        assert happened[what] > SEEDS // 40, happened
    assert not faults or happened["came late"] > SEEDS // 40, happened


# Leaving a rule out


class FencesBeforeThePut(GroupBlobs):
    """And not after it."""

    def _fence_out(
        self, place: Place, known: Seen, document: StoredCheckpoint, producers: Iterable[str]
    ) -> Seen:
        for each in producers:
            self._fence(each)
        at = counted(self._committed_at(place, known.document, stable=True), known.document)
        stays = document.reset == known.document.reset and document.group == known.document.group
        document = replace(moved_on(document, at) if stays else document, producers=UNSET)
        return self.keep(self.swapped(known, document))


class FencesNobody(GroupBlobs):
    """It looks, and believes that."""

    def _completed(self, place: Place, seen: Seen, *, stable: bool = True) -> Seen:
        if seen.document.to_fence:
            at = counted(self._committed_at(place, seen.document, stable=True), seen.document)
            document = moved_on(replace(seen.document, to_fence=UNSET), at)
            return self.swapped(seen, document)
        return super()._completed(place, seen, stable=stable)


class ReadsBeforeItFences(GroupBlobs):
    """The offset that it goes on from."""

    def _completed(self, place: Place, seen: Seen, *, stable: bool = True) -> Seen:
        if not seen.document.to_fence:
            return super()._completed(place, seen, stable=stable)
        at = counted(self._committed_at(place, seen.document, stable=True), seen.document)
        for each in seen.document.to_fence:
            self._fence(each)
        return self.swapped(seen, moved_on(replace(seen.document, to_fence=UNSET), at))


class DoesNotWaitForWhatIsDecided(GroupBlobs):
    """Where it matters, it takes the offset that stands, while another is on its way."""

    def _committed(
        self, group: str, topic: str, partitions: Sequence[int], *, stable: bool
    ) -> dict[int, CommittedOffset]:
        if not stable:
            return super()._committed(group, topic, partitions, stable=False)
        with _translated():
            return self._offsets.committed(group, topic, partitions, stable=False)


class ShowsWhatIsToBeFenced(GroupBlobs):
    """It leaves that to the new owner."""

    def _look_once(self, name: str, place: Place, *, stable: bool) -> Seen | Blob | None:
        found = self.base.get(name)
        if isinstance(found, Blob) and decode_checkpoint(found.data).to_fence:
            return Seen(found, decode_checkpoint(found.data))
        return super()._look_once(name, place, stable=stable)


class DropsProducers(GroupBlobs):
    """When the owner puts its own document."""

    def _put_own(self, known: Seen, document: StoredCheckpoint) -> str:
        return self.keep(self.swapped(known, replace(document, producers=UNSET))).blob.etag


class DeletesUnfenced(GroupBlobs):
    """What transactions under way may still be about to move."""

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self.base.delete(name, if_match=of_base(if_match))


class BelievesEtagsOfDocuments(GroupBlobs):
    """A swap compares the document only, and whoever has the same owner need not fence."""

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        place = self.place(name)
        known = self._known(name, place, if_match) if place is not None and if_match else None
        if known is not None and known.document.producers:
            document = decode_checkpoint(data)
            if owner_of(document) == owner_of(known.document):
                return self._put_own(known, document)
        if known is not None and if_match is not None:
            if_match = known.merged().etag
        return super().put(name, data, if_match=if_match, if_absent=if_absent)


class KeepsWhatItSawLongAgo(GroupBlobs):
    """In place of what others have seen since."""

    def _look_once(self, name: str, place: Place, *, stable: bool) -> Seen | Blob | None:
        known = self._seen.get(name)
        found = super()._look_once(name, place, stable=stable)
        return self.keep(known) if found is known is not None else found


class ListsWhatItSaw(GroupBlobs):
    """Though a transaction may have moved it since."""

    def _look_anew(self, known: Iterable[Seen]) -> None:
        """Not at all."""


class TakesAnyTicket(GroupBlobs):
    """One for all producers of an id."""

    def ticket(self, transactional_id: str) -> str:
        if not self._producers().hold(transactional_id, "any"):
            self._producers().prepare(transactional_id, "any", hold=True)
        return "any"


class PreparesAfterTheLook(CommitView):
    """So that who has fenced it in between has done so in vain."""

    @property
    def owner(self) -> str:
        assert self.transactional_id is not None
        return self._blobs.ticket(self.transactional_id)

    @owner.setter
    def owner(self, ticket: str) -> None:
        """When it is needed."""

    def _is_ready(self) -> bool:
        return True


class IsAlwaysCertain(CommitView):
    """Also when nobody knows what became of the commit."""

    def settle(self, *, committed: bool) -> None:
        super().settle(committed=True)


class SettlesNothing(CommitView):
    """When it was not committed."""

    def settle(self, *, committed: bool) -> None:
        if committed:
            super().settle(committed=True)
        else:
            self._blobs.turns.end(self)


class TakesTurnsWithNobody(CommitView):
    """Two transactions of a process may begin at the same place."""

    def _want(self, look: _Look, wanted: StoredCheckpoint) -> Seen:
        now = self._blobs.turns.now(look.seen.blob.name)
        self._blobs.turns._taken.clear()
        return super()._want(look._replace(turn=now), wanted)


class IntroducesOnlyOnce(CommitView):
    """What another process has written, it takes for its own."""

    def _introduced(self, place: Place, seen: Seen, transactional_id: str) -> Seen:
        return super()._introduced(place, seen._replace(is_own=True), transactional_id)


class IntroducesNobody(CommitView):
    """So that nobody knows whom to fence."""

    def _introduced(self, place: Place, seen: Seen, transactional_id: str) -> Seen:
        return seen


class HoldsOnlyWhatItMoves(CommitView):
    """A checkpoint that stays where it is may be anybody's when it commits."""

    def offsets(self) -> dict[str, list[TopicPartition]]:
        self._looks = {name: look for name, look in self._looks.items() if name in self._wanted}
        return super().offsets()


class KeepsTheOwner(CommitView):
    """Of a document that is to be another's."""

    def _want(self, look: _Look, wanted: StoredCheckpoint) -> Seen:
        there = look.seen.document
        return super()._want(
            look,
            replace(wanted, owner=there.owner, epoch=there.epoch, consumer=there.consumer)
            if wanted.group == there.group
            else wanted,
        )


def _any_offset_counts(
    committed: CommittedOffset | None, document: StoredCheckpoint
) -> CommittedOffset | None:
    return committed if document.producers or document.to_fence else None


@pytest.mark.parametrize(
    ("kind", "crowd"),
    [
        (FencesBeforeThePut, BOTH),
        (FencesNobody, BOTH),
        (ReadsBeforeItFences, HOSTS),
        (DoesNotWaitForWhatIsDecided, DELETED),
        (ShowsWhatIsToBeFenced, HOSTS),
        (DropsProducers, ALL),
        (DeletesUnfenced, DELETED),
        (BelievesEtagsOfDocuments, ALL),
        (KeepsWhatItSawLongAgo, OTHERS),
        (ListsWhatItSaw, OTHERS),
        (TakesAnyTicket, DELETED),
        (PreparesAfterTheLook, OTHERS),
        (IsAlwaysCertain, ALL),
        (SettlesNothing, DELETED),
        (TakesTurnsWithNobody, OTHERS),
        (IntroducesOnlyOnce, ALL),
        (IntroducesNobody, HOSTS),
        (HoldsOnlyWhatItMoves, CONSUMERS),
        (KeepsTheOwner, ALL),
    ],
)
def test_the_histories_find_out_who_leaves_a_rule_out(
    kind: type[GroupBlobs | CommitView], crowd: Crowd
) -> None:
    kinds = Kinds(blobs=kind) if issubclass(kind, GroupBlobs) else Kinds(view=kind)
    with pytest.raises(AssertionError):
        many_histories(kinds, crowd)


def test_the_histories_find_out_who_counts_offsets_of_other_groups_and_resets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eventlog.kafka.groups.checkpoint.counted", _any_offset_counts)
    monkeypatch.setattr("eventlog.kafka.groups.blobs.counted", _any_offset_counts)
    with pytest.raises(AssertionError):
        many_histories(Kinds(), ALL)


def test_the_histories_find_out_groups_of_one_name_that_meet_in_kafka(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("eventlog.kafka.groups.blobs", "eventlog.kafka.groups.commit_view", SIMULATED):
        monkeypatch.setattr(f"{module}.kafka_group", lambda name, _: f"eventlog.group.{name}")
    with pytest.raises(AssertionError):
        many_histories(Kinds(), SHARED)


def many_histories(kinds: Kinds, crowd: Crowd) -> None:
    for seed in range(MOST_SEEDS):
        # What only makes trouble, finds nothing out.
        with contextlib.suppress(StoreUnavailableError, PreconditionFailedError):
            history(seed, faults=0.05 * (seed % 2), kinds=kinds, crowd=crowd)
