"""Who is alive as a member sees it, also where listings lag."""

from __future__ import annotations

from msgspec.structs import replace

from eventlog.blobs import Listing
from eventlog.blobs.memory import MemoryBlobs
from eventlog.groups.documents import GroupDocument, GroupIds
from eventlog.groups.steps import perform
from eventlog.processor.sightings import Sightings

IDS = GroupIds("log", "cars", "1", "fraud")
DOCUMENT = replace(GroupDocument.first(IDS), hosts=["a", "b"])
LEASE = 30.0


class Place(MemoryBlobs):
    """A store whose listings can show what was there before; and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.old: Listing | None = None

    def list(self, prefix: str) -> Listing:
        return super().list(prefix) if self.old is None else self.old

    def beat(self, member: str) -> None:
        self.put(IDS.heartbeat(member), b"{}")

    def sightings(self) -> Sightings:
        return Sightings(IDS, lambda: self.now)

    def living(self, sightings: Sightings) -> set[str]:
        return perform(sightings.living(DOCUMENT, (), LEASE), self)


def test_whose_heartbeat_stands_still_for_a_lease_is_dead() -> None:
    place = Place()
    sightings = place.sightings()
    for member in DOCUMENT.hosts:
        place.beat(member)
    assert place.living(sightings) == {"a", "b"}
    place.now = 29.9
    place.beat("a")
    assert place.living(sightings) == {"a", "b"}
    place.now = 30.0
    assert place.living(sightings) == {"a"}


def test_who_seems_dead_in_a_listing_that_lags_is_looked_at() -> None:
    place = Place()
    sightings = place.sightings()
    for member in DOCUMENT.hosts:
        place.beat(member)
    place.living(sightings)
    place.old = place.list(IDS.hosts)
    place.now = 20.0
    place.beat("a")
    place.now = 31.0
    assert place.living(sightings) == {"a"}


def test_who_was_never_seen_is_alive_from_the_first_look_on() -> None:
    place = Place()
    sightings = place.sightings()
    place.now = 100.0
    assert place.living(sightings) == {"a", "b"}
    place.now = 130.0
    assert place.living(sightings) == set()


def test_strays_are_swept_after_two_leases() -> None:
    place = Place()
    sightings = place.sightings()
    place.beat("gone")
    place.beat("a")
    place.living(sightings)
    place.now = 59.9
    perform(sightings.sweep(DOCUMENT, "b", LEASE), place)
    assert place.get(IDS.heartbeat("gone")) is not None
    place.now = 60.0
    perform(sightings.sweep(DOCUMENT, "b", LEASE), place)
    assert place.get(IDS.heartbeat("gone")) is None
    assert place.get(IDS.heartbeat("a")) is not None


def test_a_stray_whose_heartbeat_has_changed_though_the_listing_does_not_show_it_stays() -> None:
    place = Place()
    sightings = place.sightings()
    place.beat("newcomer")
    place.living(sightings)
    place.old = place.list(IDS.hosts)
    place.beat("newcomer")
    place.now = 60.0
    perform(sightings.sweep(DOCUMENT, "b", LEASE), place)
    assert place.get(IDS.heartbeat("newcomer")) is not None
