"""The store: what is asked of the database, and what the answers mean."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from eventlog.blobs.postgresql.connecting import Connector
from eventlog.blobs.postgresql.connection import Connection, Statement
from eventlog.blobs.postgresql.failures import Refusal
from eventlog.blobs.postgresql.location import Location, locate
from eventlog.blobs.postgresql.pool import MAX_CONNECTIONS, Pool
from eventlog.blobs.postgresql.statements import Statements, instant_of, upper_bound
from eventlog.blobs.remote import RemoteBlobs, Undone, Unsure, Version, can_be_etag
from eventlog.blobs.store import MAX_DATA_BYTES, NOT_MODIFIED, Blob, Listing, NotModified
from eventlog.errors import PreconditionFailedError, StoreUnavailableError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["PostgreSQLBlobs", "open_postgresql"]

_NO_TABLE: Final = "42P01"
_DENIED: Final = "42501"
_ENDING: Final = ("08", "57P")
_MADE_ALREADY: Final = ("23505", "42710", "42P07")  # by another, at the same time
_OTHER_SHAPE: Final = ("22", "23", "42")


def open_postgresql(url: str, options: Mapping[str, object]) -> PostgreSQLBlobs:
    """Open a store, of which the database is reached once.

    Args:
        url: ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE``, or ``postgres:``.
        options: `table`, `timeout`, and whatever libpq knows. `timeout` is for connecting as well,
            so that `connect_timeout` makes no difference.

    Raises:
        StoreUnavailableError: there is no such database, or none can be reached in time.
        ValueError, TypeError: an option there is not, or that cannot be so.
    """
    store = PostgreSQLBlobs(locate(url, options))
    try:
        store.look_over()
    except BaseException:
        store.close()
        raise
    return store


class PostgreSQLBlobs(RemoteBlobs):
    """See `eventlog.blobs.postgresql`."""

    def __init__(self, location: Location, connections: int = MAX_CONNECTIONS) -> None:
        super().__init__(location.place, timeout=location.timeout)
        self._location = location
        self._statements = Statements(location.table)
        self._connector = Connector(location.parameters, location.place)
        self._pool = Pool(self._connect, connections)
        self._twins: weakref.WeakSet[PostgreSQLBlobs] = weakref.WeakSet()

    def _connect(self, until: float) -> Connection:
        return self._connector.connect(min(until, time.monotonic() + self.request_timeout))

    def apart(self) -> PostgreSQLBlobs:
        """See `BlobStore.apart`: it has a connection of its own."""
        self._require_open()
        twin = PostgreSQLBlobs(self._location, connections=1)
        self._twins.add(twin)
        if self._is_closed:  # meanwhile
            twin.close()
        return twin

    @property
    def calls_at_a_time(self) -> int:
        """See `BlobStore.calls_at_a_time`: one for each connection."""
        return self._pool.most

    def look_over(self) -> None:
        """See that the database can be used, and that the table is one of ours, if it is there.

        Raises:
            StoreUnavailableError: it cannot, or is not.
        """
        look = self._statements.look
        result = self._ask("be opened", lambda until: self._answer_if_there(look, until))
        if result is not None and not self._statements.fits(result):
            raise self._of_another_shape("its columns are of other types")

    # Requests

    def _read(
        self, name: str, if_none_match: str | None, until: float
    ) -> Version | NotModified | None:
        known = None if if_none_match is None else if_none_match.encode()
        result = self._answer_if_there(self._statements.get, until, name.encode(), known)
        if result is None or not result.ntuples:
            return None
        etag = _text(result, 0)
        if etag == if_none_match:
            return NOT_MODIFIED
        if not can_be_etag(etag):
            raise StoreUnavailableError(
                f"the blob {name!r} in the store at {self.place} has an etag that cannot be one; "
                "who has set it is to give it another: SET etag = md5(random()::text)"
            )
        data = result.get_value(0, 1)
        if data is None:
            raise StoreUnavailableError(
                f"the blob {name!r} in the store at {self.place} has more than "
                f"{MAX_DATA_BYTES:,} bytes"
            )
        return Version(Blob(name, bytes(data), etag, instant_of(result.get_value(0, 2))), etag)

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
        row = (name.encode(), data, writer.encode())
        if if_match is not None:
            replace = self._statements.replace
            result = self._answer_if_there(replace, until, *row, if_match.encode())
            if not _changed(result):
                raise _other_version(name, if_match)
            return writer
        statement = self._statements.create if if_absent else self._statements.put
        result = self._answer_if_there(statement, until, *row)
        if result is None:
            self._make_table(until)
            result = self._answer(statement, until, *row)
        if not _changed(result):
            raise PreconditionFailedError(f"the blob {name!r} is there")
        return writer

    def _remove(self, name: str, if_match: str | None, until: float) -> None:
        if if_match is None:
            self._answer_if_there(self._statements.delete, until, name.encode())
            return
        version = (name.encode(), if_match.encode())
        if not _changed(self._answer_if_there(self._statements.delete_version, until, *version)):
            raise _other_version(name, if_match)

    def _names(self, prefix: str, until: float) -> Listing:
        bounds = (prefix.encode(), upper_bound(prefix).encode())
        result = self._answer_if_there(self._statements.names, until, *bounds)
        if result is None:
            return []
        return [(_text(result, 0, row), _text(result, 1, row)) for row in range(result.ntuples)]

    def _disconnect(self) -> None:
        self._pool.close()
        for twin in list(self._twins):
            twin.close()

    def _after_fork(self) -> None:
        """Nothing is left to do: see the third invariant of `eventlog.blobs.postgresql.pool`."""

    # Asking

    def _answer(self, statement: Statement, until: float, *values: bytes | None) -> PGresult:
        """The answer to one statement.

        Raises:
            Unsure, StoreUnavailableError: see `RemoteBlobs`.
        """
        try:
            return self._repeat(statement, values, until)
        except Refusal as refusal:
            raise self._explained(refusal) from None

    def _answer_if_there(
        self, statement: Statement, until: float, *values: bytes | None
    ) -> PGresult | None:
        """The same; None if there is no table."""
        try:
            return self._repeat(statement, values, until)
        except Refusal as refusal:
            if refusal.code == _NO_TABLE:
                return None
            raise self._explained(refusal) from None

    def _repeat(
        self, statement: Statement, values: Sequence[bytes | None], until: float
    ) -> PGresult:
        """Ask until none of those who change the same, at the same time, is in the way."""
        while True:
            try:
                # Whose turn comes too late for a whole request does not ask: to give one up is the
                # end of its connection, and with none left all would only connect again.
                with self._pool.lend(until, until - self.request_timeout) as connection:
                    # To connect took time of its own: what was slow to be made is to be of use.
                    end = min(until, time.monotonic() + self.request_timeout)
                    return connection.ask(statement, values, end)
            except Refusal as refusal:
                if not refusal.is_collision or time.monotonic() >= until:
                    raise

    def _make_table(self, until: float) -> None:
        try:
            self._repeat(self._statements.make_table, (), until)
        except Refusal as refusal:
            if refusal.code == _DENIED:
                raise StoreUnavailableError(
                    f"the table of the store at {self.place} is not there, and cannot be made: "
                    f"{refusal}. Have it made: {self._statements.definition}; and be granted "
                    "SELECT, INSERT, UPDATE, DELETE on it"
                ) from None
            if refusal.code not in _MADE_ALREADY:
                raise self._explained(refusal) from None

    def _explained(self, refusal: Refusal) -> Unsure | StoreUnavailableError:
        if refusal.is_passing:
            # Who is told that the server ends may have committed: it may wait for a standby only.
            kind = Unsure if refusal.code.startswith(_ENDING) else Undone
            return kind(str(refusal))
        if refusal.code == _DENIED:
            return StoreUnavailableError(
                f"the store at {self.place} cannot be used so: {refusal}. It takes SELECT, INSERT, "
                "UPDATE, DELETE on the table; SELECT to look"
            )
        if refusal.code.startswith(_OTHER_SHAPE):
            return self._of_another_shape(str(refusal))
        return StoreUnavailableError(f"the store at {self.place} cannot be used: {refusal}")

    def _of_another_shape(self, reason: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"the table of the store at {self.place} is not as it should be: {reason}. It is to be "
            f"made so: {self._statements.definition}"
        )


def _changed(result: PGresult | None) -> bool:
    return result is not None and result.command_tuples == 1


def _other_version(name: str, if_match: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"the blob {name!r} is not there, or has another etag; expected was etag {if_match}"
    )


def _text(result: PGresult, column: int, row: int = 0) -> str:
    """What is no text of ours is no name and no etag, however it is read."""
    return (result.get_value(row, column) or b"").decode(errors="replace")
