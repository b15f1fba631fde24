"""The table, and the statements that are asked of it.

Names are compared as bytes, whatever the collation of the database, or of a table that somebody
else has made.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from eventlog.blobs.postgresql.connection import BYTEA, TEXT, TIMESTAMPTZ, VARCHAR, Statement
from eventlog.blobs.store import MAX_DATA_BYTES
from eventlog.positions import LAST_INSTANT_US, instant, microseconds

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["Statements", "instant_of", "upper_bound"]

_FIRST_INSTANT_US: Final = microseconds(datetime.min.replace(tzinfo=UTC))
_EPOCH_US: Final = microseconds(datetime(2000, 1, 1, tzinfo=UTC))
_BEHIND_ALL: Final = "{"
"""The character behind all that names are made of."""

_TEXTS: Final = (TEXT, VARCHAR)
_COLUMNS: Final = (_TEXTS, (BYTEA,), _TEXTS, (TIMESTAMPTZ,))


_TABLE: Final = """CREATE TABLE IF NOT EXISTS the_table (\
name text COLLATE "C" PRIMARY KEY, \
data bytea NOT NULL, \
etag text NOT NULL, \
modified_at timestamptz NOT NULL\
) WITH (fillfactor = 50)"""

_LOOK: Final = "SELECT name, data, etag, modified_at FROM the_table LIMIT 0"

_GET: Final = """
SELECT etag,
       CASE WHEN etag IS DISTINCT FROM $2 AND octet_length(data) <= max_data_bytes THEN data END,
       modified_at
FROM the_table WHERE name = $1 COLLATE "C"
"""
_CREATE: Final = """
INSERT INTO the_table (name, data, etag, modified_at) VALUES ($1, $2, $3, clock_timestamp())
ON CONFLICT (name) DO NOTHING
"""
_PUT: Final = """
INSERT INTO the_table (name, data, etag, modified_at) VALUES ($1, $2, $3, clock_timestamp())
ON CONFLICT (name)
DO UPDATE SET data = excluded.data, etag = excluded.etag, modified_at = clock_timestamp()
"""
_REPLACE: Final = """
UPDATE the_table SET data = $2, etag = $3, modified_at = clock_timestamp()
WHERE name = $1 COLLATE "C" AND etag = $4
"""
_DELETE: Final = """
DELETE FROM the_table WHERE name = $1 COLLATE "C"
"""
_DELETE_VERSION: Final = """
DELETE FROM the_table WHERE name = $1 COLLATE "C" AND etag = $2
"""
_NAMES: Final = """
SELECT name, etag FROM the_table WHERE name >= $1 COLLATE "C" AND name < $2 COLLATE "C"
"""


class Statements:
    """All that the store asks of a table.

    Args:
        table: its quoted name.

    Attributes:
        definition: how the table is made, for people too.
    """

    def __init__(self, table: str) -> None:
        def statement(text: str, *types: int) -> Statement:
            text = text.replace("max_data_bytes", str(MAX_DATA_BYTES))
            return Statement(text.replace("the_table", table).encode(), types)

        self.make_table = statement(_TABLE)
        self.definition = self.make_table.text.decode()
        self.look = statement(_LOOK)
        self.get = statement(_GET, TEXT, TEXT)
        self.create = statement(_CREATE, TEXT, BYTEA, TEXT)
        self.put = statement(_PUT, TEXT, BYTEA, TEXT)
        self.replace = statement(_REPLACE, TEXT, BYTEA, TEXT, TEXT)
        self.delete = statement(_DELETE, TEXT)
        self.delete_version = statement(_DELETE_VERSION, TEXT, TEXT)
        self.names = statement(_NAMES, TEXT, TEXT)

    def fits(self, result: PGresult) -> bool:
        """Whether the table that `look` has found has columns of the right types."""
        found = map(result.ftype, range(result.nfields))
        return all(kind in kinds for kind, kinds in zip(found, _COLUMNS, strict=True))


def upper_bound(prefix: str) -> str:
    """What is behind all names that begin so, and before all others that are behind them."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else _BEHIND_ALL


def instant_of(value: bytes | None) -> datetime:
    """A timestamptz in PostgreSQL's binary format: microseconds since the year 2000.

    In the years that a datetime has; a person may set any other.
    """
    since_2000 = int.from_bytes(value or b"", signed=True)
    return instant(min(max(since_2000 + _EPOCH_US, _FIRST_INSTANT_US), LAST_INSTANT_US))
