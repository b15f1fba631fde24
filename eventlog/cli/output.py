"""Standard output, in bytes: what a verb prints goes through here and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any

import msgspec

__all__ = ["announce", "finish", "flush", "is_terminal", "write", "write_json", "write_line"]


def is_terminal() -> bool:
    """Whether a person is looking."""
    return sys.stdout is not None and sys.stdout.isatty()


def write(data: bytes) -> None:
    """Write `data` as it is.

    Raises:
        BrokenPipeError: nobody reads any more.
        OSError: it cannot be written.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed", "standard output")
    try:
        sys.stdout.buffer.write(data)
    except OSError as error:
        raise _named(error) from error


def write_line(text: str) -> None:
    """Write `text` and a newline, in UTF-8 whatever the locale."""
    write(f"{text}\n".encode())


def write_json(value: Any) -> None:
    """Write one JSON document, indented."""
    write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def announce(text: str) -> None:
    """Tell a person that something was done; a program sees the exit code."""
    if is_terminal():
        write_line(text)


def flush() -> None:
    """Hand over what was written.

    Raises:
        OSError: see `write`.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _named(error) from error


def finish() -> None:
    """Before the process exits: where output cannot be delivered, let Python not try again.

    It would flush once more on its way out, print what it thinks of that, and change the exit
    code.
    """
    try:
        flush()
    except OSError:
        with contextlib.suppress(OSError):
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, sys.stdout.fileno())
            os.close(descriptor)


def _named(error: OSError) -> OSError:
    """`error` with the name of what failed; the number keeps its class."""
    return OSError(error.errno, error.strerror, "standard output")
