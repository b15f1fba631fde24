"""Walking over every row of a log in the order of its tree, and saying which do not belong there.

Readers search. LMDB's own pages carry no checksums, and where one is damaged a search goes astray:
a batch behind a flipped bit is stepped over, unseen if it was the last of its partition. So here
one cursor goes from page to page and searches for nothing, and every row that it comes to is held
against the rules (`eventlog.embedded.row_rules`) and searched for: it must stand behind the row
before it, and be found. At last the rows are counted, since the tree knows how many it has.

Others may write meanwhile. Rows are walked over in many short transactions; what is said of a row
is told by the transaction it is met in, its topics included, so what holds in every state of a
sound log holds here. Only where one transaction ends and the next goes on, the row before is one of
an earlier state. That does no harm: keys rise from state to state too, and while a chunk of a batch
is there those before it are, unless its topic is being deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol, TypeVar

import lmdb

from eventlog.embedded import keys
from eventlog.embedded.catalog import read_log_record, read_topics
from eventlog.embedded.row_rules import NOWHERE, Place, Rules
from eventlog.errors import NotALogError
from eventlog.log import Damage

__all__ = ["BROKEN_TREE", "Look", "Walk"]

BROKEN_TREE: Final = (lmdb.Error, SystemError)
"""What py-lmdb raises where the pages of a tree are damaged."""

_ROWS_PER_TRANSACTION: Final = 20_000
"""Some 20 ms: a reader keeps old pages alive, so it lets go and comes back."""

_MOST_COUNTED: Final = 10_000_000
"""Rows that are counted, some 40 GB: one transaction, of a second. Of a larger log they are not."""

_MOST_FINDINGS: Final = 1000
"""What is remembered of a log in which nothing is where it belongs."""

T = TypeVar("T")


class Look(Protocol):
    """`EmbeddedLog.look`."""

    def __call__(self, do: Callable[[lmdb.Transaction], T], /) -> T:
        """What `do` returns of a read transaction."""


class Walk:
    """One walk over all rows.

    Attributes:
        rows: how many there were.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._at = b""
        self._previous = b""
        self._findings: list[_Finding] = []
        self._left_out = 0
        self.rows = 0

    def run(self) -> None:
        """Walk over all of it."""
        while self._look(self._some):
            pass
        self._look(self._whole)

    def damaged(self) -> list[Damage]:
        """What does not belong where it is; rows side by side with one fault are one."""
        found = [finding.damage() for finding in self._findings]
        if self._left_out:
            found.append(Damage(*NOWHERE, f"{self._left_out:,} rows more do not belong there"))
        return found

    def _some(self, transaction: lmdb.Transaction) -> bool:
        """Walk over some rows; False if there are no more."""
        walked = 0
        try:
            rules = Rules(transaction)
            cursor = transaction.cursor()
            for view in self._keys_from_here(cursor):
                key = bytes(view[: keys.MAX_KEY_BYTES])  # more than that is damage: do not look
                search = transaction.cursor()  # a new one: where one stands, it looks first
                is_placed = key > self._previous and search.set_key(key)
                self._judge(rules, cursor, key, is_placed=is_placed)
                before, self._previous = self._previous, key
                walked += 1
                if (
                    walked >= _ROWS_PER_TRANSACTION
                    and is_placed
                    and self._may_pause(search, before)
                ):
                    self._at = key
                    return True
        except BROKEN_TREE as error:
            return self._step_over(error, walked)
        finally:
            self.rows += walked
        return False

    def _may_pause(self, search: lmdb.Cursor, before: bytes) -> bool:
        """Whether to go on from the row that a search has found, in the next transaction.

        It will be searched for then, so it must be the row that the walk has come to and not
        another with its key: the one before it is `before`. And it must lie behind where the last
        transaction ended: in a damaged tree a walk would never end that could go back.
        """
        return bytes(search.key()) > self._at and before == (
            bytes(search.key()) if search.prev() else b""
        )

    def _keys_from_here(self, cursor: lmdb.Cursor) -> Iterator[bytes | memoryview]:
        """The keys that were not seen yet; without values, for which their pages would be read."""
        found = cursor.set_range(self._at) if self._at else cursor.first()
        if found and bytes(cursor.key()) == self._at:
            found = cursor.next()
        return cursor.iternext(values=False) if found else iter(())

    def _judge(self, rules: Rules, cursor: lmdb.Cursor, key: bytes, *, is_placed: bool) -> None:
        fault = rules.fault_of_key(key, self._previous)
        if fault is None and not is_placed:
            fault = "a search does not find it where it stands"
        fault = fault or rules.fault_of_value(key, cursor.value)
        if fault is not None:
            self._note(rules.place(key, cursor.value), key, fault)

    def _step_over(self, error: Exception, walked: int) -> bool:
        """Go on behind what cannot be read: behind its partition, if it is in one.

        False if nothing could be read at all, not even behind what could not be read before.
        """
        where = "what is behind it" if self._previous else "its tree"
        self._note(NOWHERE, self._previous, f"{where} cannot be read ({error!r})")
        kind = keys.KINDS.get(self._previous[:1])
        prefix = self._previous[: 7 if kind is not None and kind.has_partition else 1]
        behind = prefix.ljust(keys.MAX_KEY_BYTES, b"\xff")
        self._previous = b""
        if not walked or behind <= self._at:
            return False
        self._at = behind
        return True

    def _whole(self, transaction: lmdb.Transaction) -> None:
        """Look at what is true of the log as a whole."""
        try:
            self._compare_counts(transaction)
            with contextlib.suppress(NotALogError):  # a damaged record, which is noted
                self._compare_numbers(transaction)
        except BROKEN_TREE as error:
            self._note(NOWHERE, b"", f"its tree cannot be read ({error!r})")

    def _compare_counts(self, transaction: lmdb.Transaction) -> None:
        expected = transaction.stat()["entries"]
        if expected > _MOST_COUNTED:
            return
        there = sum(1 for _ in transaction.cursor().iternext(values=False))
        if there != expected:
            self._note(NOWHERE, b"", f"it should have {expected:,} rows, and {there:,} are found")

    def _compare_numbers(self, transaction: lmdb.Transaction) -> None:
        """A number that is given a second time makes a new topic of an old one's rows."""
        following = read_log_record(transaction).next_topic_id
        for record in read_topics(transaction)[0]:
            if record.id >= following:
                fault = f"its number, {record.id}, is going to be given to another topic"
                self._note(NOWHERE._replace(topic=record.name), b"", fault)

    def _note(self, place: Place, key: bytes, fault: str) -> None:
        if self._findings and self._findings[-1].is_like(place, fault):
            self._findings[-1] = self._findings[-1].extended(place)
        elif len(self._findings) < _MOST_FINDINGS:
            self._findings.append(_Finding(place, key, fault))
        else:
            self._left_out += 1


class _Finding(NamedTuple):
    """A row that does not belong where it is, or several side by side."""

    place: Place
    key: bytes
    """Of the first one; empty if the log itself is meant."""
    fault: str
    rows: int = 1

    def is_like(self, place: Place, fault: str) -> bool:
        """Whether a row is to be told together with these."""
        return self.place[:2] == place[:2] and self.fault == fault

    def extended(self, place: Place) -> _Finding:
        """With a row more."""
        first = min(self.place.first_offset, place.first_offset)
        last = max(self.place.last_offset, place.last_offset)
        return self._replace(
            place=self.place._replace(first_offset=first, last_offset=last), rows=self.rows + 1
        )

    def damage(self) -> Damage:
        """As it is reported."""
        if self.place != NOWHERE:
            return Damage(*self.place, self.fault)
        subject = f"row {self.key[:40].hex()}" if self.key else "the log"
        more = f" (and {self.rows - 1:,} rows behind it)" if self.rows > 1 else ""
        return Damage(*NOWHERE, f"{subject}: {self.fault}{more}")
