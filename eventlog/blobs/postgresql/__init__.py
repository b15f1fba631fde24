"""A store in a table of a PostgreSQL database.

::

    SELECT name, convert_from(data, 'UTF8'), modified_at FROM eventlog_blobs ORDER BY name;

The first put makes the table, if the role may::

    CREATE TABLE eventlog_blobs (
        name        text COLLATE "C" PRIMARY KEY,
        data        bytea NOT NULL,
        etag        text NOT NULL,
        modified_at timestamptz NOT NULL
    ) WITH (fillfactor = 50);

Otherwise its owner makes it, and grants SELECT, INSERT, UPDATE and DELETE on it; SELECT is enough
to look. Whoever edits a blob by hand gives it another etag too::

    UPDATE eventlog_blobs SET data = '{}', etag = md5(random()::text) WHERE name = 'a/b.json';

Invariants:

1. A call is one transaction and one round trip: what it asks, and before it, in the same message,
   how long the server may take, and that the commit is to be durable; both hold for this
   transaction only. No connection has a state, so a pooler of transactions may stand in between.
2. A condition is in the statement that acts on it. The etag is the token that the writer chose, so
   that it recognises what it wrote although the answer was lost.
3. What waits for a lock, or is slow, the server gives up before the client does. So such requests
   do not pile up there, and none of them writes when the lock is let go. Only what stands still
   together with its server, or on the way to it, may take effect later.
4. Every connection is to a primary. Who reads from a standby would not see what has been put.

What hosts put with every heartbeat leaves old rows behind, as every UPDATE does. It does no harm:
neither etag nor time is indexed, and half of every page is free, so that the new row goes beside
the old one, no index is touched, and the next who comes by frees the old one's room (a HOT update);
autovacuum has little to do. A blob of more than about 2 kB is kept out of line, where only
autovacuum cleans up: such are seldom put. A transaction that someone leaves open for hours keeps
the room of all of them from being used again, here as in every table.

What this store does not do: make schemas or databases, upgrade a table, or tell of changes (LISTEN
takes a connection for each who listens, and no pooler lets it through).
"""

from __future__ import annotations

try:
    from eventlog.blobs.postgresql.store import open_postgresql
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "psycopg":
        raise
    raise ModuleNotFoundError(
        "a store in PostgreSQL needs psycopg: pip install 'embedded-eventlog[postgresql]'",
        name=error.name,
    ) from None

__all__ = ["open_postgresql"]
