"""Making a connection, in time.

Looking up a host's name can take half a minute, and can only be waited for: that is done by a
thread, which is left alone if it takes too long.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, make_conninfo

from eventlog.blobs.aside import Aside
from eventlog.blobs.postgresql.connection import Connection, wait
from eventlog.blobs.postgresql.failures import is_for_good, one_line
from eventlog.blobs.remote import Late, Unsure
from eventlog.errors import StoreUnavailableError

__all__ = ["Connector"]

_WAITS_FOR: Final = {
    pq.PollingStatus.READING: select.POLLIN,
    pq.PollingStatus.WRITING: select.POLLOUT,
}
_aside: Final = Aside("look-up")
_Address: TypeAlias = Mapping[str, str | int | None]


class Connector:
    """Makes connections to the first of some hosts that has one to give. Thread-safe.

    One that has given one is asked first the next time: to ask one that stands still takes time.

    Args:
        parameters: as libpq takes them.
        place: of the store, for people.
    """

    def __init__(self, parameters: Mapping[str, str], place: str) -> None:
        self._parameters = parameters
        self._place = place
        self._good: _Address | None = None

    def connect(self, until: float) -> Connection:
        """A connection.

        Args:
            until: when to give up, by the monotonic clock.

        Raises:
            Unsure: there is none to be had; another time, perhaps.
            StoreUnavailableError: nor will there be: no such database, or it does not let us in.
        """
        addresses = sorted(
            _addresses(self._parameters, until), key=lambda address: address != self._good
        )
        reasons = []
        for number, address in enumerate(addresses):
            now = time.monotonic()
            try:
                connection = _connect(address, now + (until - now) / (len(addresses) - number))
            except Unsure as error:
                reasons.append(str(error))
            else:
                self._good = address
                return connection
        reason = "; ".join(dict.fromkeys(reasons))
        if is_for_good(reason):
            raise StoreUnavailableError(f"the store at {self._place} cannot be used: {reason}")
        raise Unsure(reason)


def _addresses(parameters: Mapping[str, str], until: float) -> Sequence[_Address]:
    """Parameters for each address of each host."""
    try:
        return _aside.run(lambda: conninfo_attempts(parameters), until - time.monotonic())
    except Late:
        raise Late("no answer in time to who asks for the host's address") from None
    except psycopg.Error as error:
        reason = one_line(str(error).encode())
    raise Unsure(reason)


def _connect(address: _Address, until: float) -> Connection:
    pgconn = pq.PGconn.connect_start(make_conninfo("", **address).encode())
    try:
        while pgconn.status != pq.ConnStatus.BAD:
            step = pgconn.connect_poll()
            if step == pq.PollingStatus.OK:
                return Connection(pgconn)
            if step not in _WAITS_FOR:
                break
            wait(pgconn, _WAITS_FOR[pq.PollingStatus(step)], until)
        raise Unsure(one_line(pgconn.error_message))
    except psycopg.Error:
        reason = one_line(pgconn.error_message) or "the connection is lost"
        pgconn.finish()
        raise Unsure(reason) from None
    except BaseException:
        pgconn.finish()
        raise
