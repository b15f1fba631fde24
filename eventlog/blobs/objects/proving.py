"""Whether a server looks at conditions, found out by an object of its own.

There are servers that speak the protocol and ignore ``If-Match``, or know it for puts and not for
deletes. They answer everything with success, and lose updates in silence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from eventlog.errors import PreconditionFailedError

__all__ = ["find_ignored"]


def find_ignored(
    mark: str | None,
    *,
    create: Callable[[], object],
    replace: Callable[[str], object],
    delete: Callable[[str], object],
    is_there: Callable[[], bool],
) -> str | None:
    """What the server does wrong with an object that is there; None if nothing. It is gone then.

    Three requests that are to be refused, at the same time, and one that is not: four in all.

    Args:
        mark: that of the object.
        create: puts it where there is none.
        replace: puts it in place of the one with that mark.
        delete: deletes the one with that mark; it may be asked to twice, if an answer is lost.
        is_there: whether it is.
    """
    if not mark:
        return "it gives no versions"
    wrong = mark[:-1] + ("1" if mark[-1] == "0" else "0")
    with ThreadPoolExecutor(3) as pool:
        refused = {
            "it creates what is there": pool.submit(_is_refused, create),
            "it replaces another version": pool.submit(_is_refused, lambda: replace(wrong)),
            "it deletes another version": pool.submit(_is_refused, lambda: delete(wrong)),
        }
        ignored = [what for what, answer in refused.items() if not answer.result()]
    if _is_refused(lambda: delete(mark)) and not ignored and is_there():
        return "it does not delete the version that is there"
    return ", ".join(ignored) or None


def _is_refused(request: Callable[[], object]) -> bool:
    with contextlib.suppress(PreconditionFailedError):
        request()
        return False
    return True
