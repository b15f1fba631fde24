"""What becomes of calls whose requests get lost: they succeed once, fail, or are said to be unsure.

The shelf below is what a server does, one request after the other. What befalls each request a
script says, or a `random.Random` whose seed tells the history.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from eventlog import ClosedError, PreconditionFailedError, StoreUnavailableError
from eventlog.blobs import NOT_MODIFIED, Blob, Listing, NotModified
from eventlog.blobs.remote import Late, RemoteBlobs, Undone, Unsure, Version
from eventlog.blobs.store import require

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
SEEDS = range(3000)


class Shelf(RemoteBlobs):
    """A server, and who asks it, with a clock of their own.

    Args:
        fates: of the requests, in order; then all are fine. "fine"; "lost": it never arrives;
            "refused": the same, and that is known;
            "unanswered": it has its effect; "late": it has its effect after so many more requests;
            a function: is called before the request arrives.
        cost: seconds that a request takes that is not answered.
    """

    def __init__(self, fates: Iterable[Any] = (), *, timeout: float = 6, cost: float = 0.0) -> None:
        super().__init__("test://shelf", timeout=timeout)
        self.versions: list[Version] = []
        self.current: dict[str, Version] = {}
        self.requests: list[str] = []
        self.untils: list[float] = []
        self.now = 0.0
        self._fates: Iterator[Any] = iter(fates)
        self._late: list[tuple[int, Callable[[], object]]] = []
        self._cost = cost
        self._clock = lambda: self.now
        self._sleep = self._advance

    def _advance(self, seconds: float) -> None:
        self.now += seconds

    def _arrive(self, kind: str, effect: Callable[[], Any]) -> Any:
        self.requests.append(kind)
        fate: Any = next(self._fates, "fine")
        if callable(fate):
            fate()
            fate = "fine"
        self.settle(len(self.requests))
        if fate == "fine":
            return effect()
        self._advance(self._cost)
        if fate == "refused":
            raise Undone("no room for more")
        if fate == "unanswered":
            _unheard(effect)
        elif isinstance(fate, int):
            self._late.append((len(self.requests) + fate, effect))
        raise Unsure("the connection was lost")

    def settle(self, requests: float = float("inf")) -> None:
        """What was late arrives."""
        due = [effect for when, effect in self._late if when <= requests]
        self._late = [entry for entry in self._late if entry[0] > requests]
        for effect in due:
            _unheard(effect)

    def write(self, name: str, data: bytes, writer: str = "") -> str:
        """What another does."""
        etag = f"{len(self.versions)}"
        self.current[name] = Version(Blob(name, data, etag, NOON), writer)
        self.versions.append(self.current[name])
        return etag

    def etag(self, name: str) -> str | None:
        """Of what is there."""
        version = self.current.get(name)
        return None if version is None else version.blob.etag

    def _read(
        self, name: str, if_none_match: str | None, until: float
    ) -> Version | NotModified | None:
        self.untils.append(until)

        def read() -> Version | NotModified | None:
            version = self.current.get(name)
            same = version is not None and version.blob.etag == if_none_match
            return NOT_MODIFIED if same else version

        found: Version | NotModified | None = self._arrive("get", read)
        return found

    def _write(
        self,
        name: str,
        data: bytes,
        writer: str,
        until: float,
        *,
        if_match: str | None,
        if_absent: bool,
    ) -> str:
        self.untils.append(until)

        def write() -> str:
            require(name, self.etag(name), if_match=if_match, if_absent=if_absent)
            return self.write(name, data, writer)

        etag: str = self._arrive("put", write)
        return etag

    def _remove(self, name: str, if_match: str | None, until: float) -> None:
        self.untils.append(until)

        def remove() -> None:
            require(name, self.etag(name), if_match=if_match)
            self.current.pop(name, None)

        self._arrive("delete", remove)

    def _names(self, prefix: str, until: float) -> Listing:
        self.untils.append(until)
        names: Listing = self._arrive(
            "list", lambda: [(name, version.blob.etag) for name, version in self.current.items()]
        )
        return names

    def _disconnect(self) -> None:
        self.requests.append("disconnect")

    def _after_fork(self) -> None:
        self.requests.append("fork")


def _unheard(effect: Callable[[], object]) -> None:
    with contextlib.suppress(PreconditionFailedError):
        effect()


# ---- Repeating -----------------------------------------------------------------------------------


def test_what_fails_in_passing_is_repeated_with_pauses_that_grow() -> None:
    shelf = Shelf(["lost"] * 4)
    shelf.write("a", b"1")
    blob = shelf.get("a")
    assert isinstance(blob, Blob)
    assert blob.data == b"1"
    assert shelf.requests == ["get"] * 5
    assert 0.375 <= shelf.now <= 0.75


def test_every_kind_of_call_is_repeated() -> None:
    shelf = Shelf(["lost", "fine"] * 10)
    etag = shelf.put("a", b"1")
    assert shelf.list("") == [("a", etag)]
    assert shelf.get("a", if_none_match=etag) is NOT_MODIFIED
    shelf.delete("a")
    assert shelf.current == {}
    assert shelf.requests == ["put"] * 2 + ["list"] * 2 + ["get"] * 2 + ["delete"] * 2


@pytest.mark.parametrize("cost", [0.0, 0.5, 3.0])
def test_a_call_ends_in_time_and_says_what_it_waited_for(cost: float) -> None:
    shelf = Shelf(["lost"] * 1000, cost=cost)
    with pytest.raises(StoreUnavailableError, match=r"test://shelf.*get a .*6 s.*lost"):
        shelf.get("a")
    assert shelf.now <= 6 + cost
    calls: list[Callable[[], object]] = [
        lambda: shelf.put("a", b"1"),
        lambda: shelf.put("a", b"1", if_absent=True),
        lambda: shelf.delete("a", if_match="1"),
    ]
    for call in calls:
        began = shelf.now
        with pytest.raises(StoreUnavailableError):
            call()
        assert shelf.now - began <= 6 + 2 * cost


def test_every_request_is_told_when_the_call_is_over() -> None:
    """The same for all; reading back what became of a swap has half of that again."""
    shelf = Shelf(["lost"] * 1000, cost=1.0)
    with pytest.raises(StoreUnavailableError):
        shelf.get("a")
    assert set(shelf.untils) == {6.0}
    shelf = Shelf(["lost"] * 1000, cost=1.0)
    with pytest.raises(StoreUnavailableError):
        shelf.put("a", b"1", if_absent=True)
    assert set(shelf.untils[:-1]) == {6.0}
    assert shelf.untils[-1] <= shelf.now - 1.0 + shelf.request_timeout == shelf.now + 2.0
    assert shelf.now <= 7.0


def test_what_ran_out_of_time_does_not_hide_why() -> None:
    """It was begun with little time left."""

    def late() -> None:
        raise Late("no answer in time")

    shelf = Shelf(["refused", late, late], timeout=0.2)
    with pytest.raises(StoreUnavailableError, match="no room for more"):
        shelf.get("a")
    shelf = Shelf([late] * 100, timeout=0.2)
    with pytest.raises(StoreUnavailableError, match="no answer in time"):
        shelf.get("a")


def test_what_will_not_get_better_is_not_repeated() -> None:
    def refuse() -> None:
        raise StoreUnavailableError("no access")

    shelf = Shelf([refuse])
    with pytest.raises(StoreUnavailableError, match="no access"):
        shelf.get("a")
    assert shelf.requests == ["get"]


def test_a_condition_that_does_not_hold_is_said_at_once() -> None:
    shelf = Shelf()
    shelf.write("a", b"1")
    for call in (
        lambda: shelf.put("a", b"2", if_absent=True),
        lambda: shelf.put("a", b"2", if_match="9"),
        lambda: shelf.delete("a", if_match="9"),
    ):
        with pytest.raises(PreconditionFailedError):
            call()
    assert shelf.requests == ["put", "put", "delete"]


@pytest.mark.parametrize("etag", ["", "*", '"0"', "W/0 ", "ä", "0" * 201, "0\r\nX: 1"])
def test_what_cannot_be_an_etag_is_not_sent(etag: str) -> None:
    """To a server it may mean anything."""
    shelf = Shelf()
    shelf.write("a", b"1")
    for call in (
        lambda: shelf.put("a", b"2", if_match=etag),
        lambda: shelf.delete("a", if_match=etag),
    ):
        with pytest.raises(PreconditionFailedError):
            call()
    assert shelf.requests == []
    assert isinstance(shelf.get("a", if_none_match=etag), Blob)


# ---- Lost answers --------------------------------------------------------------------------------


def test_a_swap_whose_answer_was_lost_has_succeeded_and_is_not_made_again() -> None:
    shelf = Shelf(["unanswered"])
    old = shelf.write("a", b"same")
    assert shelf.put("a", b"same", if_match=old) == shelf.etag("a")
    assert len(shelf.versions) == 2
    assert shelf.requests == ["put", "get"]


def test_what_was_refused_is_no_doubt_and_nothing_is_read_back() -> None:
    shelf = Shelf(["refused", "refused"])
    old = shelf.write("a", b"1")
    shelf.put("a", b"2", if_match=old)
    assert shelf.requests == ["put"] * 3
    shelf = Shelf(["refused", lambda: shelf.write("a", b"3")])
    old = shelf.write("a", b"1")
    with pytest.raises(PreconditionFailedError):
        shelf.put("a", b"2", if_match=old)
    shelf = Shelf(["lost", *["refused"] * 50], timeout=1)
    old = shelf.write("a", b"1")
    with pytest.raises(StoreUnavailableError, match="no room"):
        shelf.put("a", b"2", if_match=old)


def test_a_creation_whose_answer_was_lost_has_succeeded() -> None:
    shelf = Shelf(["unanswered", "lost", "lost"])
    assert shelf.put("a", b"1", if_absent=True) == shelf.etag("a")
    assert len(shelf.versions) == 1


def test_a_swap_that_never_arrived_is_made_again() -> None:
    shelf = Shelf(["lost", "lost", "fine", "lost"])
    old = shelf.write("a", b"1")
    assert shelf.put("a", b"2", if_match=old) == shelf.etag("a")
    assert shelf.requests == ["put", "get", "get", "put", "get", "put"]


def test_a_swap_that_arrives_late_counts_once() -> None:
    """Between the look and the second try, which then fails: it was the first that came before."""
    shelf = Shelf([2])
    old = shelf.write("a", b"1")
    assert shelf.put("a", b"2", if_match=old) == shelf.etag("a")
    assert len(shelf.versions) == 2
    assert shelf.requests == ["put", "get", "put", "get"]


def test_the_same_content_put_by_another_is_not_taken_for_ones_own() -> None:
    """Two who count to the same number have not counted twice."""
    shelf: Shelf = Shelf(["lost", lambda: shelf.write("a", b"2", "another")])
    old = shelf.write("a", b"1")
    with pytest.raises(StoreUnavailableError, match="cannot be told"):
        shelf.put("a", b"2", if_match=old)
    assert shelf.current["a"].writer == "another"


def test_whether_a_swap_came_before_anothers_cannot_be_told_and_is_not_guessed() -> None:
    shelf: Shelf = Shelf(["unanswered", lambda: shelf.write("a", b"3")])
    old = shelf.write("a", b"1")
    with pytest.raises(StoreUnavailableError, match="cannot be told"):
        shelf.put("a", b"2", if_match=old)


def test_a_swap_that_runs_out_of_time_is_looked_at_once_more() -> None:
    shelf = Shelf(["unanswered"], timeout=0.1, cost=1)
    old = shelf.write("a", b"1")
    assert shelf.put("a", b"2", if_match=old) == shelf.etag("a")


def test_a_deletion_whose_answer_was_lost_cannot_be_told_from_anothers() -> None:
    shelf = Shelf(["unanswered"])
    old = shelf.write("a", b"1")
    with pytest.raises(StoreUnavailableError, match="cannot be told"):
        shelf.delete("a", if_match=old)
    assert shelf.current == {}


def test_a_deletion_that_never_arrived_is_made_again() -> None:
    shelf = Shelf(["lost"])
    old = shelf.write("a", b"1")
    shelf.delete("a", if_match=old)
    assert shelf.requests == ["delete", "get", "delete"]
    assert shelf.current == {}


def random_shelf(chance: random.Random) -> Shelf:
    """One whose requests are lost, are late, and meet with others'."""
    shelf = Shelf(timeout=chance.choice([0.1, 1, 6]), cost=chance.choice([0, 0.3]))

    def interfere() -> None:
        if chance.random() < 0.3 or not shelf.current:
            shelf.write("a", b"2", "another")
        elif chance.random() < 0.5:
            shelf.current.clear()

    fates = ["fine", "lost", "refused", "unanswered", 1, 2, 3, 5, interfere]
    often = [chance.random() * 5 for _ in range(3)]
    weights = [3, *often, 1, 1, 1, 1, chance.random() * 2]
    shelf._fates = iter(chance.choices(fates, weights, k=200))
    return shelf


@pytest.mark.parametrize("absent", [False, True], ids=["swap", "creation"])
def test_whatever_befalls_requests_a_call_says_what_is_true(absent: bool) -> None:
    """Success: it happened; a swap, once. A failed condition: it never will. Otherwise who knows.

    (A creation that is found to be gone is made again, whoever has deleted it.)
    """
    outcomes = set()
    for seed in SEEDS:
        shelf = random_shelf(random.Random(seed))
        old = None if absent else shelf.write("a", b"1")
        outcome: object
        try:
            outcome = shelf.put("a", b"2", if_match=old, if_absent=absent)
        except (PreconditionFailedError, StoreUnavailableError) as error:
            outcome = error
        outcomes.add(type(outcome))
        shelf.settle()
        mine = [v.blob.etag for v in shelf.versions if v.writer not in ("", "another")]
        if isinstance(outcome, str):
            assert outcome in mine, seed
            assert absent or mine == [outcome], seed
        elif isinstance(outcome, PreconditionFailedError):
            assert mine == [], seed
    assert outcomes == {str, PreconditionFailedError, StoreUnavailableError}


# ---- Closing, and children -----------------------------------------------------------------------


def test_a_store_that_is_closed_meanwhile_is_not_asked_again() -> None:
    shelf = Shelf(["lost"])
    shelf._sleep = lambda seconds: shelf.close()
    with pytest.raises(ClosedError):
        shelf.get("a")
    assert shelf.requests == ["get", "disconnect"]


def test_a_child_is_told_once_that_it_is_one_and_closes_nothing_of_its_parents() -> None:
    shelf = Shelf()
    child = os.fork()
    if not child:
        shelf.get("a")
        shelf.get("a")
        os._exit(shelf.requests == ["fork", "get", "get"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    child = os.fork()
    if not child:
        shelf.close()
        os._exit(shelf.requests == [])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (0, ValueError),
        (601, ValueError),
        ("6", TypeError),
        (True, TypeError),
        (float("nan"), ValueError),
    ],
)
def test_a_time_that_no_call_can_take_is_refused(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout"):
        Shelf(timeout=timeout)
