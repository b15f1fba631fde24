"""What strace wrote down: the system calls of a run."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.crash.power.operations import NEVER, RecordingError

WRITES: Final = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
SYNCS: Final = ("fsync", "fdatasync", "sync", "syncfs")
CLONES: Final = ("clone", "clone3", "fork", "vfork")
_PATHS: Final = (
    *("open", "openat", "openat2", "creat", "truncate", "mkdir", "mkdirat", "rmdir", "unlink"),
    *("unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "chdir"),
)
_DESCRIPTORS: Final = (
    *("close", "dup", "dup2", "dup3", "fcntl", "lseek", "read", "readv", "ftruncate", "fallocate"),
    *("fchdir", "mmap", "ioctl", "sendfile", "copy_file_range", "splice"),
)
UNSEEN: Final = ("io_uring_setup", "io_submit", "open_by_handle_at")
_TRACED: Final = (*WRITES, *SYNCS, *CLONES, *_PATHS, *_DESCRIPTORS, *UNSEEN)

# -xx: strings and paths in hexadecimal, so that no byte of theirs is mistaken for syntax. -y: the
# path behind every descriptor. -s: whole strings; a longer one is noticed and refused. The question
# marks: not every machine has every call.
STRACE: Final = (
    *("strace", "-f", "-qq", "-y", "-xx", "-s", str(1 << 24), "--seccomp-bpf"),
    *("-e", "signal=none", "-e", "trace=" + ",".join(f"?{name}" for name in _TRACED)),
)

_LINE: Final = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)", re.DOTALL)
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
DESCRIPTOR: Final = re.compile(r"(\d+)<([^>]*)>")
PLACE: Final = re.compile(
    r'(?:(?:AT_FDCWD|\d+)(?:<([^>]*)>)?(?:\(deleted\))?, )?"((?:\\x[0-9a-f]{2})*)"'
)
_UNFINISHED: Final = "<unfinished ...>"


@dataclass
class Opened:
    """An open file description: what duplicates and children of a descriptor share."""

    node: int
    append: bool
    synced: bool
    position: int = 0


@dataclass(eq=False)
class Call:
    """One system call.

    strace lets a call run after it has noted its begin, and notes its end after it has returned. So
    a write whose end stands before the begin of a sync was in the page cache before that sync ran.
    """

    thread: int
    name: str
    begin: int
    arguments: str
    end: int = NEVER
    result: str = "?"
    path: str | None = None  # behind its descriptor, if that is one of ours
    opened: Opened | None = None

    def finish(self, rest: str, moment: int) -> None:
        """Adds the rest of the line, and what was returned."""
        arguments, _, self.result = (self.arguments + rest).rpartition(" = ")
        self.arguments = arguments.rstrip().removesuffix(")").replace(_UNFINISHED, "").rstrip()
        self.end = moment if self.value is not None else NEVER

    @functools.cached_property
    def value(self) -> int | None:
        """What it returned; None if the process ended inside it; -1 if it is to be restarted."""
        if self.result.startswith("?"):
            return None if self.result.strip() == "?" else -1
        return int(self.result.split()[0].partition("<")[0], 0)

    @functools.cached_property
    def data(self) -> bytes:
        """The bytes that a call of the `write` family wrote."""
        data = b"".join(map(unhex, _STRING.findall(self.arguments)))
        if self.value is not None and self.value > len(data):
            raise RecordingError(
                f"{self.name} of {self.value} bytes: only {len(data)} were recorded"
            )
        return data[: self.value]

    @property
    def offset(self) -> int | None:
        """Where a call of the `write` family writes; None at the descriptor's position."""
        if self.name in ("write", "writev"):
            return None
        _, _, tail = self.arguments.rpartition("]" if "v" in self.name else '"')
        offset = int(tail.split(", ")[2], 0)
        return None if offset == -1 else offset


def read_calls(trace: Path) -> list[Call]:
    """Reads a trace. What never returned is among its calls; what strace says besides is not."""
    calls: list[Call] = []
    running: dict[int, Call] = {}
    with trace.open(encoding="ascii") as lines:
        for number, line in enumerate(lines):
            if (match := _LINE.match(line.rstrip("\n"))) is None:
                continue
            thread, resumed, name, rest = int(match[1]), match[2], match[3], match[4]
            if not resumed:
                running[thread] = Call(thread, name, 2 * number, "")
                calls.append(running[thread])
            if rest.endswith(_UNFINISHED):
                running[thread].arguments += rest.removesuffix(_UNFINISHED).rstrip()
            else:
                running.pop(thread).finish(rest, 2 * number + 1)
    return calls


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else os.fsencode(text)
