"""Connections that keep to a deadline, whatever becomes of the server and the network.

psycopg's own connection waits for an answer as long as it takes. This one is made of libpq's calls
that never wait (`psycopg.pq`), and does the waiting itself.

What this module deliberately does not do: keep connections, or know what a statement is about.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
from psycopg import pq

from eventlog.blobs.postgresql.failures import Refusal, one_line
from eventlog.blobs.remote import Late, Unsure

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["BYTEA", "TEXT", "TIMESTAMPTZ", "VARCHAR", "Connection", "Statement", "wait"]

BYTEA: Final = 17
TEXT: Final = 25
VARCHAR: Final = 1043
TIMESTAMPTZ: Final = 1184

_SETTINGS: Final = b"""
SELECT set_config('statement_timeout', $1, true),
       CASE current_setting('synchronous_commit')
            WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END
"""
_SERVERS_SHARE: Final = 0.9
"""Of the time there is: so that its last word still comes in time."""

_REFUSALS: Final = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)
_AT_ONCE: Final = struct.pack("ii", 1, 0)

_inherited: Final[list[PGconn]] = []
"""Of the process that this one was forked from; never let go of, since libpq says goodbye then."""


class Statement(NamedTuple):
    """A statement, and the types of its parameters as PostgreSQL numbers them."""

    text: bytes
    types: Sequence[int] = ()


class Connection:
    """A connection to a server. For one thread at a time.

    After anything but an answer or a `Refusal` it is of no use any more: `abort` it.

    Args:
        pgconn: one that is established.

    Attributes:
        used_at: when it was last used, by the monotonic clock.
    """

    def __init__(self, pgconn: PGconn) -> None:
        pgconn.nonblocking = 1
        pgconn.enter_pipeline_mode()
        self._pgconn = pgconn
        self.used_at = time.monotonic()

    def ask(self, statement: Statement, values: Sequence[bytes | None], until: float) -> PGresult:
        """What a statement, in a transaction of its own, answers; in PostgreSQL's binary formats.

        Args:
            values: of its parameters, in the same formats.
            until: when to give up, by the monotonic clock. The server gives up a little sooner.

        Raises:
            Refusal: it failed, and has changed nothing.
            Unsure: there was no answer.
        """
        self.used_at = time.monotonic()
        milliseconds = b"%d" % max((until - self.used_at) * 1000 * _SERVERS_SHARE, 1)
        try:
            self._pgconn.send_query_params(_SETTINGS, [milliseconds], [TEXT])
            self._pgconn.send_query_params(
                statement.text,
                values,
                statement.types,
                [pq.Format.BINARY] * len(values),
                pq.Format.BINARY,
            )
            self._pgconn.pipeline_sync()
            self._send(until)
            results = self._receive(until)
        except psycopg.Error:
            raise self._lost() from None
        return self._answer(results)

    def _send(self, until: float) -> None:
        while self._pgconn.flush():
            if wait(self._pgconn, select.POLLIN | select.POLLOUT, until) & ~select.POLLOUT:
                self._pgconn.consume_input()

    def _receive(self, until: float) -> Sequence[PGresult]:
        """All that comes before the connection is ready again."""
        results: list[PGresult] = []
        while True:
            while self._pgconn.is_busy():
                wait(self._pgconn, select.POLLIN, until)
                self._pgconn.consume_input()
            result = self._pgconn.get_result()
            if result is not None:
                if result.status == pq.ExecStatus.PIPELINE_SYNC:
                    return results
                results.append(result)
            elif self._pgconn.status == pq.ConnStatus.BAD:
                raise self._lost()

    def _answer(self, results: Sequence[PGresult]) -> PGresult:
        """That of the second of two statements. All may have failed, and the commit as well."""
        for result in results:
            if result.status in _REFUSALS:
                code = result.error_field(pq.DiagnosticField.SQLSTATE)
                if not code:  # it is not the server that says so
                    raise Unsure(one_line(result.error_message))
                message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
                of_primary = self._pgconn.parameter_status(b"in_hot_standby") == b"off"
                raise Refusal(code.decode(), one_line(message), of_primary=of_primary)
        assert len(results) == 2
        return results[1]

    def _lost(self) -> Unsure:
        return Unsure(one_line(self._pgconn.error_message) or "the connection is lost")

    @property
    def has_ended(self) -> bool:
        """Whether it is to be seen, without asking, that the server has closed it.

        A server that says anything to who has asked nothing is saying goodbye, or what makes no
        difference to who takes another connection.
        """
        try:
            return bool(_poll(self._pgconn, select.POLLIN, 0))
        except psycopg.Error:
            return True

    def close(self) -> None:
        """Say goodbye to the server."""
        self._pgconn.finish()

    def abort(self) -> None:
        """Be done with it at once: what it has not yet sent to the server is never sent."""
        with (
            contextlib.suppress(psycopg.Error, OSError),
            socket.socket(fileno=os.dup(self._pgconn.socket)) as connected,
        ):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._pgconn.finish()

    def forget(self) -> None:
        """In a child process: let go of the parent's connection without a word to the server.

        It is closed here, so that it ends when the parent does.
        """
        _inherited.append(self._pgconn)
        with contextlib.suppress(psycopg.Error, OSError):
            os.close(self._pgconn.socket)


def wait(pgconn: PGconn, events: int, until: float) -> int:
    """Which of `select`'s events have come.

    Raises:
        Late: none until then.
    """
    found = _poll(pgconn, events, until - time.monotonic())
    if not found:
        raise Late("no answer in time")
    return found


def _poll(pgconn: PGconn, events: int, seconds: float) -> int:
    poll = select.poll()
    poll.register(pgconn.socket, events)
    ready = poll.poll(math.ceil(max(seconds, 0) * 1000))
    return ready[0][1] if ready else 0
