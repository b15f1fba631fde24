"""Lines of a stream as they come, in bounded memory, each with its number."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from eventlog.cli.failures import describe

__all__ = ["InputError", "numbered_lines"]


class InputError(Exception):
    """Input that cannot be taken; the message says which line."""


def numbered_lines(read: Callable[[], bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream and their numbers from 1; the newline is not part of a line.

    A last line need not end in a newline. Nothing is read before the lines already read were
    taken.

    Args:
        read: gives some more bytes, as many as it likes; none at the end.
        longest: bytes a line may have; what has no newline for longer is not gathered.

    Raises:
        InputError: a line is longer, or `read` failed.
    """
    number = 0
    begun: list[bytes] = []  # the line whose end has not come yet, in pieces
    length = 0
    while chunk := _read(read, number):
        *ended, rest = chunk.split(b"\n")
        if ended:
            ended[0] = b"".join([*begun, ended[0]])
            begun, length = [], 0
        for line in ended:
            number += 1
            _check_length(number, len(line), longest)
            yield number, line
        begun.append(rest)
        length += len(rest)
        _check_length(number + 1, length, longest)
    if length:
        yield number + 1, b"".join(begun)


def _read(read: Callable[[], bytes], number: int) -> bytes:
    try:
        return read()
    except OSError as error:
        raise InputError(f"reading behind line {number}: {describe(error)}") from error


def _check_length(number: int, length: int, longest: int) -> None:
    if length > longest:
        raise InputError(
            f"line {number}: it is longer than the {longest:,} bytes that the topic's "
            "max_event_bytes allows"
        )
