"""From the system calls of a run to a history."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from tests.crash.power.calls import (
    CLONES,
    DESCRIPTOR,
    PLACE,
    SYNCS,
    UNSEEN,
    WRITES,
    Call,
    Opened,
    unhex,
)
from tests.crash.power.disk import overlay
from tests.crash.power.history import History
from tests.crash.power.operations import (
    NEVER,
    ROOT,
    Ack,
    Entry,
    Naming,
    Operation,
    RecordingError,
    Resize,
    SharedMap,
    Sync,
    Tree,
    Write,
)


@dataclass
class _Process:
    opened: dict[int, Opened]
    directory: str


class Replay:
    """Runs the calls of a trace again on a model of the directory, and notes the operations.

    A call takes effect here when it has returned; only descriptors are looked up, given to children
    and closed when it begins, as the kernel does.
    """

    def __init__(
        self,
        root: Path,
        ack: Path,
        shared_maps: Sequence[str],
        before: Tree,
        truth: Mapping[int, bytes],
    ) -> None:
        self._root = str(root)
        self._ack = str(ack)
        self._shared_maps = shared_maps
        self._before = before
        self._truth = truth
        self._contents = {number: bytearray(data) for number, data in before.files.items()}
        self._directories = {number: dict(names) for number, names in before.directories.items()}
        self._numbers = itertools.count(len(self._contents) + len(self._directories))
        self._processes: dict[int, _Process] = {}
        self._writing: list[Call] = []  # begun, and not yet given a place in the file
        self._unsure: set[int] = set()  # files with a write that never returned
        self._operations: list[Operation] = []
        self._handlers = self._handler_table()
        self._start = str(Path.cwd())  # where the program was started

    def run(self, calls: Iterable[Call]) -> None:
        """Replays all calls.

        Raises:
            RecordingError: one of them did something to the directory that is not modelled.
        """
        events = [(moment, call) for call in calls for moment in (call.begin, call.end)]
        for moment, call in sorted(events, key=lambda event: event[0]):
            if moment == call.begin:
                self._begin(call)
            elif call.value is None or call.value >= 0:
                self._handlers.get(call.name, _ignore)(call)
            elif call in self._writing:
                self._writing.remove(call)

    def difference(self, after: Tree) -> str | None:
        """Where the replayed directory and the real one differ, in words."""
        mine = Tree({n: bytes(data) for n, data in self._contents.items()}, self._directories)
        numbers, real = mine.paths(), after.contents()
        if numbers.keys() != real.keys():
            return f"only one of the two has {sorted(numbers.keys() ^ real.keys())}"
        unknown = self._unsure | self._maps()
        for path, number in numbers.items():
            if number not in unknown and mine.files.get(number) != real[path]:
                return f"{path} has other bytes"
        return None

    def truth(self, after: Tree) -> dict[int, bytes]:
        """The real bytes of the files that still have a name, by number."""
        real = after.contents()
        numbers = Tree({}, self._directories).paths()
        return {n: data for path, n in numbers.items() if (data := real.get(path)) is not None}

    def history(self, after: Tree) -> History:
        """What was noted, its moments counted from 1 without gaps."""
        ends = {each.end for each in self._operations} - {NEVER}
        moments = sorted(ends | {each.begin for each in self._operations})
        rank = {moment: place for place, moment in enumerate(moments, 1)} | {NEVER: NEVER}
        operations = [replace(o, begin=rank[o.begin], end=rank[o.end]) for o in self._operations]
        truth = self.truth(after)
        maps = {number: truth.get(number, b"") for number in self._maps()}
        return History(tuple(operations), self._before, maps)

    def _maps(self) -> set[int]:
        return {each.file for each in self._operations if isinstance(each, SharedMap)}

    def _handler_table(self) -> dict[str, Callable[[Call], None]]:
        table: dict[Callable[[Call], None], Sequence[str]] = {
            self._write: WRITES,
            self._sync: SYNCS,
            self._open: ("open", "openat", "openat2", "creat"),
            self._truncate: ("truncate",),
            self._ftruncate: ("ftruncate",),
            self._allocate: ("fallocate",),
            self._mkdir: ("mkdir", "mkdirat"),
            self._unlink: ("unlink", "unlinkat", "rmdir"),
            self._rename: ("rename", "renameat", "renameat2"),
            self._link: ("link", "linkat"),
            self._chdir: ("chdir", "fchdir"),
            self._duplicate: ("dup", "dup2", "dup3"),
            self._control: ("fcntl", "ioctl"),
            self._move: ("lseek", "read", "readv"),
            self._map: ("mmap",),
            self._copy: ("sendfile", "copy_file_range", "splice"),
            self._refuse: UNSEEN,
        }
        return {name: handler for handler, names in table.items() for name in names}

    # -- processes and descriptors

    def _begin(self, call: Call) -> None:
        process = self._process(call)
        if call.name in CLONES:
            self._spawn(process, call)
            return
        match = DESCRIPTOR.match(call.arguments)
        if match is None:
            return
        descriptor, path = int(match[1]), self._ours(match[2])
        if path is not None:
            call.path, call.opened = path, process.opened.get(descriptor)
            if call.opened is None:
                raise RecordingError(f"{call.name} of {path}: its descriptor came by a way unseen")
        if call.name in WRITES and call.opened is not None:
            self._writing.append(call)
        elif call.name == "close":
            process.opened.pop(descriptor, None)

    def _process(self, call: Call) -> _Process:
        return self._processes.setdefault(call.thread, _Process({}, self._start))

    def _spawn(self, parent: _Process, call: Call) -> None:
        # The child's first calls may stand in the trace before the parent's clone returns.
        if call.value is not None and call.value > 0:
            shared = "CLONE_FILES" in call.arguments
            child = parent if shared else _Process(dict(parent.opened), parent.directory)
            self._processes[call.value] = child

    def _ours(self, text: str) -> str | None:
        """The path that strace shows behind a descriptor, if it concerns us."""
        path = os.fsdecode(unhex(text)).removesuffix(" (deleted)")
        return path if path == self._ack or self._below(path) else None

    def _below(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    def _open(self, call: Call) -> None:
        shown = DESCRIPTOR.match(call.result)
        path = self._ours(shown[2]) if shown else None
        descriptor = call.value
        if descriptor is None:
            return
        opened = self._process(call).opened
        opened.pop(descriptor, None)
        if path is None:
            return
        flags = set(re.findall(r"O_\w+", call.arguments))
        if "O_TMPFILE" in flags or call.result.endswith("(deleted)"):
            raise RecordingError(f"{path} was opened without a name: not modelled")
        node = self._node(path, call)
        if ("O_TRUNC" in flags or call.name == "creat") and self._contents.get(node):
            self._resize(call, node, 0)
        synced = bool(flags & {"O_DSYNC", "O_SYNC", "O_RSYNC"})
        opened[descriptor] = Opened(node, "O_APPEND" in flags, synced)

    def _node(self, path: str, call: Call) -> int:
        """The file at `path`, which the call has just created if nobody knew it."""
        if path == self._ack:
            return -1
        if (node := self._find(path)) is not None:
            return node
        node = next(self._numbers)
        self._contents[node] = bytearray()
        self._name(call, "create", (*self._entry(path), node))
        return node

    def _duplicate(self, call: Call) -> None:
        opened = self._process(call).opened
        if call.value is not None:
            opened.pop(call.value, None)
            if call.opened is not None:
                opened[call.value] = call.opened

    def _control(self, call: Call) -> None:
        if "F_DUPFD" in call.arguments:
            self._duplicate(call)
        elif "F_SETFL" in call.arguments and call.opened is not None:
            call.opened.append = "O_APPEND" in call.arguments
        elif "CLONE" in call.arguments and call.opened is not None:
            self._refuse(call)

    def _move(self, call: Call) -> None:
        if call.opened is not None and call.value is not None:
            seek = call.name == "lseek"
            call.opened.position = call.value if seek else call.opened.position + call.value

    def _chdir(self, call: Call) -> None:
        place = DESCRIPTOR.match(call.arguments)
        path = os.fsdecode(unhex(place[2])) if place else self._places(call)[0]
        self._process(call).directory = path

    # -- bytes

    def _write(self, call: Call) -> None:
        if call.opened is None:
            return
        if call.path == self._ack:
            self._writing.remove(call)
            self._promise(call)
        while call in self._writing:
            self._put(self._next_writer(call))

    def _next_writer(self, call: Call) -> Call:
        """Of the writes in flight to one moving place, the one whose bytes are there in the end."""
        truth = self._truth.get(call.opened.node) if call.opened else None
        if truth is None or not self._moving(call):
            return call
        end = self._end(call)
        rivals = (each for each in self._writing if self._same_place(each, call))
        fitting = (each for each in (call, *rivals) if truth.startswith(each.data, end))
        return next(fitting, call)

    def _moving(self, call: Call) -> bool:
        return self._appends(call) or call.offset is None

    def _appends(self, call: Call) -> bool:
        # Linux appends with pwrite as well, whatever the offset.
        return call.opened is not None and (call.opened.append or "RWF_APPEND" in call.arguments)

    def _same_place(self, one: Call, other: Call) -> bool:
        if one.opened is None or other.opened is None or not self._moving(one):
            return False
        if one.value is not None and one.value <= 0:
            return False
        if self._appends(one) and self._appends(other):
            return one.opened.node == other.opened.node
        return one.opened is other.opened

    def _end(self, call: Call) -> int:
        """Where a write goes now."""
        assert call.opened is not None
        if self._appends(call):
            return len(self._contents[call.opened.node])
        return call.opened.position if call.offset is None else call.offset

    def _put(self, call: Call) -> None:
        self._writing.remove(call)
        opened = call.opened
        assert opened is not None
        offset, relative = self._end(call), call.offset is None
        synced = opened.synced or "RWF_DSYNC" in call.arguments or "RWF_SYNC" in call.arguments
        if not call.data:
            return
        write = Write(call.begin, call.end, opened.node, offset, call.data, synced)
        self._operations.append(write)
        if call.value is None:
            self._unsure.add(opened.node)
        else:
            overlay(self._contents[opened.node], write, (offset, write.stop), ())
            opened.position = write.stop if relative else opened.position

    def _promise(self, call: Call) -> None:
        if not call.data.endswith(b"\n"):
            raise RecordingError(f"not whole lines were acknowledged: {call.data!r}")
        for line in call.data.decode().removesuffix("\n").split("\n"):
            self._operations.append(Ack(call.begin, call.end, line))

    def _resize(self, call: Call, node: int, size: int) -> None:
        content = self._contents[node]
        self._operations.append(Resize(call.begin, call.end, node, len(content), size))
        del content[size:]
        content.extend(bytes(size - len(content)))

    def _truncate(self, call: Call) -> None:
        path = self._places(call)[0]
        if self._below(path) and call.value is not None:
            node = self._find(path)
            if node is None:
                raise RecordingError(f"truncate of {path}, which nobody created")
            self._resize(call, node, int(call.arguments.rpartition(", ")[2]))

    def _ftruncate(self, call: Call) -> None:
        if call.opened is not None and call.value is not None:
            self._resize(call, call.opened.node, int(call.arguments.rpartition(", ")[2]))

    def _allocate(self, call: Call) -> None:
        if call.opened is None or call.value is None:
            return
        mode, offset, length = call.arguments.rsplit(", ", 3)[1:]
        if mode not in ("0", "FALLOC_FL_KEEP_SIZE"):
            self._refuse(call)
        size = int(offset) + int(length)
        if mode == "0" and size > len(self._contents[call.opened.node]):
            self._resize(call, call.opened.node, size)

    def _sync(self, call: Call) -> None:
        if call.name in ("sync", "syncfs"):
            if call.name == "sync" or call.opened is not None:
                self._operations.append(Sync(call.begin, call.end, None))
        elif call.opened is not None:
            self._operations.append(Sync(call.begin, call.end, call.opened.node))

    def _map(self, call: Call) -> None:
        flags = call.arguments
        mapped = DESCRIPTOR.search(flags)
        if mapped is None or "PROT_WRITE" not in flags or "MAP_SHARED" not in flags:
            return
        path = self._ours(mapped[2])
        opened = self._process(call).opened.get(int(mapped[1]))
        if path is None or opened is None:
            return
        if not any(fnmatch.fnmatch(Path(path).name, pattern) for pattern in self._shared_maps):
            raise RecordingError(
                f"{path} is mapped shared and writable: what is stored cannot be seen"
            )
        self._operations.append(SharedMap(call.begin, call.end, opened.node))

    def _copy(self, call: Call) -> None:
        shown = DESCRIPTOR.findall(call.arguments)
        target = shown[0] if call.name == "sendfile" else shown[-1]
        if call.value and self._ours(target[1]) is not None:
            self._refuse(call)

    def _refuse(self, call: Call) -> NoReturn:
        raise RecordingError(f"{call.name} {call.path or ''}: its effect cannot be recorded")

    # -- names

    def _places(self, call: Call) -> list[str]:
        """The paths among the arguments, absolute, without following links."""
        base = self._process(call).directory
        places = PLACE.findall(call.arguments)
        joined = (Path(base, os.fsdecode(unhex(at)), os.fsdecode(unhex(p))) for at, p in places)
        return [os.path.normpath(path) for path in joined]

    def _find(self, path: str) -> int | None:
        """What `path` names."""
        node: int | None = ROOT
        for name in path.removeprefix(self._root).strip("/").split("/"):
            if name and node is not None:
                node = self._directories.get(node, {}).get(name)
        return node

    def _entry(self, path: str) -> tuple[int, str]:
        """The directory that holds `path`, and its name in there."""
        parent, _, name = path.rpartition("/")
        directory = self._find(parent) if self._below(parent) else None
        if directory is None or directory not in self._directories:
            raise RecordingError(
                f"{path}: nobody made the directory it is in, or it is the one recorded"
            )
        return directory, name

    def _name(self, call: Call, kind: str, *entries: Entry) -> None:
        self._operations.append(Naming(call.begin, call.end, kind, entries))
        for directory, name, node in entries:
            if node is None:
                self._directories[directory].pop(name, None)
            else:
                self._directories[directory][name] = node

    def _mkdir(self, call: Call) -> None:
        path = self._places(call)[0]
        if self._below(path) and call.value is not None:
            node = next(self._numbers)
            self._name(call, "mkdir", (*self._entry(path), node))
            self._directories[node] = {}

    def _unlink(self, call: Call) -> None:
        path = self._places(call)[0]
        if self._below(path) and call.value is not None:
            self._name(call, "unlink", (*self._entry(path), None))

    def _rename(self, call: Call) -> None:
        pair = self._inner_pair(call)
        if pair is None:
            return
        if "RENAME_EXCHANGE" in call.arguments or "RENAME_WHITEOUT" in call.arguments:
            self._refuse(call)
        source, target = pair
        node = self._find(source)
        if node is not None and node != self._find(target):
            self._name(call, "rename", (*self._entry(source), None), (*self._entry(target), node))

    def _link(self, call: Call) -> None:
        pair = self._inner_pair(call)
        if pair is not None:
            source, target = pair
            if (node := self._find(source)) is None:
                self._refuse(call)
            self._name(call, "link", (*self._entry(target), node))

    def _inner_pair(self, call: Call) -> tuple[str, str] | None:
        """Both paths of a call, if they lie in the directory."""
        source, target = self._places(call)
        inside = self._below(source), self._below(target)
        if any(inside) and not all(inside):
            raise RecordingError(
                f"{call.name} of {source} to {target} crosses the directory's border"
            )
        return (source, target) if all(inside) and call.value is not None else None


def _ignore(call: Call) -> None:
    """Calls that only matter when they begin, or not at all."""
