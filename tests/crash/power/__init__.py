"""Power cuts: record what a program writes, then rebuild every state a cut may leave on the disk.

    history = record(program(SOURCE, directory), directory)
    check_states(history, checker(CHECK)).require_ok()

A *history* is the ordered list of operations that reached one directory: writes, resizes, namings
(create, link, rename, unlink, mkdir, rmdir), syncs, and acknowledgements. It is recorded with
strace, so the program needs no hooks and may have threads and child processes. A *moment* is a
place in that order. Every operation has two of them: it may have had its effect from `begin` on,
and has surely had it by `end`. A *cut* is a moment before which the power fails; a *state* is one
of the directories that a cut may leave.

Acknowledgements. The program says what it has promised by appending whole lines to the file that
the environment variable POWER_ACK names (`program` gives it a function `acknowledge(text)`). That
file lies outside the directory and in the same trace. A promise counts from the `begin` of its
write: whoever is told may act at once.

The model. A cut may leave more than any one file system leaves, so that what passes here leans on
none:

1. A sync (fsync, fdatasync, syncfs, sync) that returned covers what had *ended before it began*,
   through whatever descriptor; an O_DSYNC or O_SYNC write covers itself alone. What is covered is
   certain. Of all else that began before the cut, anything may be there and anything missing.
2. The unit is the *grain*: a sector (512 bytes, the default) or a page (4096). A grain holds what
   the page cache held after some one of the writes to it, not older than the newest certain one,
   and each grain chooses by itself. So writes are lost, reordered and torn. But a grain never mixes
   two moments: it does not hold a write *without* an earlier one, which no page cache can produce;
   nor half of a write, which LMDB relies on for its meta pages.
3. A file's size is chosen by itself, between the certain one and the largest written, whether or
   not the bytes came along; what is missing below it reads as zeroes. A file shrinks before what
   is written to it later.
4. Namings persist in order within one directory, and only a sync of that directory makes them
   certain. Directories are independent; a rename over two of them is one step in both.
5. The directory itself, and whatever was in it when the recording began, is certain.

ext4 does more than 4: its journal keeps all namings of the file system in one order, an fsync of a
new file also commits its name, and `auto_da_alloc` flushes a file renamed over another. It does
more than 3: with data=ordered a file does not grow before its bytes are there. None of that is
granted.

What it does not do. Stores through a shared writable mapping are invisible: to map a file that
`shared_maps` does not allow is an error, and the bytes of an allowed one (LMDB's lock file) come
out empty, zeroed or as the program left them. msync and sync_file_range promise nothing, so they
are not looked at. Modes, owners, times and extended attributes are not kept. Symbolic links,
O_TMPFILE, hole punching, copies made by the kernel, exchanging renames, asynchronous I/O and
descriptors sent through sockets are errors. What nobody foresaw is found at the end: the replayed
history must equal the directory byte for byte, or `record` fails. Sectors that the disk damages,
and disks that lie about a sync, are beyond it.

The parts: `operations` has the nouns; `disk` the model, `choices` what a cut picks of it, `history`
both together. `recording` runs programs, `calls` reads what strace wrote, `replay` makes a history
of it. `judging` has the states opened.
"""

from __future__ import annotations

from tests.crash.power.choices import SEED_VARIABLE, choose_seed
from tests.crash.power.disk import Outcome
from tests.crash.power.history import History, State
from tests.crash.power.judging import Answer, Failure, Judge, Report, check_states, checker, lost
from tests.crash.power.operations import (
    NEVER,
    PAGE,
    ROOT,
    SECTOR,
    Ack,
    Change,
    Naming,
    Operation,
    RecordingError,
    Resize,
    SharedMap,
    Sync,
    Tree,
    Write,
)
from tests.crash.power.recording import (
    ACK_VARIABLE,
    SHARED_MAPS,
    available,
    program,
    record,
    skip_unless_available,
)

__all__ = [
    "ACK_VARIABLE",
    "NEVER",
    "PAGE",
    "ROOT",
    "SECTOR",
    "SEED_VARIABLE",
    "SHARED_MAPS",
    "Ack",
    "Answer",
    "Change",
    "Failure",
    "History",
    "Judge",
    "Naming",
    "Operation",
    "Outcome",
    "RecordingError",
    "Report",
    "Resize",
    "SharedMap",
    "State",
    "Sync",
    "Tree",
    "Write",
    "available",
    "check_states",
    "checker",
    "choose_seed",
    "lost",
    "program",
    "record",
    "skip_unless_available",
]
