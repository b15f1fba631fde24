"""Lines come whole, numbered and in bounded memory, however the stream is cut."""

from __future__ import annotations

import io
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.cli.input_lines import InputError, numbered_lines


@given(st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"\r\n", b"\n\nd", b"\x00"]), max_size=20))
def test_how_a_stream_is_cut_does_not_matter(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    pieces = iter(chunks)
    lines = list(numbered_lines(lambda: next(pieces, b""), 1000))
    assert lines == list(enumerate(expected, start=1))


def test_nothing_is_read_before_the_lines_already_read_were_taken() -> None:
    reads: list[int] = []

    def read() -> bytes:
        reads.append(len(reads))
        return b"x\ny\n"

    lines = numbered_lines(read, 10)
    assert [next(lines) for _ in range(4)] == [(1, b"x"), (2, b"y"), (3, b"x"), (4, b"y")]
    assert len(reads) == 2


def test_a_stream_without_newlines_is_not_gathered_for_ever() -> None:
    reads = count()

    def read() -> bytes:
        next(reads)
        return bytes(100)

    with pytest.raises(InputError, match=r"line 1: it is longer than the 1,000 bytes"):
        next(numbered_lines(read, 1000))
    assert next(reads) == 11


def test_a_line_may_be_as_long_as_is_allowed_and_no_longer() -> None:
    lines = numbered_lines(io.BytesIO(b"12345\n123456\n").read, 5)
    assert next(lines) == (1, b"12345")
    with pytest.raises(InputError, match="line 2: "):
        next(lines)


def test_a_stream_that_fails_says_behind_which_line() -> None:
    chunks = iter([b"a\nb\nhalf"])

    def read() -> bytes:
        for chunk in chunks:
            return chunk
        raise OSError(5, "Input/output error")

    lines = numbered_lines(read, 10)
    assert [next(lines), next(lines)] == [(1, b"a"), (2, b"b")]
    with pytest.raises(InputError, match="behind line 2: Input/output error"):
        next(lines)
