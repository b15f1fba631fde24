"""The bounded buffer of a `Producer`: one open parcel, and a queue of sealed ones behind it.

Events go into the open parcel; it is sealed when it is full, when its first event has waited long
enough, or when somebody waits for it, and is then taken in its turn by the thread that stores.

All this happens under one mutex, but for one thing: an event of the usual kind goes into the open
parcel without (`Producer.send`; taking a mutex costs more than the rest of it). That is safe since
CPython switches threads, like it runs signal handlers, only at calls and backward jumps:

* bytes of a parcel are taken with a load and a store and nothing between;
* a row is added to a batch with one operation, and whoever adds one looks afterwards whether the
  parcel was `taken` meanwhile; who takes it says so first, and counts rows then.

For the same reason Ctrl-C leaves nothing half done: what belongs together is stored without a call
in between. And whoever may be interrupted waits without the mutex: a condition of the standard
library, interrupted while it waits, may come back without it.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from typing import Final

from eventlog.checks import check_count, seconds
from eventlog.errors import BufferFullError
from eventlog.event import Key
from eventlog.log import Duration
from eventlog.producing import endings
from eventlog.producing.delivery import EVENT_BYTES, Parcel
from eventlog.producing.outlet import Outlet
from eventlog.waiting import Completion, on_event_loop

__all__ = ["ParcelBuffer"]

_MOST_BYTES: Final = 128 * 1024 * 1024
"""No parcel has more, whatever was asked for: it is stored with one durable write."""

_MOST_COMMIT_BYTES: Final = 16 * 1024 * 1024
"""Parcels of together as many bytes are stored with one durable write, if so many wait."""

_IDLE_SECONDS: Final = 1.0
"""How long the thread outlives its last work, so that a producer somebody forgot can go."""

_LATE_SECONDS: Final = 0.05
"""What has waited for so long is stored late; see `ParcelBuffer._let_store`."""

_PAUSE_SECONDS: Final = 0.0002
_BETWEEN_PAUSES: Final = 0.002
_EVENTS_BETWEEN_PAUSES: Final = 500

_pause: Final = time.sleep

_NO_PARCEL: Final = Parcel(0, 0, 0.0)
"""Stands for the open parcel where there is none: nothing fits in."""
_NO_PARCEL.left = -1


class ParcelBuffer:
    """What of a producer is about room and time."""

    def __init__(
        self,
        outlet: Outlet,
        *,
        linger: Duration,
        max_batch_events: int,
        max_batch_bytes: int,
        max_buffered_bytes: int,
    ) -> None:
        self._outlet = outlet
        self._linger = seconds(linger, "linger")
        self._max_events = check_count(max_batch_events, "max_batch_events", 2**31)
        self._max_bytes = min(check_count(max_batch_bytes, "max_batch_bytes", 2**40), _MOST_BYTES)
        self._most_buffered = check_count(max_buffered_bytes, "max_buffered_bytes", 2**40)
        self._start_empty()

    def _start_empty(self) -> None:
        self._mutex = threading.Lock()
        self._work = threading.Condition(self._mutex)  # only the thread that stores waits for it
        self._room: Completion[None] | None = None  # for all who wait for room
        self._refused = 0  # bytes of the largest event for which there was none
        self._places: dict[Key | None, int] = {}  # partitions of keys, for the short way
        self._turn: int | None = None  # the partition of what has no key
        self._partitions = self._outlet.partitions
        self._open = _NO_PARCEL
        self._sealed: deque[Parcel] = deque()
        self._under_way: list[Parcel] = []
        self._buffered_bytes = 0  # of sealed parcels without an outcome
        self._waits_since = math.inf  # when the first of them was sealed
        self._pause_after = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def _parcels(self) -> list[Parcel]:
        """All that are not done with, in the order they are stored."""
        last = [] if self._open is _NO_PARCEL else [self._open]
        return [*self._under_way, *self._sealed, *last]

    # Filling

    def _reserve(self, size: int, number: int) -> bool:
        """Have an open parcel, and `size` bytes of it; False if the buffer has no room for them."""
        parcel = self._open
        if number < len(parcel.batches) and self._take_bytes(parcel, size):
            return True
        self._seal()
        room = self._most_buffered - self._buffered_bytes
        if size > room and self._buffered_bytes:
            return False
        return self._take_bytes(self._begin_parcel(size, room, number), size)

    def _take_bytes(self, parcel: Parcel, size: int) -> bool:
        """Take bytes of a parcel, and let as many be taken the short way as may be."""
        left = parcel.left - size
        if left >= 0:
            parcel.left = left
            return True
        rest = parcel.rest + parcel.left
        parcel.left = 0
        parcel.rest = rest
        if size > rest:
            return False
        parcel.rest = rest = rest - size
        # An event of no more bytes is none that the topic refuses, and none that fills a batch.
        fewest = self._fewest_left(parcel)
        if self._is_late(time.monotonic()):
            fewest = min(fewest, _EVENTS_BETWEEN_PAUSES)
        short = min(rest, self._outlet.max_event_bytes + EVENT_BYTES, fewest * EVENT_BYTES)
        parcel.rest = rest - short
        parcel.left = short
        return True

    def _fewest_left(self, parcel: Parcel) -> int:
        """How many events may at least follow the next one without filling any batch."""
        most = parcel.used // EVENT_BYTES  # no batch has more
        if most > self._max_events // 2:
            most = 1 + max((batch.count for batch in parcel.filled), default=0)
        return max(self._max_events - 1 - most, 0)

    def _begin_parcel(self, size: int, room: int, number: int) -> Parcel:
        self._start_thread()
        parcel = Parcel(
            max(min(self._max_bytes, room), size),
            max(self._partitions, number + 1),
            time.monotonic() + self._linger,
        )
        self._work.notify()
        self._open = parcel
        return parcel

    def _seal(self) -> None:
        """Let nothing more into the open parcel; it is stored as soon as may be."""
        parcel = self._open
        if parcel is _NO_PARCEL:
            return
        self._work.notify()
        parcel.sealed_at = time.monotonic()
        # Without a call in between: it is open or it is sealed.
        if not self._buffered_bytes:
            self._waits_since = parcel.sealed_at
        size = parcel.most - parcel.rest - parcel.left
        parcel.left = -1
        parcel.bytes = size
        self._buffered_bytes += size
        self._sealed += (parcel,)
        self._open = _NO_PARCEL
        self._turn = None
        self._places.pop(None, None)
        if self._partitions != self._outlet.partitions:
            self._partitions = self._outlet.partitions
            self._places = {}

    # Room

    def ready(self) -> Completion[None]:
        """Wait for room in the buffer: ``await producer.ready()``.

        It is done at once, unless the buffer is full or an event was refused since it last was.
        """
        with self._mutex:
            room = self._most_buffered - self._buffered_bytes - self._open.used
            if room >= max(self._refused, 1):
                completion = Completion.of(None)
            else:
                self._seal()
                completion = self._next_room(0)
        return completion

    def _next_room(self, size: int) -> Completion[None]:
        """Done when there is room again; `size` are the bytes for which there was none."""
        self._refused = max(self._refused, size)
        if self._room is None or self._room.done:
            self._room = Completion()
        return self._room

    def _wait_for_room(self, room: Completion[None], until: float, size: int) -> None:
        """Wait, without the mutex, until there may be room.

        Raises:
            BufferFullError: it is `until` by the monotonic clock; or the caller must not wait.
        """
        left = until - time.monotonic()
        if left <= 0 or on_event_loop() or self._is_own_thread():
            raise BufferFullError(
                f"the producer of topic {self._outlet.name!r} has {self._buffered_bytes:,} of "
                f"{self._most_buffered:,} bytes buffered: no room for {size:,} more"
            )
        with contextlib.suppress(TimeoutError):
            room.result(left)

    # Emptying: the thread

    def _is_late(self, now: float) -> bool:
        """Whether something has waited for long to be stored."""
        return now - self._waits_since > _LATE_SECONDS

    def _let_store(self) -> None:
        """If the thread that stores is late, pause for a moment now and then.

        A thread that waits for the interpreter gets it after 5 ms, and so the thread that stores
        gets on while others are busy. Unless these often let go of the interpreter for a moment, as
        reading a file or a socket does: then CPython lets who waits begin to wait anew each time,
        and it may wait for seconds.
        """
        now = time.monotonic()
        if now >= self._pause_after and self._is_late(now):
            self._pause_after = now + _BETWEEN_PAUSES
            _pause(_PAUSE_SECONDS)

    def _is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _start_thread(self) -> None:
        if self._thread is None:
            name = f"eventlog-producer-{self._outlet.name}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            endings.watch_worker()
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        raise NotImplementedError

    def _take(self) -> list[Parcel]:
        """Wait for what is to be stored next; nothing if the thread is to end."""
        with self._mutex:
            if not self._is_own_thread():
                return []  # Ctrl-C came when it was started, and another was; or this is a child
            self._under_way = []
            while not self._sealed:
                if self._open is _NO_PARCEL:
                    if not self._work.wait(_IDLE_SECONDS) and not self._parcels():
                        self._thread = None
                        return []
                elif (left := self._open.deadline - time.monotonic()) > 0:
                    self._work.wait(min(left, threading.TIMEOUT_MAX))
                else:
                    self._seal()
            size = 0
            while self._sealed and (not size or size + self._sealed[0].bytes <= _MOST_COMMIT_BYTES):
                parcel = self._sealed[0]
                size += parcel.bytes
                parcel.take()
                self._under_way.append(parcel)
                self._sealed.popleft()  # last: who forks must find it
            return list(self._under_way)

    def _settled(self, parcels: list[Parcel]) -> Completion[None] | None:
        """They have their outcome: there is room again. Who is to be told that there is."""
        for parcel in parcels:
            parcel.settled = True
            self._buffered_bytes -= parcel.bytes
        self._waits_since = self._sealed[0].sealed_at if self._sealed else math.inf
        if self._buffered_bytes > self._most_buffered // 2:
            return None
        self._refused = 0
        room, self._room = self._room, None
        return room
