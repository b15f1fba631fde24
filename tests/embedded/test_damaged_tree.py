"""Damage to LMDB's own pages, which have no checksums: check finds it, or it does no harm.

The log is open while its file is damaged and mended, and sees both at once.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import EventLog, EventLogError
from eventlog.embedded import keys, walk
from eventlog.log import CheckReport
from tests.embedded.damaging import DATA, SEED, Clock
from tests.embedded.pages import Node, Pages

CARS = 2
"""The number of the topic in the middle."""
SINGLE, SEVERAL, LONG, LONELY = range(4)
"""Its partitions: batches of one event, of several; of three with several chunks; one batch."""


@pytest.fixture
def path(fast_path: Path) -> Path:
    """A closed log of three topics, whose tree is three pages high."""
    source = random.Random(SEED)
    with eventlog.open(fast_path, clock=Clock(), durability="process") as log:
        topics = [
            log.create_topic(name, partitions=4, compression="none") for name in ("a", "cars", "z")
        ]
        for topic in topics:
            for _ in range(25):
                topic.append(source.randbytes(30), partition=SINGLE)
                count = source.randrange(1, 6)
                topic.append_batch([source.randbytes(30) for _ in range(count)], partition=SEVERAL)
        for _ in range(40):
            topics[1].append_batch([source.randbytes(3500) for _ in range(3)], partition=LONG)
        topics[1].append(b"the only one", partition=LONELY)
    return fast_path


@pytest.fixture
def pages(path: Path) -> Pages:
    return Pages(path / DATA)


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    """It, opened to be read. Afterwards it is as it was."""
    with eventlog.open(path, clock=Clock(), read_only=True, durability=None) as log:
        sound = log.check()
        assert sound.ok
        yield log
        assert log.check() == sound


def contents(log: EventLog) -> list[Any]:
    """All that can be read."""
    found: list[Any] = []
    for topic in log.topics():
        for partition in range(topic.partitions):
            at, end = 0, topic.partition_info(partition).next_offset
            found.append((topic.name, partition, end))
            while at < end:
                events = topic.read(partition, at)
                found += [(event.offset, event.body) for event in events]
                at = events[-1].offset + 1
    return found


def still_reads(log: EventLog, expected: list[Any]) -> bool:
    try:
        return contents(log) == expected
    except (EventLogError, IndexError):
        return False


# ---- Any bit of any key --------------------------------------------------------------------------


def rows_of(leaves: list[Node], prefix: bytes) -> list[Node]:
    return [node for node in leaves if node.key.startswith(prefix)]


def batches(leaves: list[Node], partition: int) -> list[Node]:
    """Rows of a partition of the topic in the middle."""
    return rows_of(leaves, keys.encode_batch_key(CARS, partition, 0)[:7])


PLACES: dict[str, Callable[[list[Node]], Node]] = {
    "the first batch of a partition": lambda leaves: batches(leaves, SEVERAL)[0],
    "a batch in the middle": lambda leaves: batches(leaves, SEVERAL)[12],
    "the last batch of a partition": lambda leaves: batches(leaves, SINGLE)[-1],
    "the last batch before chunks": lambda leaves: batches(leaves, SEVERAL)[-1],
    "the first chunk of a last batch": lambda leaves: batches(leaves, LONG)[-3],
    "a chunk in the middle": lambda leaves: batches(leaves, LONG)[61],
    "the last chunk of a partition": lambda leaves: batches(leaves, LONG)[-1],
    "the only batch of a partition, the last of its topic": (
        lambda leaves: batches(leaves, LONELY)[0]
    ),
    "the first batch of the log": lambda leaves: leaves[0],
    "the last batch of the log": lambda leaves: rows_of(leaves, b"B")[-1],
    "the first row of a page": lambda leaves: next(n for n in leaves[1:] if not n.number),
    "the last row of a page": lambda leaves: next(
        before for before, node in itertools.pairwise(leaves) if not node.number
    ),
    "the log's record": lambda leaves: rows_of(leaves, b"L")[0],
    "a topic's record": lambda leaves: rows_of(leaves, b"Tcars")[0],
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_check_reports_every_flipped_bit_of_a_rows_key(
    log: EventLog, pages: Pages, place: Callable[[list[Node]], Node]
) -> None:
    node = place(pages.leaves)
    for bit in range(8 * len(node.key)):
        with pages.flipped((node.key_at + bit // 8, bit % 8)):
            assert not log.check().ok, bit


def random_bits(nodes: list[Node], count: int) -> Iterator[tuple[int, int]]:
    """Bits of keys: the byte in the file, and the bit."""
    source = random.Random(SEED)
    with_keys = [node for node in nodes if node.key]
    for node in source.choices(with_keys, k=count):
        yield node.key_at + source.randrange(len(node.key)), source.randrange(8)


def test_check_reports_a_flipped_bit_wherever_it_is_in_a_key(log: EventLog, pages: Pages) -> None:
    for bit in random_bits(pages.leaves, 600):
        with pages.flipped(bit):
            assert not log.check().ok, bit


def test_a_flipped_bit_in_what_leads_to_pages_is_reported_or_does_no_harm(
    log: EventLog, pages: Pages
) -> None:
    expected = contents(log)
    reported = 0
    for bit in random_bits(pages.branches, 600):
        with pages.flipped(bit):
            ok = log.check().ok
            assert not ok or still_reads(log, expected), bit
            reported += not ok
    assert reported > 300


def twin_bits(leaves: list[Node]) -> Iterator[tuple[int, int]]:
    """Bits that give a row the key of another."""
    there = {node.key for node in leaves}
    for node in leaves:
        for byte, bit in itertools.product(range(len(node.key)), range(8)):
            other = bytes([node.key[byte] ^ 1 << bit])
            if node.key[:byte] + other + node.key[byte + 1 :] in there:
                yield node.key_at + byte, bit


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_where_the_walk_pauses_makes_no_difference(
    log: EventLog, pages: Pages, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """It goes on by searching, in a tree where searches go astray."""
    twins = random.Random(SEED).sample(list(twin_bits(pages.leaves)), 80)
    for bit in [*random_bits(pages.nodes, 80), *twins]:
        with pages.flipped(bit), monkeypatch.context() as patched:
            at_once = log.check()
            patched.setattr(walk, "_ROWS_PER_TRANSACTION", rows)
            assert log.check() == at_once, bit


# ---- Typical findings ----------------------------------------------------------------------------


def check_with(log: EventLog, pages: Pages, key: bytes, byte: int, bit: int) -> CheckReport:
    """What check says while a bit of that row's key is flipped."""
    (node,) = [node for node in pages.leaves if node.key == key]
    with pages.flipped((node.key_at + byte, bit)):
        return log.check()


def test_a_last_batch_that_reading_misses_is_named(log: EventLog, pages: Pages) -> None:
    last = keys.encode_batch_key(CARS, SINGLE, 24)
    report = check_with(log, pages, last, 14, 3)  # offset 16
    reason = "a search does not find it where it stands"
    assert report.damaged == [("cars", SINGLE, 16, 16, reason)]
    assert report.events == log.check().events - 1


def test_a_last_batch_beyond_the_partitions_of_its_topic_is_named_by_its_key(
    log: EventLog, pages: Pages
) -> None:
    key = keys.encode_batch_key(CARS, LONELY, 0)
    (damage,) = check_with(log, pages, key, 6, 2).damaged  # partition 7
    there = keys.encode_batch_key(CARS, 7, 0).hex()
    assert damage == ("", -1, -1, -1, f"row {there}: topic 'cars' has no partition 7")


def test_rows_that_stand_side_by_side_are_told_together(log: EventLog, pages: Pages) -> None:
    """A record of a topic that is misplaced leaves all rows of that topic behind."""
    report = check_with(log, pages, b"Tz", 0, 0)  # Uz
    first = keys.encode_batch_key(3, 0, 0).hex()
    assert [damage.reason for damage in report.damaged] == [
        f"row {first}: there is no topic of number 3 (and 49 rows behind it)",
        "row 557a: its key begins with a letter that none has",
    ]


def test_a_chunk_that_lost_its_place_makes_one_finding(log: EventLog, pages: Pages) -> None:
    key = keys.encode_batch_key(CARS, LONG, 5, 1)
    (damage,) = check_with(log, pages, key, 16, 3).damaged  # chunk 9
    assert damage[:4] == ("cars", LONG, 3, 5)


def test_of_a_log_that_is_all_damage_a_part_is_told(
    log: EventLog, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "_MOST_FINDINGS", 2)
    bits = [(node.key_at, 6) for node in batches(pages.leaves, SEVERAL)[::2]]
    with pages.flipped(*bits):
        assert "rows more do not belong there" in log.check().damaged[2].reason


# ---- Rows that are gone, and pages that cannot be read -------------------------------------------


def u16(number: int) -> bytes:
    return number.to_bytes(2, sys.byteorder)


def test_a_row_that_is_gone_from_its_page_is_missed(log: EventLog, pages: Pages) -> None:
    """The last of a partition leaves no gap, but the tree knows how many rows it has."""
    gone = PLACES["the last batch of a partition"](pages.leaves)
    behind = [
        node for node in pages.leaves if node.page_at == gone.page_at and node.number > gone.number
    ]
    moved = [(node.pointer_at - 2, u16(pages.number(node.pointer_at))) for node in behind]
    with pages.changed(*moved, (gone.end_at, u16(pages.number(gone.end_at) - 2))):
        report = log.check()
    rows = len(pages.leaves)
    reason = f"the log: it should have {rows} rows, and {rows - 1} are found"
    assert report.damaged == [("", -1, -1, -1, reason)]
    assert report.events == log.check().events - 1


def test_rows_that_changed_places_are_reported(log: EventLog, pages: Pages) -> None:
    rows = batches(pages.leaves, SEVERAL)
    one, other = next(
        (a, b) for a, b in itertools.pairwise(rows) if a.page_at == b.page_at and a.number > 3
    )
    with pages.changed(
        (one.pointer_at, u16(pages.number(other.pointer_at))),
        (other.pointer_at, u16(pages.number(one.pointer_at))),
    ):
        assert ("cars", SEVERAL) in [damage[:2] for damage in log.check().damaged]


def ways_to_rows(pages: Pages) -> list[Node]:
    """What leads to pages of rows."""
    places = {node.page_at for node in pages.leaves}
    return [node for node in pages.branches if pages.page_of(node) in places]


def test_a_page_that_stands_in_place_of_another_is_reported(log: EventLog, pages: Pages) -> None:
    for node, other in itertools.pairwise(ways_to_rows(pages)):
        with pages.changed((node.at, u16(pages.number(other.at)))):
            assert not log.check().ok


def test_behind_a_page_that_is_not_there_check_goes_on_with_the_next_partition(
    log: EventLog, pages: Pages
) -> None:
    partition = keys.encode_batch_key(CARS, SEVERAL, 0)[:7]
    (node, *_) = [node for node in ways_to_rows(pages) if node.key.startswith(partition)]
    with pages.changed((node.at + 2, u16(2**15))):
        report = log.check()
    assert "PAGE_NOTFOUND" in " ".join(damage.reason for damage in report.damaged)
    assert ("cars", SEVERAL) in [damage[:2] for damage in report.damaged]
    assert report.rows > len(pages.leaves) // 2


def test_a_chunk_whose_page_is_not_there_makes_its_batch_damaged_and_no_other(
    log: EventLog, pages: Pages
) -> None:
    (node,) = rows_of(pages.leaves, keys.encode_batch_key(CARS, LONG, 5, 1))
    number_at = node.key_at + len(node.key)  # of the page with its value
    with pages.changed((number_at + 4, u16(1))):
        report = log.check()
        with pytest.raises(EventLogError):
            log.topic("cars").read(LONG, 3)
    assert ("cars", LONG, 3, 5) in [damage[:4] for damage in report.damaged]
    assert report.events == log.check().events - 3
