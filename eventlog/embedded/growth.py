"""The file of an environment grows ahead of what is stored in it.

LMDB makes its file longer page by page, as it writes. A durable write is slower while that
happens: the file system allocates and journals. So small commits find the file already longer,
with zeroes written where they will go; writing them costs less than it saves, since it is done a
megabyte at a time (measured: 1000-event batches 10 to 17 % faster). A large commit would pay more
for zeroes than it saves; for it the blocks are only allocated.

The end of the file is also a reserve against a full disk: an append that would leave less than
`RESERVE_PAGES` behind the last page used is refused, so that expiring and deleting, which need a
few pages before they free any, go on working.

Only with the log's write lock held: what is behind the last page is nobody's then.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["RESERVE_PAGES", "Growth"]

RESERVE_PAGES: Final = 64
_LEAST_STEP_BYTES: Final = 256 * 1024
_MOST_STEP_BYTES: Final = 1024 * 1024
_MOST_ZEROED_PAGES: Final = 64


class Growth:
    """Keeps the file of one environment longer than it need be.

    Args:
        zeroing: write zeroes ahead, for a log whose commits wait for the disk.
    """

    def __init__(self, path: Path, page_bytes: int, *, zeroing: bool) -> None:
        self._zeroing = zeroing
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._page_bytes = page_bytes
        self._end = 0  # the file is at least as long

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def provide(self, last_page: int, pages: int) -> None:
        """Have room in the file for a commit that adds `pages` behind `last_page`.

        The file's length is asked for only where it may not do: a look at it makes the next write
        dearer on kernels with fine-grained time stamps (50 microseconds a commit, measured).

        Raises:
            OSError: there is no room on the disk.
        """
        needed = (last_page + 1 + pages + RESERVE_PAGES) * self._page_bytes
        if needed <= self._end:
            return
        end = os.fstat(self._file).st_size
        if needed > end:
            if self._zeroing and pages <= _MOST_ZEROED_PAGES:
                end = self._write_zeroes(end, needed)
            else:
                os.posix_fallocate(self._file, end, needed - end)
                end = needed
        self._end = end

    def _write_zeroes(self, end: int, needed: int) -> int:
        """Lengthen the file from `end` to at least `needed`; its new end."""
        step = min(max(end // 16, _LEAST_STEP_BYTES), _MOST_STEP_BYTES)
        goal = -(-max(needed, end + step) // self._page_bytes) * self._page_bytes
        while end < needed:
            try:
                end += os.pwrite(self._file, bytes(goal - end), end)
            except OSError:
                if goal == needed:
                    raise
                goal = needed  # the disk is nearly full: what is needed may still fit
        return end
